"""Every name that pages and examples import comes from `dualselect` or from one folder below."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest

import dualselect

ROOT = Path(__file__).parents[1]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted(ROOT.glob("docs/**/*.md"))]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
_IMPORT = re.compile(r"^ *(from (dualselect[\w.]*) import (?:\([^)]*\)|.*))$", re.MULTILINE)


def imported(path: Path) -> list[tuple[str, str]]:
    """Return the modules and names that a file imports from the package."""
    found = []
    for statement, module in _IMPORT.findall(path.read_text(encoding="utf-8")):
        found += [(module, alias.name) for alias in ast.parse(dedent(statement)).body[0].names]
    return found


@pytest.mark.parametrize(
    ("module", "name"), sorted({one for path in (*PAGES, *EXAMPLES) for one in imported(path)}), ids=str
)
def test_what_is_shown_can_be_imported_from_the_top(module, name):
    assert module.count(".") <= 1, f"from {module} import {name}"
    assert hasattr(import_module(module), name)
    if module != "dualselect" and not hasattr(dualselect, name):
        assert name in import_module(module).__all__


def test_imports_are_seen_in_pages(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n    from dualselect import A, B as C\n    from dualselect.data import (\n        D,\n    )\n"
    )
    assert imported(page) == [("dualselect", "A"), ("dualselect", "B"), ("dualselect.data", "D")]
    assert imported(ROOT / "README.md")
    assert imported(ROOT / "CONTRIBUTING.md")


@pytest.mark.parametrize("name", [name for name in dualselect.__all__ if name != "__version__"])
def test_every_public_name_is_there(name):
    found = getattr(dualselect, name)
    assert not isinstance(found, type) or found.__name__ == name
    assert getattr(found, "__doc__", None)


def test_what_type_checkers_see_is_what_there_is():
    tree = ast.parse(Path(dualselect.__file__).read_text(encoding="utf-8"))
    seen = [
        (node.module, alias.name)
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted([*(name for _, name in seen), "__version__"]) == sorted(dualselect.__all__)
    for module, name in seen:
        assert getattr(import_module(module), name) is getattr(dualselect, name)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'DualSelectTrainr'"):
        dualselect.DualSelectTrainr  # noqa: B018


def test_neither_the_package_nor_its_help_page_imports_torch():
    code = (
        "import sys\n"
        "import dualselect\n"
        "from dualselect.cli import main\n"
        "assert main([]) == 0\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
