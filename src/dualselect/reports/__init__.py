"""Reports: a run, a comparison or a diagnostic as one self-contained page; a model card; the diagnostic's figure."""

from dualselect.reports.diagnostic_figure import write_figure
from dualselect.reports.model_card import write_model_card
from dualselect.reports.page import write_report

__all__ = ["write_figure", "write_model_card", "write_report"]
