"""A run, a comparison or a diagnostic as one self-contained HTML file: styles, plots, data and script."""

import base64
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dualselect import __version__
from dualselect.errors import DataError
from dualselect.files import replacing
from dualselect.reports.formats import typeset
from dualselect.reports.sections import Section, Subject, diagnostic, diagnostic_overview, sections_of, subject_of
from dualselect.reports.sections.overview import lede_of, tags_of
from dualselect.runs.diagnostic_folder import DiagnosticFolder, is_diagnostic_folder, read_diagnostic
from dualselect.runs.folder import read_folder
from dualselect.runs.labels import KINDS
from dualselect.statistics.formats import p_text

FILE = "report.html"


def write_report(folder: Path, output: Path | None = None, texts: bool = True) -> Path:
    """Write the report of a run, a comparison or a diagnostic and return its path.

    Args:
        folder: Folder of the run, the comparison or the diagnostic.
        output: File to write; None for `report.html` in the folder.
        texts: Whether the page contains prompts and answers; without them it can be shared where the data cannot.

    Raises:
        DataError: There is no such folder, or it contains nothing of the kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; give the output_dir of `dualselect train` or `dualselect compare`")
    if is_diagnostic_folder(folder):
        page = render_diagnostic(read_diagnostic(folder))
    else:
        page = render(subject_of(read_folder(folder), texts=texts))
    path = folder / FILE if output is None else Path(output)
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path


def render(subject: Subject) -> str:
    """Return the page of a run or a comparison as HTML."""
    folder = subject.folder
    names = {"folder": folder, "is_comparison": folder.is_comparison, "series": subject.series, "lead": folder.lead}
    alone = "Comparison of methods" if folder.is_comparison else "Fine-tuning run"
    kind = "Stream of tasks" if folder.stream else alone
    return _page(kind, folder.path, lede_of(subject), tags_of(folder), sections_of(subject), names)


def render_diagnostic(content: DiagnosticFolder) -> str:
    """Return the page of a diagnostic as HTML."""
    sections = [diagnostic.section(content), diagnostic_overview.settings(content)]
    lede, tags = diagnostic_overview.lede(content), diagnostic_overview.tags(content)
    return _page("Diagnostic", content.path, lede, tags, sections)


def _page(
    kind: str,
    path: Path,
    lede: str,
    tags: Sequence[str],
    sections: Sequence[Section],
    names: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Return a page; `names` are those that the templates of its sections share."""
    templates = environment()
    templates.globals |= names
    style, script = resource("style.css"), resource("report.js")
    return templates.get_template("page.html.j2").render(
        kind=kind,
        title=path.resolve().name,
        lede=lede,
        tags=tags,
        sections=[(section, _html(section, templates)) for section in sections],
        data=next((section.data for section in sections if section.data is not None), {}),
        style=Markup(style),
        script=Markup(script),
        style_hash=policy_hash(style),
        script_hash=policy_hash(script),
        version=__version__,
    )


def _html(section: Section, templates: Environment) -> Markup:
    return Markup(templates.get_template(f"sections/{section.anchor}.html.j2").render(section.content))


def environment() -> Environment:
    """Return the environment of all templates, which escapes whatever is not marked as HTML."""
    templates = Environment(
        loader=PackageLoader("dualselect.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"kinds": KINDS, "heat": _heat, "typeset": typeset, "p_text": p_text}
    return templates


def resource(name: str) -> str:
    """Return a file that pages contain, such as the style sheet."""
    return files("dualselect.reports").joinpath("templates", name).read_text(encoding="utf-8")


def policy_hash(text: str) -> str:
    """Return the hash by which the page's policy allows this one style or script."""
    return base64.b64encode(sha256(text.encode()).digest()).decode()


def _heat(share: float) -> int:
    """Return the step, 0 to 10, of a share's colour; any share above zero has at least 1."""
    return 0 if share <= 0 else max(1, min(10, round(10 * share)))
