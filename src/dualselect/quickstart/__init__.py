"""A demonstration: alignment, erosion under plain fine-tuning, and DualSelect, on a model of the package index."""
