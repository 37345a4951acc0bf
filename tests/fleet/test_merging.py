"""`gateway receive --merge`: parts of windows become whole ones in the output, each result once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.core.events import Message
from gateway.core.identifiers import EventIds
from gateway.core.own_topics import OwnTopics
from gateway.fleet.job import FleetError
from gateway.fleet.merging import merger_of
from gateway.mqtt.link import Link
from gateway.receiver.event_lines import event_of_line
from gateway.receiver.ledger import MERGED
from gateway.receiver.session import Receiver
from gateway.receiver.sinks.ndjson import EventFile
from gateway.receiver.sinks.sink import Received, resume
from gateway.windows.plugin import alike
from gateway.wire.frame import encode_batch
from tests.conftest import MosquittoFactory
from tests.fleet.test_common_windows import aggregate_lines
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish
from tests.windows.test_merged import PLUGINS, ROLL_UP, newest, parts_of

NOW_MS = 1_790_000_600_000
HOUR_MS = 3_600_000


def roll_up(folder: Path, plugin: str = "stats") -> Path:
    path = folder / "site.yaml"
    text = ROLL_UP % (plugin, "tumbling, size: 1m")
    path.write_text(text.replace("idle_timeout: off", "idle_timeout: 1m"))
    return path


class Crash(Exception):  # noqa: N818 - it is none of ours
    """The end of a receiver, at a place of the test's choice."""


class FragileFile(EventFile):
    """An output before or after whose next writing the receiver ends."""

    crash = ""

    def write(self, events: Sequence[Received]) -> int:
        if self.crash == "before":
            raise Crash
        written = super().write(events)
        if self.crash == "after":
            raise Crash
        return written


class Acks:
    """What a receiver uses of its link."""

    def __init__(self) -> None:
        self.acknowledged = 0

    def ack(self, _: Message) -> None:
        self.acknowledged += 1


class Run:
    """One life of a receiver that merges."""

    def __init__(self, folder: Path, plugin: str = "stats") -> None:
        self.now_ms = NOW_MS
        self.sink = FragileFile(folder / "events.ndjson")
        ledger = resume(self.sink)
        state = folder / "events.ndjson.merged"
        self.merger = merger_of(roll_up(folder, plugin), "gateway", state, lambda: self.now_ms)
        self.receiver = Receiver("gateway", "+", self.sink, ledger, merging=self.merger)
        self.receiver.resume()

    def receive(self, gateway_id: str, received: Sequence[Received], crash: str = "") -> bool:
        """Hand on a frame; True if the receiver has acknowledged it."""
        self.sink.crash = crash
        acks = Acks()
        payload = encode_batch(gateway_id, uuid.UUID(int=1).bytes, [one.event for one in received])
        topic = OwnTopics("gateway", gateway_id).batch(0)
        message = Message(topic, payload, 1, False, False, 1, 1, self.now_ms)
        try:
            self.receiver.received(cast("Link", acks), [message])
        except Crash:
            assert self.receiver.failure is not None
        return acks.acknowledged == 1

    def pass_time(self, ms: int) -> None:
        """Let the windows end."""
        self.now_ms += ms
        self.receiver.work(cast("Link", Acks()))

    def close(self) -> None:
        self.sink.close()
        self.merger.close()


@contextmanager
def run(folder: Path, plugin: str = "stats") -> Iterator[Run]:
    one = Run(folder, plugin)
    try:
        yield one
    finally:
        one.close()


def frames(parts: Sequence[tuple[str, Any]], size: int = 5) -> list[tuple[str, list[Received]]]:
    """The parts of each gateway in frames, in which numbers are dense in each stream."""
    ids, numbers = EventIds(), Counter[str]()
    found: dict[str, list[list[Received]]] = {"a": [[]], "b": [[]]}
    for topic, payload in parts:
        numbers[topic] += 1
        (line,) = aggregate_lines(payload["source"], [(topic, payload)], NOW_MS, ids)
        gateway_id, event, buffer_id = event_of_line(line)
        mine = found[payload["source"]]
        mine[-1].append(Received(gateway_id, event._replace(sequence_num=numbers[topic]), buffer_id))
        if len(mine[-1]) == size:
            mine.append([])
    return [(name, frame) for name, mine in found.items() for frame in mine if frame]


