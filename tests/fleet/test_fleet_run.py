"""`gateway fleet run` gives what each gateway's own replay gives, from whatever the receiver has of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.fleet import job, local, split
from gateway.fleet.job import Input
from gateway.fleet.rules import Rules
from gateway.receiver.event_lines import event_of_line
from gateway.receiver.sinks.choice import sink_of
from gateway.receiver.sinks.sink import Received
from tests.support.commands import Done, gateway
from tests.support.fleets import WINDOWS, fleet_config, received

GATEWAYS = ("north", "süd", "west")


def lines_of(names: Iterable[str] = GATEWAYS, events: int = 600) -> dict[str, list[bytes]]:
    return {name: [*received(name, 7, events, seed)] for seed, name in enumerate(names)}


def shuffled(lines: Iterable[bytes], doubled: float = 0.2) -> list[bytes]:
    chance = random.Random(5)
    known = [*lines]
    every = known + chance.sample(known, int(len(known) * doubled))
    chance.shuffle(every)
    return every


def by_replay(config: Path, name: str, lines: list[bytes]) -> list[str]:
    """What `gateway replay` gives for one gateway, with the gateway's id in front."""
    path = config.with_name("one.ndjson")
    path.write_bytes(b"".join(lines))
    done = gateway("replay", "-c", config, "--gateway", name, "--input", path)
    assert done.returncode == 0, done.stderr
    head = json.dumps({"gateway": name}, ensure_ascii=False, separators=(",", ":"))[:-1]
    return [f"{head},{line[1:]}" for line in done.stdout.splitlines()]


def fleet_run(config: Path, *inputs: Path | str, workers: int = 1, more: Iterable[str] = ()) -> Done:
    output = config.with_name("results.ndjson")
    where = ("--input", *inputs, "--output", output, "--workers", workers)
    return gateway("fleet", "run", "-c", config, *map(str, where), "--json", *more)


def results(config: Path) -> list[str]:
    return config.with_name("results.ndjson").read_text().splitlines()


