"""The sections of the page in their order: each makes its data, its plots and the context of its template."""

from dualselect.reports.sections import (
    agreement,
    answers,
    curves,
    diagnostic,
    diagnostic_overview,
    frontier,
    glossary,
    measures,
    overview,
    selection,
    settings,
    stream,
)
from dualselect.reports.sections.base import Section, Subject, series_of
from dualselect.reports.sections.measures import measures_of
from dualselect.runs.folder import Folder

__all__ = ["Section", "Subject", "diagnostic", "diagnostic_overview", "sections_of", "subject_of"]

_MAKERS = (
    overview.summary,
    frontier.section,
    overview.plane,
    stream.section,
    measures.section,
    curves.section,
    selection.section,
    agreement.section,
    answers.section,
    settings.section,
    glossary.section,
)


def subject_of(folder: Folder, *, texts: bool = True) -> Subject:
    """Return what the page of a folder is about.

    Args:
        folder: Comparison, or run as a comparison of one method.
        texts: Whether prompts and answers may be shown.
    """
    return Subject(folder, measures_of(folder.rows, folder.names), series_of(folder.names, folder.lead), texts)


def sections_of(subject: Subject) -> list[Section]:
    """Return the sections that have content."""
    return [section for make in _MAKERS if (section := make(subject)) is not None]
