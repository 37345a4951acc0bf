"""Finding plugins, checking their contract, and the commands around them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.plugin import app
from gateway.core.errors import PluginError
from gateway.pipeline.plugins_loader import find_plugins, load_file, load_plugins
from gateway.testing import ManualClock, check_plugin, reading, result_of, set_up
from gateway.windows.spec import WindowSpec


class Sum:
    """Keeps the contract."""

    def create_accumulator(self) -> Any:
        return [0.0]

    def add_input(self, acc: Any, reading: Any) -> Any:
        acc[0] += reading.value
        return acc

    def merge_accumulators(self, accumulators: Sequence[Any]) -> Any:
        return [sum(acc[0] for acc in accumulators)]

    def extract_output(self, acc: Any) -> Any:
        return acc[0]


class NoMerge(Sum):
    merge_accumulators = None  # type: ignore[assignment]


class MergeLoses(Sum):
    def merge_accumulators(self, accumulators: Sequence[Any]) -> Any:
        return list(accumulators[0])


class MergeMutates(Sum):
    def merge_accumulators(self, accumulators: Sequence[Any]) -> Any:
        for acc in accumulators[1:]:
            accumulators[0][0] += acc[0]
        return accumulators[0]


class ExtractMutates(Sum):
    def extract_output(self, acc: Any) -> Any:
        acc[0] += 1
        return acc[0]


class NoJson(Sum):
    def create_accumulator(self) -> Any:
        return [{1.0}]


class Infinite(Sum):
    def create_accumulator(self) -> Any:
        return [0.0, float("inf")]


class MutatesReading(Sum):
    def add_input(self, acc: Any, reading: Any) -> Any:
        reading.fields["seen"] = True
        return super().add_input(acc, reading)


class Raises(Sum):
    def add_input(self, acc: Any, reading: Any) -> Any:
        raise KeyError("lat")


class BadReport(Sum):
    def report(self, carry: Any, output: Any) -> Any:
        return {1, 2}, output


def test_a_plugin_that_keeps_the_contract_passes() -> None:
    check_plugin(Sum())


@pytest.mark.parametrize(
    ("plugin", "complaint"),
    [
        (NoMerge(), "has no merge_accumulators"),
        (MergeLoses(), "merging gives"),
        (MergeMutates(), "merge_accumulators changes what it is given"),
        (ExtractMutates(), "extract_output changes what it is given"),
        (NoJson(), "does not survive JSON"),
        (Infinite(), "does not survive JSON"),
        (MutatesReading(), "changes the reading"),
        (Raises(), "KeyError"),
        (BadReport(), "what report carries on"),
    ],
)
def test_a_broken_contract_is_named(plugin: object, complaint: str) -> None:
    with pytest.raises(PluginError, match=complaint) as error:
        check_plugin(plugin, "mine")
    assert "mine" in str(error.value)
    assert error.value.hint


# --- files ---

GOOD = '''"""Adds up.

