"""dualselect: fine-tune an aligned language model without losing its safe behaviour."""

__version__ = "0.1.0"
