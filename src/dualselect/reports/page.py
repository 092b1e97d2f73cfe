"""A run or a comparison as one HTML file that contains all it needs: styles, plots, data and script."""

import base64
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dualselect import __version__
from dualselect.errors import DataError
from dualselect.files import replacing
from dualselect.reports.formats import typeset
from dualselect.reports.sections import Section, Subject, sections_of, subject_of
from dualselect.reports.sections.overview import lede_of, tags_of
from dualselect.runs.folder import read_folder
from dualselect.runs.labels import KINDS
from dualselect.statistics.formats import p_text

FILE = "report.html"


def write_report(folder: Path, output: Path | None = None, texts: bool = True) -> Path:
    """Write the report of a run folder or a compare folder and return its path.

    Args:
        folder: Folder of the run or the comparison.
        output: File to write; None for `report.html` in the folder.
        texts: Whether the page contains prompts and answers; without them it can be passed on where the data can't.

    Raises:
        DataError: There is no such folder, or it contains neither a run nor a comparison.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; give the output_dir of `dualselect train` or `dualselect compare`")
    page = render(subject_of(read_folder(folder), texts=texts))
    path = folder / FILE if output is None else Path(output)
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path


def render(subject: Subject) -> str:
    """Return the page as HTML."""
    templates = environment()
    templates.globals |= {
        "folder": subject.folder,
        "is_comparison": subject.folder.is_comparison,
        "series": subject.series,
        "lead": subject.folder.lead,
    }
    sections = sections_of(subject)
    style, script = resource("style.css"), resource("report.js")
    return templates.get_template("page.html.j2").render(
        title=subject.folder.path.resolve().name,
        lede=lede_of(subject),
        tags=tags_of(subject.folder),
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
    """Return the hash by which the page's policy lets this one style or script pass."""
    return base64.b64encode(sha256(text.encode()).digest()).decode()


def _heat(share: float) -> int:
    """Return the step, 0 to 10, of a share's colour; whatever is above zero has one."""
    return 0 if share <= 0 else max(1, min(10, round(10 * share)))
