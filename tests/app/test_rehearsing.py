"""A remote configuration is tried on the last messages first, in a process of its own, and may be refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app.rehearsal_process import RehearsalProcess, RehearsalRequest, RehearsalResult
from gateway.app.rehearsing import answer
from gateway.pipeline.rehearsal_limits import RehearsalLimits
from tests.app.test_remote_config import NOBODY, Seen, Site
from tests.support.buffers import EPOCH_MS, append, event, opened
from tests.support.gateways import gateway_config, wait_until
from tests.support.plugin_texts import FAILS_ON_SENSORS

LIMITS = RehearsalLimits()


def fill(path: Path) -> None:
    """Sixty messages of three devices, a second apart."""
    path.parent.mkdir(exist_ok=True)
    with opened(path) as store:
        append(store, [event(f"sensors/d{n % 3}", b'{"v": %d}' % n, at=1000 * n) for n in range(60)])


class Rehearsed:
    """Asks for rehearsals of changes to one configuration over one buffer."""

    def __init__(self, folder: Path) -> None:
        self.file = gateway_config(folder, NOBODY)
        self._settings = yaml.safe_load(self.file.read_text())
        self._settings["routes"][0] = {"name": "sensors", "topic": "sensors/{device}"}
        fill(folder / "data" / "events.db")

    def request(self, limits: RehearsalLimits = LIMITS, **sections: Any) -> RehearsalRequest:
        before = yaml.safe_dump(self._settings)
        after = yaml.safe_dump(self._settings | sections)
        folder = self.file.parent
        return RehearsalRequest(
            before, after, str(folder), str(folder / "data" / "events.db"), EPOCH_MS, 60.0, limits
        )

    def window(self, **changes: Any) -> list[dict[str, Any]]:
        return [self._settings["windows"][0] | changes]

    def result(self, **sections: Any) -> RehearsalResult:
        return answer(self.request(**sections))


@pytest.fixture
def rehearsed(tmp_path: Path) -> Iterator[Rehearsed]:
    yield Rehearsed(tmp_path)


def test_a_change_that_takes_the_same_readings_is_not_refused(rehearsed: Rehearsed) -> None:
    half = rehearsed.window(window={"type": "tumbling", "size": "30s"})
    assert rehearsed.result(windows=half) == RehearsalResult(60)
    new = [*rehearsed.window(), rehearsed.window(name="other", field="w")[0]]
    assert rehearsed.result(windows=new).refusal == ""
    assert rehearsed.result(windows=rehearsed.window(name="another")).refusal == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"field": "w"}, "window minute takes 0 readings instead of 60"),
        ({"topic": "sensor/+", "route": None, "key": "all"}, "window minute takes 0 readings instead of 60"),
        ({"window": {"type": "count", "count": 1}, "plugin": "stats"}, ""),
        ({"plugin": "divides"}, "window minute: 60 plugin errors instead of 0"),
    ],
)
def test_what_would_make_windows_worse_is_refused(
    rehearsed: Rehearsed, changes: dict[str, Any], why: str
) -> None:
    plugins = rehearsed.file.parent / "plugins"
    plugins.mkdir()
    (plugins / "divides.py").write_text(FAILS_ON_SENSORS)
    window = {name: value for name, value in rehearsed.window(**changes)[0].items() if value is not None}
    assert why in rehearsed.result(windows=[window]).refusal


def test_a_route_that_takes_nothing_any_more_is_refused(rehearsed: Rehearsed) -> None:
    found = rehearsed.result(routes=[{"name": "sensors", "topic": "sensor/{device}"}])
    assert "routes decode 0 messages instead of 60" in found.refusal


def test_each_window_that_sends_far_more_is_too_much(rehearsed: Rehearsed) -> None:
    many = rehearsed.window(window={"type": "tumbling", "size": "1s"})
    limits = RehearsalLimits(more_messages=2.0)
    assert "windows send " in answer(rehearsed.request(limits, windows=many)).refusal
    assert answer(rehearsed.request(windows=many)).refusal == ""


def test_limits_of_100_per_cent_refuse_nothing(rehearsed: Rehearsed) -> None:
    limits = RehearsalLimits(1.0, 1.0, 1.0)
    assert answer(rehearsed.request(limits, windows=rehearsed.window(field="w"))).refusal == ""


def test_what_cannot_be_rehearsed_is_refused_with_the_reason(rehearsed: Rehearsed) -> None:
    assert "colour" in rehearsed.result(colour="blue").refusal
    missing = replace(rehearsed.request(), buffer=str(rehearsed.file.parent / "none.db"))
    assert answer(missing).refusal.startswith("it cannot be rehearsed: ")


@pytest.mark.slow
def test_the_process_gives_the_same_result_and_ends_by_itself(rehearsed: Rehearsed) -> None:
    request = rehearsed.request(windows=rehearsed.window(field="w"))
    process = RehearsalProcess(request, rehearsed.file.parent / "data")
    process.start()
    found: list[RehearsalResult] = []

    def ended() -> bool:
        found.extend(filter(None, [process.result()]))
        return bool(found)

    try:
        wait_until(ended, "the rehearsal ends")
    finally:
        process.stop()
    assert found == [answer(request)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux only")
def test_where_memory_runs_out_the_kernel_ends_the_rehearsal_first() -> None:
    program = [sys.executable, "-P", "-m", "gateway.app.rehearsing"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            score = Path(f"/proc/{process.pid}/oom_score_adj")
            wait_until(lambda: score.read_text().strip() == "1000", "it offers itself")
        finally:
            process.kill()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A gateway whose remote configurations are rehearsed."""
    found = Site(tmp_path, rehearse={"last": "100000d"})
    fill(tmp_path / "data" / "events.db")
    try:
        yield found
    finally:
        found.configuration.stop()


