"""The time of real peers on the loopback (chrony, gpsd, ptp4l), and of hostile or broken ones."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from gateway.core.clock import SteadyClock, uptime_ns
from gateway.timekeeping.discipline import Change
from gateway.timekeeping.sources.gps import GpsSource
from gateway.timekeeping.sources.keeper import Timekeeper
from gateway.timekeeping.sources.make_sources import SourceSpec, make_sources
from gateway.timekeeping.sources.ntp import BURST, Exchange, NtpSource, _unix_s
from gateway.timekeeping.sources.ptp import (
    Answer,
    PtpDaemonSource,
    PtpDeviceSource,
    clock_of,
    parse,
    question,
)
from gateway.timekeeping.sources.source import Measured, Reference
from tests.support.gateways import wait_until
from tests.support.timepeers import HOST, chrony, free_udp_port, gps, nmea, ptp, soon


class Kept:
    """A timekeeper at work, with what it announced."""

    def __init__(self, spec: SourceSpec) -> None:
        self.changes: list[Change] = []
        self.clock = SteadyClock()
        make = partial(make_sources, spec)
        self.keeper = Timekeeper(self.clock, make, self.changes.append)

    def __enter__(self) -> Kept:
        self.keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.keeper.stop()

    def ahead_s(self) -> float:
        """How far the gateway's time is ahead of the machine's."""
        return self.clock.now_ms() / 1000 - time.time()

    def wait(self, state: str) -> None:
        wait_until(lambda: self.keeper.status().state == state, f"{state}: {self.keeper.status()}")


def spec_of(*ports: int) -> SourceSpec:
    """NTP servers on this host, asked often."""
    return SourceSpec(ntp=[(HOST, port) for port in ports], min_poll_s=1.0)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@pytest.mark.parametrize("shift_s", [0.0, 3600.0])
def test_the_gateway_follows_chrony_and_not_the_system_clock(tmp_path: Path, shift_s: float) -> None:
    with chrony(tmp_path / "chrony", shift_s) as port, Kept(spec_of(port)) as kept:
        kept.wait("synchronised")
        # On a busy machine the first answers are late, and so the time is uncertain by as much.
        wait_until(lambda: (kept.keeper.status().uncertainty_s or 1.0) < 0.05, "an answer at once")
        wait_until(lambda: abs(kept.ahead_s() - shift_s) < 0.05, "the server's time")
        status = kept.keeper.status()
        assert (status.certain, status.source) == (True, f"ntp:{HOST}:{port}")
        assert status.system_offset_s == pytest.approx(shift_s, abs=0.05)


def test_one_wrong_chrony_is_outvoted_by_two_that_are_right(tmp_path: Path) -> None:
    with (
        chrony(tmp_path / "a") as right,
        chrony(tmp_path / "b") as also_right,
        chrony(tmp_path / "c", 1800.0) as wrong,
        Kept(spec_of(wrong, right, also_right)) as kept,
    ):

        def roles() -> dict[str, str]:
            return {one.name: one.role for one in kept.keeper.status().sources}

        wait_until(lambda: roles().get(f"ntp:{HOST}:{wrong}") == "outvoted", "the liar is outvoted")
        wait_until(lambda: abs(kept.ahead_s()) < 0.05, "the time of the two others")


def test_a_server_that_is_63_years_off_is_not_followed(tmp_path: Path) -> None:
    with chrony(tmp_path / "off", 63 * 365.25 * 86_400) as port, Kept(spec_of(port)) as kept:
        wait_until(
            lambda: [*kept.keeper.status().problems.values()] == ["+63 years off: not followed"],
            f"what is wrong with the server: {kept.keeper.status().problems}",
        )
        assert not kept.keeper.certain
        assert abs(kept.ahead_s()) < 1


def test_two_servers_that_contradict_each_other_make_the_time_disputed(tmp_path: Path) -> None:
    with (
        chrony(tmp_path / "a") as right,
        chrony(tmp_path / "b", 3600) as wrong,
        Kept(spec_of(wrong, right)) as kept,
    ):
        kept.wait("disputed")
        assert not kept.keeper.certain


def test_when_the_last_server_is_gone_the_clock_holds_over_and_comes_back(tmp_path: Path) -> None:
    with silent_or_right_server() as server, Kept(SourceSpec(ntp=[server.address], min_poll_s=0.2)) as kept:
        kept.wait("synchronised")
        server.answers = False
        kept.wait("holdover")
        held = kept.keeper.status()
        assert held.certain
        wait_until(
            lambda: (kept.keeper.status().uncertainty_s or 0) > (held.uncertainty_s or 0), "a growing bound"
        )
        server.answers = True
        kept.wait("synchronised")
        assert [change.alert for change in kept.changes] == ["clock_source", "clock_holdover", "clock_source"]


@pytest.mark.parametrize("days", [2])
def test_the_gateway_follows_gpsd(tmp_path: Path, days: int) -> None:
    with gps(tmp_path / "gps", nmea(soon() + timedelta(days=days), 600)) as port:
        wait_until(partial(listens, port), "gpsd listens")
        with Kept(SourceSpec(gps=(HOST, port))) as kept:
            kept.wait("synchronised")
            # The log began when gpsfake was started, give or take a few seconds.
            assert kept.ahead_s() == pytest.approx(days * 86_400, abs=15)


def test_a_receiver_without_a_fix_gives_no_time(tmp_path: Path) -> None:
    with gps(tmp_path / "gps", nmea(soon(), 600, fix=False)) as port:
        wait_until(partial(listens, port), "gpsd listens")
        with Kept(SourceSpec(gps=(HOST, port))) as kept:
            wait_until(lambda: kept.keeper.status().problems.get("gps") == "no fix", "it says so")
            assert kept.keeper.status().state == "free"
            assert not kept.keeper.certain


@pytest.mark.slow  # it takes ptp4l 12 s to find its master and to lose it again
def test_the_gateway_follows_ptp4l_until_its_master_dies(tmp_path: Path) -> None:
    with ptp(tmp_path / "ptp") as (path, master), Kept(SourceSpec(ptp=path)) as kept:
        kept.wait("synchronised")
        assert abs(kept.ahead_s()) < 0.05
        master.terminate()
        kept.wait("holdover")
        assert "LISTENING" in kept.keeper.status().problems["ptp"]


# --- NTP, packet by packet ---


class Server:
    """An NTP server of a few lines, which does what `answer` says."""

    def __init__(self, sock: socket.socket) -> None:
        self.address: tuple[str, int] = sock.getsockname()
        self.answers = True
        self.questions = 0
        self.answer: Callable[[bytes], bytes] = right_answer
        self._socket = sock

    def run(self) -> None:
        while True:
            question_, sender = self._socket.recvfrom(1024)
            if not question_:
                return
            self.questions += 1
            if self.answers:
                self._socket.sendto(self.answer(question_), sender)


@contextmanager
def silent_or_right_server() -> Iterator[Server]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, free_udp_port()))
        server = Server(sock)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
                stop.sendto(b"", server.address)
            thread.join()


def right_answer(asked: bytes, *, first: int = 0x24, stratum: int = 2, name: bytes = b"TEST") -> bytes:
    now = int((time.time() + 2_208_988_800) * 2**32)
    head = struct.pack(">BBbbII4s", first, stratum, 4, -20, 0, 0, name)
    return head + struct.pack(">Q", now) + asked[40:48] + struct.pack(">QQ", now, now)


def answered(source: NtpSource) -> list[Measured]:
    """What comes of the question that the source has asked."""
    found: list[Measured] = []

    def settled() -> bool:
        found.extend(source.turn(uptime_ns() / 1e9))
        return source.socket_number is None

    wait_until(settled, "an answer, or none in time")
    return found


def test_a_server_that_refuses_is_never_asked_again() -> None:
    with silent_or_right_server() as server:
        server.answer = partial(right_answer, stratum=0, name=b"DENY")
        source = NtpSource(*server.address, 0.1, Reference(SteadyClock().reference))
        for hours in range(5):
            assert [*source.turn(uptime_ns() / 1e9 + hours * 3600)] == []
            assert answered(source) == []
        assert server.questions == 1
        assert source.problem == "refused: DENY"


def test_a_server_that_finds_us_too_fast_is_asked_half_as_often_for_good() -> None:
    with silent_or_right_server() as server:
        server.answer = partial(right_answer, stratum=0, name=b"RATE")
        source = NtpSource(*server.address, 64.0, Reference(SteadyClock().reference))
        assert [*source.turn(uptime_ns() / 1e9)] == []
        assert answered(source) == []
        assert (source.poll_s, source.least_poll_s) == (128.0, 128.0)
        assert source.due_s > uptime_ns() / 1e9 + 100, "the burst is over, too"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (partial(right_answer, first=0xE4), "the server has no time itself"),
        (partial(right_answer, stratum=16), "the server has no time itself"),
        (partial(right_answer, first=0x23), "the answer is not from an NTP server"),
        (lambda asked: right_answer(b"\0" * 48), "no answer"),
        (lambda asked: b"", "no answer"),
    ],
    ids=["unsynchronised", "stratum", "mode", "another's answer", "empty"],
)
def test_an_answer_that_is_no_time_is_not_taken(answer: Callable[[bytes], bytes], problem: str) -> None:
    with silent_or_right_server() as server:
        server.answer = answer
        source = NtpSource(*server.address, 64.0, Reference(SteadyClock().reference))
        assert [*source.turn(uptime_ns() / 1e9)] == []
        assert answered(source) == []
        assert source.problem == problem


def test_the_interval_grows_while_the_server_is_steady_and_the_burst_comes_first() -> None:
    with silent_or_right_server() as server:
        source = NtpSource(*server.address, 64.0, Reference(SteadyClock().reference))
        gaps = []
        for _ in range(40):
            assert [*source.turn(source.due_s + 1e-6)] == []
            assert len(answered(source)) == 1
            gaps.append(round(source.due_s - uptime_ns() / 1e9))
        assert gaps[: BURST - 1] == [2] * (BURST - 1)
        assert gaps[BURST] == 64
        assert max(gaps) == gaps[-1] == 1024


def test_an_exchange_gives_the_offset_and_a_bound_for_it() -> None:
    there_s, back_s, ahead_s = 0.030, 0.010, 5.0
    sent_s = 1000.0
    arrived_s = sent_s + there_s
    left_s = arrived_s + 0.001
    exchange = Exchange(sent_s, left_s + back_s, arrived_s + ahead_s, left_s + ahead_s, 0.002)
    assert exchange.offset_s == pytest.approx(ahead_s + (there_s - back_s) / 2)
    assert abs(exchange.offset_s - ahead_s) <= exchange.uncertainty_s
    assert exchange.uncertainty_s == pytest.approx((there_s + back_s) / 2 + 0.002)


def test_ntps_seconds_begin_anew_in_2036() -> None:
    assert _unix_s(2_208_988_800 + 1) == 1
    assert _unix_s(0) == 2_085_978_496


# --- GPS and PTP, word by word ---


def gps_source() -> GpsSource:
    return GpsSource(HOST, 1, Reference(SteadyClock().reference))


def test_a_pulse_is_far_more_certain_than_a_report() -> None:
    now = time.time_ns()
    pulse = {
        "class": "PPS",
        "real_sec": now // 10**9 + 7,
        "real_nsec": 0,
        "clock_sec": now // 10**9,
        "clock_nsec": 250_000_000,
        "precision": -20,
    }
    (measured,) = gps_source().report(json.dumps(pulse).encode(), 1.0)
    assert measured.sample.offset_s == pytest.approx(6.75, abs=0.001)
    assert measured.sample.uncertainty_s < 0.001
    report = {"class": "TPV", "mode": 3, "time": "2026-01-01T00:00:00.000Z", "ept": 0.005}
    (measured,) = gps_source().report(json.dumps(report).encode(), 1.0)
    assert measured.sample.uncertainty_s > 0.1


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"7", b"{", b'{"class":"TPV"}', b'{"class":"TPV","mode":3,"time":"yesterday"}',
     b'{"class":"PPS","real_sec":"x"}', b'{"class":"TPV","mode":3,"time":"2026-01-01T00:00:00Z","ept":"x"}'],
)  # fmt: skip
def test_whatever_gpsd_says_that_is_no_time_is_passed_over(line: bytes) -> None:
    assert [*gps_source().report(line, 1.0)] == []


def test_a_ptp_port_is_believed_by_its_state() -> None:
    source = PtpDaemonSource(Path("/nowhere/ptp4l"), Reference(SteadyClock().reference))

    def port(state: int) -> Answer:
        return Answer(0x2004, b"\0" * 10 + bytes([state]) + b"\0" * 10)

    def status(ingress_ns: int) -> Answer:
        return Answer(0xC000, struct.pack(">qq", 5_000_000_000, ingress_ns) + b"\0" * 32)

    for state, measured in ((9, 1), (8, 1), (4, 0), (2, 0)):
        assert [*source.understand(port(state), 1.0)] == []
        found = [*source.understand(status(state), 1.0)]
        assert len(found) == measured
        assert [*source.understand(status(state), 1.0)] == [], "nothing new has come from the master"
    assert source.problem == "the port is FAULTY"
    [*source.understand(port(9), 1.0)]
    (found_,) = source.understand(status(77), 1.0)
    assert found_.sample.offset_s == pytest.approx(-5, abs=0.01)


def test_what_is_no_ptp_management_response_is_none() -> None:
    assert parse(b"") is None
    assert parse(question(0x2004, 1)) is None, "a question is no answer"


def test_a_missing_ptp_device_is_a_problem_and_no_crash() -> None:
    source = PtpDeviceSource(Path("/dev/ptp99"), Reference(SteadyClock().reference))
    assert [*source.turn(1.0)] == []
    assert "/dev/ptp99" in source.problem
    assert clock_of(3) == -29, "FD_TO_CLOCKID of linux/posix-timers.h"
