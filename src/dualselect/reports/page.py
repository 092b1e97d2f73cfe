"""A run or a comparison as one HTML file that holds all it needs: styles, plots, data and script."""

import base64
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from dualselect import __version__
from dualselect.errors import DataError
from dualselect.files import replacing
from dualselect.reports.content import comparison_content, run_content
from dualselect.reports.formats import p_text
from dualselect.reports.glossary import TERMS
from dualselect.reports.measures import KINDS
from dualselect.runs.folder import is_compare_folder, read_comparison, read_run

FILE = "report.html"


def write_report(folder: Path, output: Path | None = None, texts: bool = True) -> Path:
    """Write the report of a run folder or a compare folder and return its path.

    Args:
        folder: of the run or the comparison.
        output: file to write; None for `report.html` in the folder.
        texts: whether the page holds prompts and answers; without them it can be passed on where the data can't.

    Raises:
        DataError: The folder is not there, or holds neither a run nor a comparison.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder; give the output_dir of `dualselect train` or of `dualselect compare`")
    if is_compare_folder(folder):
        content = comparison_content(read_comparison(folder), texts=texts)
    else:
        content = run_content(read_run(folder), texts=texts)
    path = folder / FILE if output is None else Path(output)
    with replacing(path) as draft:
        draft.write_text(render(content | {"place": content["title"]}), encoding="utf-8")
    return path


def render(content: dict[str, Any]) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("dualselect.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _resource("style.css"), _resource("report.js")
    optional = dict.fromkeys(("answers_of", "settings_of", "cells", "seeds", "series", "baseline"))
    return environment.get_template("page.html.j2").render(
        **(optional | content),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        version=__version__,
        kinds=KINDS,
        glossary=TERMS,
        heat=_heat,
        minus=lambda text: text.replace("-", "\u2212"),
        p_text=p_text,
    )


def _resource(name: str) -> str:
    return files("dualselect.reports").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash by which the page's policy lets this one style or script pass."""
    return base64.b64encode(sha256(text.encode()).digest()).decode()


def _heat(share: float) -> int:
    """Return the step, 0 to 10, of a share's colour; whatever is above zero has one."""
    return 0 if share <= 0 else max(1, min(10, round(10 * share)))