def merged_in(folder: Path) -> list[Any]:
    stored = [json.loads(line) for line in (folder / "events.ndjson").read_text().splitlines()]
    assert len({one["event_id"] for one in stored}) == len(stored), "an event is there twice"
    found = [one for one in stored if one.get("buffer") == MERGED]
    streams: dict[str, list[int]] = {}
    for one in found:
        streams.setdefault(one["stream"], []).append(one["sequence_num"])
    assert all(numbers == [*range(1, len(numbers) + 1)] for numbers in streams.values())
    return [one["payload"] for one in found]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_merged_windows_in_the_output_equal_one_gateways_whenever_the_receiver_dies(
    tmp_path: Path, plugin: str
) -> None:
    parts, whole = parts_of(plugin, seed=3)
    chance = random.Random(8)
    waiting = frames(parts)
    chance.shuffle(waiting)
    crashes = Counter[str]()
    while waiting:
        with run(tmp_path, plugin) as life:
            while waiting:
                crash = chance.choice(["", "", "before", "after"]) if sum(crashes.values()) < 40 else ""
                crashes[crash] += 1
                if not life.receive(*waiting[0], crash):
                    break  # the broker keeps what was not acknowledged
                waiting.pop(0)
            else:
                life.pass_time(1)
                life.pass_time(HOUR_MS)
    found = merged_in(tmp_path)
    series = Counter((one["key"], one["start_ms"], one["revision"]) for one in found)
    assert {*series.values()} == {1}
    last = newest(found)
    assert last.keys() == whole.keys()
    assert [at for at, one in last.items() if not alike(one["result"], whole[at]["result"])] == []
    assert min(crashes["before"], crashes["after"]) > 5


def test_a_part_that_comes_late_makes_a_new_revision_and_the_same_part_none(tmp_path: Path) -> None:
    parts, _ = parts_of("stats", seed=3)
    start_ms = parts[0][1]["start_ms"] + 120_000
    minute = [(topic, one) for topic, one in parts if (one["key"], one["start_ms"]) == ("d1", start_ms)]
    ours = [one for one in minute if one[1]["source"] == "a"]
    theirs = [one for one in minute if one[1]["source"] == "b"]
    assert ours
    assert theirs
    with run(tmp_path) as life:
        for frame in frames(ours):
            assert life.receive(*frame)
        life.pass_time(1)
        life.pass_time(90_000)
        counts = [one["count"] for one in merged_in(tmp_path)]
        assert counts == [max(one["count"] for _, one in ours)]
        for frame in [*frames(theirs), *frames(theirs)]:
            life.receive(*frame)
    results = merged_in(tmp_path)
    assert [one["revision"] for one in results] == [*range(len(theirs) + 1)]
    assert results[-1]["count"] == sum(max(one["count"] for _, one in some) for some in (ours, theirs))


def test_keys_beyond_those_in_memory_are_stored_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.fleet.merging._HOT_KEYS", 2)
    monkeypatch.setattr("gateway.fleet.merging._REMEMBERED", 7)
    parts, whole = parts_of("stats", seed=3)
    with run(tmp_path) as life:
        for frame in frames(parts):
            assert life.receive(*frame)
        life.pass_time(1)
        life.pass_time(HOUR_MS)
    last = newest(merged_in(tmp_path))
    assert {at: one["count"] for at, one in last.items()} == {at: one["count"] for at, one in whole.items()}


def test_a_configuration_that_merges_nothing_is_refused(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, "mqtt://127.0.0.1:1")
    with pytest.raises(FleetError, match="no window with merge: true"):
        merger_of(config, "gateway", tmp_path / "state", lambda: 0)


def test_the_ledger_takes_no_claim_for_what_was_merged(tmp_path: Path) -> None:
    parts, _ = parts_of("stats", seed=3)
    with run(tmp_path) as life:
        for frame in frames(parts[:40]):
            life.receive(*frame)
        life.pass_time(1)
        life.pass_time(HOUR_MS)
    assert merged_in(tmp_path)
    sink = EventFile(tmp_path / "events.ndjson")
    ledger = resume(sink)
    sink.close()
    assert {series.gateway_id for series, _ in ledger.of_gateways} == {"a", "b"}
    assert "top" not in ledger.buffers


