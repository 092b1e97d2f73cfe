"""Packages import downwards only, in the order of CONTRIBUTING.md, and no modules import each other in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FLOORS = (
    {"cli", "quickstart"},
    {"diagnostics", "continual"},
    {"experiments"},
    {"reports"},
    {"training", "evaluation"},
    {"settings"},
    {"methods"},
    {"selection", "runs"},
    {"gradients", "data", "models", "statistics"},
    {"distributed", "devices", "registry", "options", "errors", "files", "lazy"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
SIDEWAYS = {
    ("cli", "quickstart"),
    ("models", "data"),
    ("registry", "errors"),
    ("files", "errors"),
    ("distributed", "errors"),
}
FACE = {"dualselect", "dualselect.__main__"}  # what users import and run; it may name everything


def name_of(path: Path, source: Path) -> str:
    """Return the name of the module in a file."""
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, is_package: bool, known: set[str], *, in_functions: bool) -> Iterator[str]:
    """Yield the modules that a tree imports; `from package import module` counts as the module.

    Args:
        tree: Parsed source.
        module: Name of its module.
        is_package: Whether the module is the `__init__` of a package.
        known: Names of all modules.
        in_functions: Whether imports inside functions count too.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")
            above = above[: len(above) - node.level + is_package] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from [name for name in (f"{origin}.{alias.name}", origin) if name in known][:1]
        elif in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, module, is_package, known, in_functions=in_functions)


def graph(source: Path, *, in_functions: bool) -> dict[str, set[str]]:
    """Return for every module below `source` the modules there that it imports."""
    files = {name_of(path, source): path for path in sorted(source.rglob("*.py"))}
    return {
        name: set(
            imports(ast.parse(path.read_text()), name, path.stem == "__init__", set(files), in_functions=in_functions)
        )
        for name, path in files.items()
    }


def room(module: str) -> str:
    """Return the folder, or file, directly below `dualselect` that contains a module."""
    return module.split(".")[1]


def upward(modules: dict[str, set[str]]) -> list[str]:
    """Return the imports that lead up, or sideways where no arrow does."""
    return [
        f"{module} imports {imported}"
        for module, found in modules.items()
        if module not in FACE
        for imported in sorted(found - FACE)
        if room(module) != room(imported)
        and (room(module), room(imported)) not in SIDEWAYS
        and FLOOR[room(imported)] <= FLOOR[room(module)]
    ]


def circle(modules: dict[str, set[str]]) -> list[str]:
    """Return the modules of one circle of imports, the first one again at the end; empty where there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for imported in sorted(modules[module]):
                if found := walk(imported, [*path, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in modules if (found := walk(module, []))), [])


def test_every_package_has_a_floor():
    rooms = {room(module) for module in graph(SOURCE, in_functions=False) if module not in FACE}
    assert rooms == set(FLOOR)


def test_imports_lead_down():
    assert upward(graph(SOURCE, in_functions=True)) == []


def test_no_modules_import_each_other_in_a_circle():
    found = graph(SOURCE, in_functions=False)
    assert circle({name: imported - FACE for name, imported in found.items() if name not in FACE}) == []


def test_only_the_commands_import_the_quickstart():
    found = graph(SOURCE, in_functions=True)
    users = {
        room(name) for name, imported in found.items() if any(room(one) == "quickstart" for one in imported - FACE)
    }
    assert users == {"cli", "quickstart"}


# The checks themselves.


@pytest.fixture
def source(tmp_path):
    """Return a function that writes modules by name and returns their folder."""

    def write(**modules: str) -> Path:
        for name, text in modules.items():
            path = tmp_path / "dualselect" / name.replace("__", "/", 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".py").write_text(text)
        (tmp_path / "dualselect/__init__.py").touch()
        return tmp_path

    return write


def test_an_import_upwards_is_seen_inside_a_function_too(source):
    folder = source(
        data__a="def f():\n    from dualselect.methods import b\n", methods__b="from dualselect.data import a\n"
    )
    assert upward(graph(folder, in_functions=True)) == ["dualselect.data.a imports dualselect.methods.b"]
    assert upward(graph(folder, in_functions=False)) == []


def test_an_import_sideways_is_seen_unless_an_arrow_leads_there(source):
    folder = source(
        data__a="import dualselect.statistics.c\n", models__b="from dualselect.data import a\n", statistics__c=""
    )
    assert upward(graph(folder, in_functions=True)) == ["dualselect.data.a imports dualselect.statistics.c"]


def test_a_circle_is_seen_also_for_types_only_and_by_relative_names(source):
    folder = source(
        data__a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dualselect.data.b import B\n",
        data__b="from . import c\n",
        data__c="from .a import A\n",
    )
    names = [f"dualselect.data.{name}" for name in "abca"]
    assert circle(graph(folder, in_functions=False)) == names


def test_an_import_inside_a_function_closes_no_circle(source):
    folder = source(data__a="from .b import B\n", data__b="def f():\n    from .a import A\n")
    assert circle(graph(folder, in_functions=False)) == []
    assert circle(graph(folder, in_functions=True)) != []