def write(path: Path, lines: Iterable[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path


@pytest.mark.parametrize("workers", [1, 2])
def test_shuffled_and_doubled_input_gives_what_the_gateways_gave(tmp_path: Path, workers: int) -> None:
    config, known = fleet_config(tmp_path), lines_of()
    every = shuffled(line for lines in known.values() for line in lines)
    inputs = [write(tmp_path / f"{n}.ndjson", every[n::2]) for n in range(2)]
    done = fleet_run(config, *inputs, workers=workers)
    report = json.loads(done.stdout)
    assert (done.returncode, report["complete"], report["events"], report["doubled"]) == (0, True, 1800, 360)
    for name, lines in known.items():
        own = [line for line in results(config) if json.loads(line)["gateway"] == name]
        assert own == by_replay(config, name, lines)
    assert not config.with_name("results.ndjson.work").exists()


def test_streams_of_one_gateway_are_spread_where_no_window_joins_them(tmp_path: Path) -> None:
    config = fleet_config(tmp_path, WINDOWS)
    lines = lines_of(["north"], 2000)["north"]
    assert Rules.load(config).streams_are_independent
    done = fleet_run(config, write(tmp_path / "in.ndjson", shuffled(lines)), workers=2)
    assert done.returncode == 0, done.stdout
    assert sorted(results(config)) == sorted(by_replay(config, "north", lines))


@pytest.mark.parametrize(
    "window",
    [
        {"key": "all"},
        {"watermark": "shared"},
        {"max_keys": 5},
        {"key": "{device}{v}", "watermark": "per_key"},
    ],
    ids=str,
)
def test_windows_that_join_streams_keep_them_in_one_place(tmp_path: Path, window: dict[str, Any]) -> None:
    config = fleet_config(tmp_path, [WINDOWS[0] | window])
    assert not Rules.load(config).streams_are_independent


def test_lines_that_cannot_be_used_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    config, known = fleet_config(tmp_path), lines_of(("north", "west"), 60)
    good = write(tmp_path / "z-good.ndjson", known["north"])
    twice = write(tmp_path / "twice.ndjson", known["north"][10:20])
    cut = write(tmp_path / "cut.ndjson", [*known["west"][:2], known["west"][2][:-40]])
    broken = known["north"][3].replace(b'"payload":', b'"load":')
    other = write(tmp_path / "other.ndjson", [b"\n", b"hello\n", broken, b"\x1f\x8b\x08\0\0", b"\n"])
    done = fleet_run(config, other, good, twice, cut, more=["--gateway", "north"])
    report = json.loads(done.stdout)
    faults = {(Path(f["place"]).name, f["line"]): (f["reason"], f["count"]) for f in report["faults"]}
    not_ours = "not a line that `gateway receive` wrote"
    assert done.returncode == 1 and not report["complete"]
    assert faults == {
        ("twice.ndjson", 1): ("doubled: the event was there before", 10),
        ("cut.ndjson", 1): ("of the gateway west", 2),
        ("cut.ndjson", 3): ("the file ends in the middle of a line", 1),
        ("other.ndjson", 2): (not_ours, 3),
    }
    assert results(config) == by_replay(config, "north", known["north"])


def test_missing_numbers_are_named(tmp_path: Path) -> None:
    config, lines = fleet_config(tmp_path), lines_of(["north"], 100)["north"]
    stored = [event_of_line(line).event for line in lines]
    gone = [n for n, one in enumerate(stored) if one.stream == "sensors/d3" and one.sequence_num in (3, 4)]
    path = write(tmp_path / "in.ndjson", [line for n, line in enumerate(lines) if n not in gone])
    done = fleet_run(config, path)
    report = json.loads(done.stdout)
    assert (done.returncode, report["complete"], report["missing"]) == (1, False, 2)
    assert report["gateways"][0]["holes"] == [["sensors/d3", 3, 4]]
    assert report["until_ms"] == stored[-1].ingest_time_ms
    text = gateway("fleet", "run", "-c", config, "-i", path, "-o", tmp_path / "out").stderr
    assert "north sensors/d3: numbers 3 to 4 are missing" in text
    assert "NOT complete as of" in text


def test_two_gateways_with_one_id_are_noticed(tmp_path: Path) -> None:
    config = fleet_config(tmp_path)
    both = [*received("north", 1, 20, 1), *received("north", 1, 20, 2)]
    done = fleet_run(config, write(tmp_path / "in.ndjson", both))
    reasons = [fault["reason"] for fault in json.loads(done.stdout)["faults"]]
    assert done.returncode == 1
    assert any("of sensors/d0 again, with another id" in reason for reason in reasons), reasons


def test_the_tables_of_a_receiver_are_read(tmp_path: Path) -> None:
    config, lines = fleet_config(tmp_path), lines_of(["north"], 200)["north"]
    place = f"sqlite:///{tmp_path / 'received.db'}"
    with closing(sink_of(place)) as sink:
        sink.open()
        sink.write([Received(*event_of_line(line)) for line in lines])
    done = fleet_run(config, place)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert results(config) == by_replay(config, "north", lines)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_parquet_files_of_a_receiver_are_read_and_one_that_is_cut_is_named(
    tmp_path: Path, workers: int
) -> None:
    pytest.importorskip("pyarrow")
    config, known = fleet_config(tmp_path), lines_of(events=200)
    place = f"parquet:{tmp_path / 'received'}"
    for lines in known.values():  # a file for each
        with closing(sink_of(place)) as sink:
            sink.open()
            sink.write([Received(*event_of_line(line)) for line in lines])
    done = fleet_run(config, place, workers=workers)
    assert done.returncode == 0, (done.stdout, done.stderr)
    expected = {name: by_replay(config, name, lines) for name, lines in known.items()}
    assert sorted(results(config)) == sorted(line for lines in expected.values() for line in lines)
    *_, last = sorted((tmp_path / "received").glob("*/*.parquet"))
    last.write_bytes(last.read_bytes()[:-100])
    done = fleet_run(config, place, workers=workers)
    assert done.returncode == 1, (done.stdout, done.stderr)
    (fault,) = json.loads(done.stdout)["faults"]
    assert fault["place"] == f"parquet:{last}"
    assert "cannot be read" in fault["reason"]
    assert sorted(results(config)) == sorted(expected["north"] + expected["süd"])


def test_a_folder_without_parquet_files_is_refused(tmp_path: Path) -> None:
    done = fleet_run(fleet_config(tmp_path), f"parquet:{tmp_path}")
    assert (done.returncode, "there are no Parquet files" in done.stderr) == (2, True)


def test_small_chunks_and_many_runs_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "CHUNK_BYTES", 5_000)
    monkeypatch.setattr(split, "MOST_OPEN", 3)
    config, known = fleet_config(tmp_path), lines_of(events=200)
    every = shuffled(line for lines in known.values() for line in lines)
    done = fleet_run(config, write(tmp_path / "in.ndjson", every))
    assert done.returncode == 0, done.stdout
    expected = [line for name, lines in known.items() for line in by_replay(config, name, lines)]
    assert sorted(results(config)) == sorted(expected)


class InterruptionError(Exception):
    """Raised in the middle of a run."""


def interrupt_after(parts: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == parts:
            raise InterruptionError

    return progress


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "CHUNK_BYTES", 50_000)
    config, known = fleet_config(tmp_path), lines_of()
    path = write(tmp_path / "in.ndjson", shuffled(line for lines in known.values() for line in lines))
    task = local.Task(config, (Input(str(path)),), tmp_path / "work")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    local.run(task._replace(folder=tmp_path / "other"), whole, 1, lambda _done, _total: None)
    for stop in (2, 4, 6):
        with pytest.raises(InterruptionError):
            local.run(task, parts, 1, interrupt_after(stop))
        assert len([*(tmp_path / "work" / "reports").iterdir()]) == stop
    steps: list[int] = []
    report = local.run(task, parts, 1, lambda done, _total: steps.append(done))
    assert steps[0] == 6 and report.complete
    assert parts.read_bytes() == whole.read_bytes()


def test_another_configuration_starts_anew(tmp_path: Path) -> None:
    config, lines = fleet_config(tmp_path), lines_of(["north"], 50)["north"]
    path = write(tmp_path / "in.ndjson", lines)
    task = local.Task(config, (Input(str(path)),), tmp_path / "work")
    with pytest.raises(InterruptionError):
        local.run(task, tmp_path / "out", 1, interrupt_after(1))
    fleet_config(tmp_path, WINDOWS[:1])
    steps: list[int] = []
    local.run(task, tmp_path / "out", 1, lambda done, _total: steps.append(done))
    assert steps[0] == 0


def test_a_folder_with_other_things_is_not_emptied(tmp_path: Path) -> None:
    config = fleet_config(tmp_path)
    path = write(tmp_path / "in.ndjson", lines_of(["north"], 5)["north"])
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "photo.jpg").touch()
    done = fleet_run(config, path, more=["--work", str(tmp_path / "work")])
    assert done.returncode == 1 and "is not the folder of a run" in done.stderr
    assert (tmp_path / "work" / "photo.jpg").exists()


