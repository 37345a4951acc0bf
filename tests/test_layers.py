"""The rooms import each other only downwards, as the table in docs/architecture.md says."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("vocabulary", "logic", "storage", "edges", "assembly")
# What would let logic see the world by itself instead of being told.
WORLD = {
    *("asyncio", "multiprocessing", "os", "pathlib", "queue", "select", "selectors", "shutil", "signal"),
    *("socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "urllib", "http"),
    *("amqtt", "apsw", "paho", "peewee", "psutil"),
}
CLOCK_READS = {"now", "utcnow", "today"}


def modules() -> dict[str, Path]:
    """Every module of the package by its name without `gateway.`."""
    found = {}
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        parts = path.relative_to(ROOT / "gateway").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name not in ("", "__main__"):
            found[name] = path
    return found


MODULES = modules()


def rooms() -> dict[str, str]:
    """Layer by room, out of the table in the docs."""
    table = (ROOT / "docs" / "architecture.md").read_text()
    found = {}
    for layer in LAYERS:
        row = re.search(rf"^\| {layer} \| `([^`]+)`", table, re.MULTILINE)
        assert row, f"docs/architecture.md has no row for {layer}"
        for room in row[1].split():
            found[room.rstrip("/").replace("/", ".")] = layer
    return found


ROOMS = rooms()


def layer_of(module: str) -> str:
    while module not in ROOMS and "." in module:
        module = module.rpartition(".")[0]
    assert module in ROOMS, f"docs/architecture.md does not say to which layer {module} belongs"
    return ROOMS[module]


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def walk(node: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    """All nodes that run, without imports that only a type checker makes."""
    for child in ast.iter_child_nodes(node):
        if is_for_types(child):
            continue
        yield child
        if into_functions or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from walk(child, into_functions=into_functions)


def imports(module: str, *, into_functions: bool = True) -> set[str]:
    """What a module imports: ours without `gateway.`, and with a star in front what is foreign."""
    found = set()
    for node in walk(ast.parse(MODULES[module].read_text()), into_functions=into_functions):
        if isinstance(node, ast.Import):
            found |= {resolve(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            found |= {resolve(node.module or "", alias.name) for alias in node.names}
    return found - {""}


def resolve(source: str, name: str) -> str:
    root, _, inner = source.partition(".")
    if root != "gateway":
        return f"*{root}"
    inside = ".".join(part for part in (inner, name) if part)
    return inside if inside in MODULES else inner


def test_the_table_names_rooms_that_exist_and_every_room_stands_in_it() -> None:
    assert {room for room in ROOMS if room not in MODULES} == set()
    assert {layer_of(module) for module in MODULES} == {*LAYERS}


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_none_that_is_higher(module: str) -> None:
    own = LAYERS.index(layer_of(module))
    higher = {name for name in imports(module) if name[0] != "*" and LAYERS.index(layer_of(name)) > own}
    assert higher == set()


@pytest.mark.parametrize("module", [module for module in MODULES if layer_of(module) == "logic"])
def test_logic_is_told_and_does_not_look(module: str) -> None:
    assert {name[1:] for name in imports(module) if name[0] == "*"} & WORLD == set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call):
            called = node.func
            assert not (isinstance(called, ast.Name) and called.id == "open"), f"line {node.lineno}"
            assert not (isinstance(called, ast.Attribute) and called.attr in CLOCK_READS), (
                f"line {node.lineno}"
            )


@pytest.mark.parametrize("module", [module for module in MODULES if layer_of(module) == "vocabulary"])
def test_the_vocabulary_needs_the_standard_library_only(module: str) -> None:
    foreign = {name[1:] for name in imports(module) if name[0] == "*"}
    assert foreign - {*sys.stdlib_module_names} == set()


def test_only_the_mqtt_room_knows_the_mqtt_libraries() -> None:
    users = {module for module in MODULES if {"*paho", "*amqtt"} & imports(module)}
    assert users
    assert {module.partition(".")[0] for module in users} == {"mqtt"}


def test_only_the_buffer_and_what_opens_it_know_the_database() -> None:
    users = {module for module in MODULES if {"*peewee", "*playhouse", "*apsw", "*sqlite3"} & imports(module)}
    assert {module.partition(".")[0] for module in users} <= {"buffer", "sinks", "app", "cli"}
    assert "*sqlite3" not in set().union(*map(imports, MODULES)), "it has another SQLite than apsw"


def test_there_are_no_import_cycles() -> None:
    graph = {
        module: {name for name in imports(module, into_functions=False) if name[0] != "*"} - {module}
        for module in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(" → ".join(cycle.args[1]))