def at_site(folder: Path, name: str, local: str, cloud: str, **more: object) -> GatewayProcess:
    """A gateway with a window for each plugin; with a share its results are parts."""
    (home := folder / name).mkdir()
    window: dict[str, Any] = {"route": "sensors", "field": "v", "key": "{device}", "idle_timeout": "1s"}
    window |= {"window": {"type": "tumbling", "size": "5s"}, "allowed_lateness": "1h"}
    window |= {"publish": {"partial": bool(more)}}
    settings: dict[str, Any] = {
        "gateway": {"id": name, "data_dir": "data"},
        "local": {"url": local, "protocol": 5, **more},
        "cloud": {"url": cloud, "audit": "1s"},
        "windows": [window | {"name": f"{plugin}_5s", "plugin": plugin} for plugin in PLUGINS],
    }
    return GatewayProcess(gateway_config(home, local, **settings))


def merging_windows(folder: Path) -> Path:
    window = {"field": "v", "key": "{device}", "merge": True, "allowed_lateness": "1h"}
    window |= {"window": {"type": "tumbling", "size": "5s"}, "idle_timeout": "1s"}
    windows = [
        window
        | {"name": f"{one}_5s", "plugin": one, "topic": f"gateway/{{source}}/aggregates/{one}_5s/{{device}}"}
        for one in PLUGINS
    ]
    path = folder / "merge.yaml"
    settings = {"gateway": {"id": "site"}, "routes": [{"preset": "partials"}], "windows": windows}
    path.write_text(json.dumps(settings))
    return path


@contextmanager
def receiving(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def results_of(output: Path, gateway_id: str) -> dict[tuple[str, str, int], Any]:
    """The newest results of each window; an unfinished last line is still being written."""
    found: dict[tuple[str, str, int], Any] = {}
    for line in output.read_bytes().split(b"\n")[:-1]:
        stored = json.loads(line)
        if stored["gateway"] == gateway_id and stored["kind"] == "aggregate":
            one = stored["payload"]
            found[one["window"], one["key"], one["start_ms"]] = one
    return found


@pytest.mark.slow
def test_a_shared_group_merged_by_a_receiver_that_was_killed_equals_a_gateway_with_everything(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(["max_queued_messages 100000"]), mosquitto(["max_queued_messages 100000"])
    output = tmp_path / "events.ndjson"
    command = [sys.executable, "-m", "gateway", "receive", "--url", cloud.url, "-o", str(output)]
    command += ["--merge", str(merging_windows(tmp_path))]
    log = tmp_path / "receive.log"
    pair = [at_site(tmp_path, name, local.url, cloud.url, share="site") for name in ("a", "b")]
    one = at_site(tmp_path, "one", local.url, cloud.url)
    values = [
        (f"sensors/d{n % 7}", json.dumps({"v": n, "t": 1_790_000_000_000 + 20 * n})) for n in range(2800)
    ]
    with pair[0], pair[1], one:
        for each in (*pair, one):
            each.wait_ready()
        for start in range(0, len(values), 700):
            with receiving(command, log) as receiver:
                wait_until(
                    lambda n=start: log.read_text().count("subscribed to") == n // 700 + 1, "it receives"
                )
                publish(local.port, values[start : start + 700])
                if start < 2100:
                    wait_until(lambda n=start: merged_more(output, n), f"results after {start}")
                    receiver.kill()
                    continue
                wait_until(lambda: same_results(output), "every window whole", 60)
    for plugin in PLUGINS:
        assert len({key for window, key, _ in results_of(output, "site") if window == f"{plugin}_5s"}) == 7
    assert min(len(each.raw_payloads()) for each in pair) > 100
    verified = [sys.executable, "-m", "gateway", "receive", "-o", str(output), "--verify", "--json"]
    done = subprocess.run(verified, capture_output=True, text=True, check=False, timeout=60)
    assert not json.loads(done.stdout)["verify"]["missing"], done.stdout


def merged_more(output: Path, sent: int) -> bool:
    """True if there are results about readings behind those that were sent before."""
    newest_ms = max((start for _, _, start in results_of(output, "site")), default=0)
    return newest_ms >= 1_790_000_000_000 + 20 * sent


def same_results(output: Path) -> bool:
    merged, whole = results_of(output, "site"), results_of(output, "one")
    if len(whole) < 4 * 7 * 11 or merged.keys() != whole.keys():
        return False
    return all(
        alike(found["result"], whole[at]["result"]) and found["count"] == whole[at]["count"]
        for at, found in merged.items()
    )