@pytest.mark.skipif(find_spec("apache_beam") is not None, reason="Beam is installed")
def test_an_engine_that_is_not_installed_is_named(tmp_path: Path) -> None:
    config = fleet_config(tmp_path)
    done = fleet_run(config, write(tmp_path / "in.ndjson", []), more=["--runner", "beam"])
    assert done.returncode == 2 and "mqtt-edge-gateway[beam]" in done.stderr


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "CHUNK_BYTES", 500_000)
    config, known = fleet_config(tmp_path), lines_of(events=6000)
    path = write(tmp_path / "in.ndjson", shuffled(line for lines in known.values() for line in lines))
    killed: list[int] = []

    def kill(done: int, _total: int) -> None:
        if done in (2, 5) and len(killed) < 2:
            worker = next(one for one in psutil.Process().children() if "spawn_main" in str(one.cmdline()))
            killed.append(worker.pid)
            worker.kill()

    task = local.Task(config, (Input(str(path)),), tmp_path / "work")
    report = local.run(task, tmp_path / "results.ndjson", 2, kill)
    assert len(killed) == 2 and report.complete
    expected = [line for name, lines in known.items() for line in by_replay(config, name, lines)]
    assert sorted(results(config)) == sorted(expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_windows_with_holes_are_marked_and_healed_by_what_comes_later(tmp_path: Path, workers: int) -> None:
    config = fleet_config(tmp_path, WINDOWS)
    lines = lines_of(["north"], 1500)["north"]
    lost = [*range(300, 310), 700, 1100]
    path = write(tmp_path / "in.ndjson", [line for at, line in enumerate(lines) if at not in lost])
    done = fleet_run(config, path, workers=workers)
    found = {identity(one): one for one in map(json.loads, results(config))}
    whole = {identity(one): one for one in map(json.loads, by_replay(config, "north", lines))}
    assert json.loads(done.stdout)["complete"] is False
    marked = {at for at, one in found.items() if one.pop("missing", None)}
    differing = {at for at in found if found[at] != whole.get(at)}
    assert 0 < len(marked) < len(found) / 2
    assert {at for at in differing if at[4] != "dropped"} <= marked
    write(path, [path.read_bytes(), *(lines[at] for at in lost)])
    done = fleet_run(config, path, workers=workers)
    assert json.loads(done.stdout)["complete"] is True
    assert sorted(results(config)) == sorted(by_replay(config, "north", lines))


def identity(result: Any) -> tuple[object, ...]:
    names = ("window", "key", "start_ms", "end_ms", "kind", "revision", "event_time_ms")
    return tuple(result.get(name) for name in names)
