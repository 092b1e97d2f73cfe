"""Reports: a run or a comparison as one self-contained page, and as a model card."""

from dualselect.reports.model_card import write_model_card
from dualselect.reports.page import write_report

__all__ = ["write_model_card", "write_report"]