More."""
class Plugin:
    def setup(self, options):
        self.factor = options["factor"]
    def create_accumulator(self):
        return 0.0
    def add_input(self, acc, reading):
        return acc + self.factor * reading.value
    def merge_accumulators(self, accumulators):
        return sum(accumulators)
    def extract_output(self, acc):
        return acc
'''


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


def test_windows_set_the_same_plugin_up_differently(tmp_path: Path) -> None:
    write(tmp_path, "scaled", GOOD)
    specs = [WindowSpec(f"w{n}", "tumbling", "scaled", {"factor": n}, size_ms=1) for n in (2, 3)]
    loaded = load_plugins(specs, tmp_path)
    results = [result_of(loaded.plugins[name], [reading(10.0)]) for name in ("w2", "w3")]
    assert results == [20.0, 30.0]


def test_the_fingerprint_of_a_plugin_changes_with_its_code(tmp_path: Path) -> None:
    spec = WindowSpec("w", "tumbling", "scaled", {"factor": 1}, size_ms=1)
    write(tmp_path, "scaled", GOOD)
    before = load_plugins([spec], tmp_path).fingerprints
    assert load_plugins([spec], tmp_path).fingerprints == before
    write(tmp_path, "scaled", GOOD + "# changed")
    assert load_plugins([spec], tmp_path).fingerprints != before


def test_a_plugin_of_ones_own_hides_a_shipped_one(tmp_path: Path) -> None:
    path = write(tmp_path, "stats", GOOD)
    found = find_plugins(tmp_path)["stats"]
    assert (found.origin, found.summary) == (str(path), "Adds up.")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("class Plugin:\n  def broken(:", r"bad\.py, line 2: SyntaxError"),
        ("\n\nimport no_such_package_at_all", r"bad\.py, line 3: ModuleNotFoundError"),
        ("x = 1", r"bad\.py has no class Plugin"),
        ("class Plugin:\n  def __init__(self, x): pass", r"Plugin\(\) failed"),
        ("class Plugin: pass", r"bad\.py.* has no create_accumulator"),
    ],
)
def test_a_file_that_is_no_plugin_is_named_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    write(tmp_path, "bad", text)
    with pytest.raises(PluginError, match=complaint) as error:
        load_plugins([WindowSpec("w", "tumbling", "bad", size_ms=1)], tmp_path)
    assert error.value.hint


def test_options_that_a_plugin_refuses_are_reported_with_the_window(tmp_path: Path) -> None:
    write(tmp_path, "scaled", GOOD)
    with pytest.raises(PluginError, match=r"window 'w', plugin 'scaled'.*factor"):
        load_plugins([WindowSpec("w", "tumbling", "scaled", size_ms=1)], tmp_path)
    with pytest.raises(PluginError, match="takes no options"):
        load_plugins([WindowSpec("w", "tumbling", "delta", {"x": 1}, size_ms=1)])


def test_an_unknown_plugin_gets_the_nearest_name() -> None:
    with pytest.raises(PluginError, match="there is no plugin 'stat'") as error:
        load_plugins([WindowSpec("w", "tumbling", "stat", size_ms=1)])
    assert "'stats'" in error.value.hint


def test_a_plugin_that_reports_takes_one_field() -> None:
    spec = WindowSpec("w", "tumbling", "threshold", {"above": 1}, ("a", "b"), size_ms=1)
    with pytest.raises(PluginError, match="takes one field"):
        load_plugins([spec])


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="is no directory"):
        find_plugins(tmp_path / "missing")


def test_a_plugin_may_import_reading_from_where_it_was_once(tmp_path: Path) -> None:
    path = tmp_path / "older.py"
    path.write_text("from gateway.events import Reading\n\n\nclass Plugin:\n    kind = Reading\n")
    assert getattr(load_file(path), "kind") is type(reading(1.0))  # noqa: B009 - an object to mypy


def test_packages_offer_plugins_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mine", f"{__name__}:Sum", "gateway.plugins"),
        EntryPoint("gone", "no_such_package:Plugin", "gateway.plugins"),
    ]
    monkeypatch.setattr("gateway.pipeline.plugins_loader.entry_points", lambda group: points)
    loaded = load_plugins([WindowSpec("w", "tumbling", "mine", size_ms=1)])
    assert isinstance(loaded.plugins["w"], Sum)
    with pytest.raises(PluginError, match="no_such_package"):
        load_plugins([WindowSpec("w", "tumbling", "gone", size_ms=1)])


# --- for authors ---


def test_authors_can_set_up_and_try_a_file(tmp_path: Path) -> None:
    plugin = set_up(write(tmp_path, "scaled", GOOD), {"factor": 2})
    assert result_of(plugin, [reading(1.0), reading(2.0, room="hall")]) == 6.0


def test_a_manual_clock_moves_only_when_told_to() -> None:
    clock = ManualClock(1_000)
    clock.advance(500)
    assert (clock.now_ms(), clock.monotonic_s()) == (1_500, 0.5)
    clock.jump(-1_000)
    assert (clock.now_ms(), clock.monotonic_s()) == (500, 0.5)


# --- commands ---


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in args])


def test_the_list_names_every_plugin_and_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "scaled", GOOD)
    listed = json.loads(run("list", "--json", "-p", tmp_path).stdout)
    assert {"scaled", "stats"} <= {one["name"] for one in listed}
    assert str(path) in run("list", "-p", tmp_path).stdout


def test_a_new_plugin_passes_the_check_as_it_is(tmp_path: Path) -> None:
    assert run("new", "mine", "-p", tmp_path).exit_code == 0
    checked = run("check", tmp_path / "mine.py")
    assert (checked.exit_code, "keeps the contract" in checked.stdout) == (0, True)
    assert check_plugin(load_file(tmp_path / "mine.py"))


def test_a_new_plugin_overwrites_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "mine", GOOD)
    result = run("new", "mine", "-p", tmp_path)
    assert (result.exit_code, path.read_text()) == (1, GOOD)
    assert run("new", "../mine", "-p", tmp_path).exit_code == 2


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    assert json.loads(run("check", "threshold", "-o", "above=30", "--json").stdout)["ok"]
    failed = run("check", "threshold", "-o", "abov=30", "--json")
    assert failed.exit_code == 1
    assert "did you mean above?" in json.loads(failed.stdout)["problem"]
    assert run("check", "stats", "-o", "nonsense").exit_code == 2
    assert run("check", tmp_path / "missing.py").exit_code == 1