@pytest.mark.slow
def test_a_remote_one_is_used_only_after_a_rehearsal_that_finds_nothing(site: Site) -> None:
    window = yaml.safe_load(site.file.read_text())["windows"][0]
    site.configuration.offer(site.message(12, windows=[window | {"field": "w"}]))
    assert site.configuration.outcome == "12 in rehearsal"
    wait_until(lambda: site.look(Seen()) or "refused" in site.configuration.outcome, "it is refused")
    assert "takes 0 readings instead of 60" in site.configuration.outcome
    assert site.running.origin.source == "file"
    site.configuration.offer(site.message(13))
    wait_until(lambda: site.look(Seen()), "it is on trial")
    assert site.running.origin.version == "13"


def test_one_in_rehearsal_is_rehearsed_again_after_a_restart_but_not_for_ever(site: Site) -> None:
    site.configuration.offer(site.message(12))
    for _ in range(2):
        site.boot()
        assert site.running.origin.source == "file"
        assert site.configuration.outcome == "12 in rehearsal"
    site.boot()
    assert site.configuration.outcome == "12 refused: the gateway ended 2 times while it was in rehearsal"


@pytest.mark.slow
def test_while_one_is_rehearsed_the_one_on_trial_is_still_judged(site: Site) -> None:
    site.configuration.offer(site.message(12))
    wait_until(lambda: site.look(Seen()), "it is on trial")
    site.configuration.offer(site.message(13, windows=[]))
    wait_until(
        lambda: site.look(Seen(bridge_connected=False)) and site.running.origin.source == "file",
        "the first is taken back",
    )
    wait_until(lambda: site.look(Seen()) and site.running.origin.version == "13", "the second goes on")


def test_older_and_changed_ones_are_counted(site: Site) -> None:
    site.configuration.offer(site.message(12))
    for version in (11, 12):
        site.configuration.offer(site.message(version, windows=[]))
    site.configuration.offer(site.message(12)[:-9] + b'AAAAAAA"}')
    site.configuration.offer(b"no")
    counts = dict(site.configuration.counts)
    assert counts == {"accepted": 1, "older": 1, "same_version": 1, "signature": 1, "malformed": 1}
    assert site.configuration.last is not None
    assert site.configuration.last.version == 12
