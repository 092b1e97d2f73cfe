"""What README, guide, CONTRIBUTING and the examples say is there is there: links, commands, settings, methods."""

import re
import shutil
from contextlib import redirect_stdout, suppress
from dataclasses import fields
from functools import cache
from inspect import signature
from io import StringIO
from itertools import takewhile
from pathlib import Path

import pytest
import torch
import yaml

from dualselect import methods
from dualselect.cli import main
from dualselect.experiments.arguments import DataArguments, ModelArguments
from dualselect.experiments.settings import parse_settings
from dualselect.methods import Method, Scores
from dualselect.models import DEFAULT_MODEL
from dualselect.models.default_model import default_model_folder
from dualselect.runs.selection_log import REFERENCE_SCHEMA, TASK_SCHEMA, SelectionLog
from dualselect.training import DualSelectConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))
USER_PAGES = [ROOT / "README.md", ROOT / "docs/guide.md", *sorted((ROOT / "docs/methods").glob("*.md"))]
OF_OTHER_COMMANDS = ("compare.yaml", "diagnose.yaml", "continual.yaml")
RUNS = [path for path in sorted((ROOT / "examples").glob("*.yaml")) if path.name not in OF_OTHER_COMMANDS]


def name_of(value):
    return value.relative_to(ROOT).as_posix() if isinstance(value, Path) else None


def anchors(page):
    """Return the anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text().replace("\n", " ")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


# Commands.


def commands(page):
    """Return the `dualselect` command lines in the indented blocks of a page, as lists of words."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ {4,}(?:accelerate launch .*?-m )?dualselect (\w+ .*|\w+)$", text, re.MULTILINE)
    return [list(takewhile(lambda word: word != "#", line.split())) for line in lines]


@cache
def flags_of(command, method):
    """Return the flags of a command, as its help page shows them."""
    shown = "--help-all" if command in ("train", "check") else "--help"
    chosen = ["--method", method] if command in ("train", "check", "repair") else []
    page = StringIO()
    with redirect_stdout(page), suppress(SystemExit):
        main([command, *chosen, shown])
    return {"--help-all", *re.findall(r"--[a-z][\w-]*", page.getvalue())}


@pytest.mark.parametrize("page", [page for page in USER_PAGES if commands(page)], ids=name_of)
def test_commands_have_the_flags_that_they_are_shown_with(page):
    for command, *words in commands(page):
        given = {word.split("=")[0] for word in words if word.startswith("--")}
        method = words[words.index("--method") + 1] if "--method" in words else "dualselect"
        known = flags_of(command, method)
        if command in ("compare", "score", "guard"):  # they take what train takes, too
            known = known | flags_of("train", method)
        assert given <= known, f"{page.name}: dualselect {command} {' '.join(words)}"


# The first lines of Python.


def test_the_first_example_runs_as_it_is_shown(tiny_model_dir, tmp_path, monkeypatch):
    block = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL).group(1)
    assert len([line for line in block.splitlines() if line]) <= 10
    assert block.count(f'"{DEFAULT_MODEL}"') == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALSELECT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model_dir, default_model_folder())
    exec(block, {"__name__": "first"})
    tasks, references = SelectionLog.read(tmp_path / "runs/first")
    steps = tasks["step"].to_pylist()
    assert len(set(steps)) == 20
    assert len(steps) == 160
    kept = tasks["kept"].to_pylist()
    assert not all(kept), "the example shows no selection"
    assert any(references["kept"].to_pylist())
    assert main(["report", "runs/first"]) == 0
    assert "runs/first" in (tmp_path / "runs/first/report.html").read_text()


# Settings.


def settings():
    """Return every setting of any run, by name, as each of its owners has it."""
    found = {}
    for owner in (DualSelectConfig, ModelArguments, DataArguments, *methods.available().values()):
        for option in fields(owner):
            found.setdefault(option.name, []).append(option)
    return found


def is_known(name):
    """Whether a name with an underscore is a setting, or a word of the source: a metric, column, field or function."""
    return name in settings() or any(re.search(rf"\b{name}\b", text) for text in SOURCE)


