"""Packages import each other only downwards, in the order of the table in docs/architecture.md."""

from __future__ import annotations

import ast
import re
import sys
from itertools import chain

from tests.support.places import DOCS
from tests.support.structure import Module, cycle, module_graph, modules, package_graph, places_by_class

# What would let logic see the world by itself instead of being told.
WORLD = {
    *("asyncio", "multiprocessing", "os", "pathlib", "queue", "select", "selectors", "shutil", "signal"),
    *("socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "urllib", "http"),
    *("amqtt", "apsw", "paho", "peewee", "psutil"),
}
CLOCK_READS = {"now", "utcnow", "today"}
LOGIC = ("decode", "delivery", "flow", "timekeeping", "windows", "wire")


def layers() -> list[str]:
    """The packages from the bottom up, out of the table in the docs."""
    rows = re.findall(r"^\| `(\w+)/` \|", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    assert len(rows) > 10, "docs/architecture.md has no table of the packages"
    return rows[::-1]


ORDER = layers()


def is_logic(module: Module) -> bool:
    return module.package in LOGIC and not module.name.startswith("timekeeping.sources")


def foreign(module: Module) -> set[str]:
    return {one.target for one in module.imports if not one.ours}


def users(*packages: str) -> set[str]:
    """The packages whose modules import one of `packages`."""
    return {module.package for module in modules().values() if foreign(module) & {*packages}}


def test_every_package_has_its_place_in_the_table() -> None:
    assert {*ORDER} == {*package_graph()} - {"__main__", "testing"}
    assert len({*ORDER}) == len(ORDER)


def test_the_root_holds_the_entry_and_the_help_for_tests_only() -> None:
    assert {module.name for module in modules().values() if "." not in module.name} - {*ORDER} == {
        "__main__",
        "testing",
    }


def test_a_package_imports_only_those_below_it() -> None:
    height = {package: at for at, package in enumerate(ORDER)}
    wrong = [
        f"{module.name}:{one.line} imports {one.target}"
        for module in modules().values()
        if module.package in height
        for one in module.imports
        if one.ours and height.get(one.target.partition(".")[0], 0) > height[module.package]
    ]
    assert wrong == []


def test_there_are_no_import_cycles() -> None:
    assert cycle(package_graph()) == []
    assert cycle(module_graph()) == []


def test_no_two_public_classes_share_a_name() -> None:
    assert {name: places for name, places in places_by_class().items() if len(places) > 1} == {}


def test_no_import_is_relative() -> None:
    assert [m.name for m in modules().values() if "relative" in foreign(m)] == []


def test_logic_is_told_and_does_not_look() -> None:
    wrong = []
    for module in filter(is_logic, modules().values()):
        wrong += [f"{module.name} imports {name}" for name in foreign(module) & WORLD]
        wrong += [
            f"{module.name}:{node.lineno} looks for itself"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call)
            and (
                (isinstance(node.func, ast.Name) and node.func.id == "open")
                or (isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_READS)
            )
        ]
    assert wrong == []


def test_only_the_mqtt_package_knows_the_mqtt_libraries() -> None:
    assert users("paho", "amqtt") == {"mqtt"}


def test_only_the_buffer_and_what_opens_it_know_the_database() -> None:
    assert users("peewee", "playhouse", "apsw") <= {"buffer", "receiver", "app", "cli"}
    every = chain.from_iterable(foreign(module) for module in modules().values())
    assert "sqlite3" not in {*every}, "it has another SQLite than apsw"


def test_events_topics_and_errors_need_the_standard_library_only() -> None:
    for name in ("core.events", "core.topics", "core.errors", "core.clock", "core.units", "core.identifiers"):
        assert foreign(modules()[name]) - {*sys.stdlib_module_names} == set()
