"""A demonstration: alignment, erosion under plain fine-tuning, and DualSelect, on a model from the package index."""