SOURCE = [path.read_text() for path in sorted((ROOT / "src").rglob("*.py"))]


@pytest.mark.parametrize("page", USER_PAGES[:2], ids=name_of)
def test_names_in_the_text_exist(page):
    code = re.findall(r"`([^`\n]+)`", page.read_text())
    names = {name for name in code if re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", name)}
    assert [name for name in sorted(names) if not is_known(name)] == []


@pytest.mark.parametrize("page", USER_PAGES[:2], ids=name_of)
def test_settings_with_a_value_take_it(page):
    known = settings()
    for name, value in re.findall(r"`([a-z_]+): ([\w-]+)`", page.read_text()):
        assert name in known, name
        choices = [option.metadata.get("choices") or [value] for option in known[name]]
        assert any(value in some for some in choices), f"{name}: {value}"


def test_what_does_not_exist_would_be_seen():
    assert ["evaluate", "--model", "runs/x", "--suite", "safety", "--gate", "gate.yaml"] in commands(ROOT / "README.md")
    assert not {"--rho", "--rhho"} <= flags_of("train", "dualselect")
    assert is_known("window_memory")
    assert is_known("kept_tokens")
    assert not is_known("window_memorie")
    assert not is_known("kept_token")


def table(page, heading):
    """Return the rows of the table that begins with `heading`, as lists of cells without backticks and links."""
    lines = page.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(heading))
    rows = takewhile(lambda line: line.startswith("|"), lines[first + 2 :])
    plain = [re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", row).replace("`", "") for row in rows]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in plain]


def test_the_guide_lists_the_columns_of_the_selection_log():
    rows = table(ROOT / "docs/guide.md", "| column |")
    named = {name.strip() for row in rows for name in row[0].split(",")}
    assert named == {*TASK_SCHEMA.names, *REFERENCE_SCHEMA.names}


# Methods.


@pytest.mark.parametrize(("page", "heading"), [("README.md", "| `--method` |"), ("docs/guide.md", "| method |")])
def test_tables_of_methods_are_true(page, heading):
    rows = {row[0]: row for row in table(ROOT / page, heading)}
    assert rows.keys() == methods.available().keys()
    for name, (_, acts, needs, _) in rows.items():
        method = methods.get(name)
        assert acts.startswith(method.stage), name
        assert needs == ", ".join(method.pools), name


def test_contributing_lists_the_moments_of_a_method():
    for moment, *_ in table(ROOT / "CONTRIBUTING.md", "| moment |"):
        name, arguments = re.fullmatch(r"(\w+)\((.*)\)", moment).groups()
        assert list(signature(getattr(Method, name)).parameters) == ["self", *arguments.split(", ")], moment


def test_the_method_in_contributing_keeps_what_it_says():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    block = re.search(r"^ {4}# src/dualselect/methods/uncertain.py.*?\n(?=\S)", text, re.MULTILINE | re.DOTALL)
    scope = {"__name__": "uncertain"}
    exec(re.sub(r"^ {4}", "", block.group(), flags=re.MULTILINE), scope)
    loss = torch.tensor([0.5, 3.0, 1.0, 2.0])
    scores = Scores(torch.arange(4), loss, torch.ones(4).long(), torch.ones(4), {})
    chosen = scope["Uncertain"](keep=2).weights(scores, run=None)
    assert chosen.weights.tolist() == [0.0, 1.0, 0.0, 1.0]


# Examples.


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_examples_are_settings_with_data_that_is_there(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    parsed = parse_settings(["--config", name_of(path)])
    assert parsed.method.name == yaml.safe_load(path.read_text())["method"]
    sources = [parsed.data.task, parsed.data.references, *parsed.data.pool_sources.values()]
    for source in [*sources, *parsed.data.evaluation_sources.values()]:
        assert source is None or not source.startswith("examples/") or Path(source).is_file(), source


def test_the_guide_names_every_example():
    text = "".join(page.read_text() for page in (ROOT / "README.md", ROOT / "docs/guide.md"))
    for path in (ROOT / "examples").glob("*.*"):
        assert path.name in text
