"""The matrix of brokers, row by row; `make brokers` writes what it finds into docs/deployment.md."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter
from pathlib import Path

import pytest

from tests.support import matrix
from tests.support.matrix import COLUMNS, PROTOCOLS, ROLES, YES
from tests.support.other_brokers import KINDS, Mosquitto, Nats, OtherBroker, RabbitMQ

KILLS = ("kill -9", "kill -9, queue")
DURABLE = (Mosquitto, Nats, RabbitMQ)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.lower())
def test_a_broker_keeps_what_the_table_says(
    kind: type[OtherBroker], role: str, protocol: str, tmp_path: Path
) -> None:
    """What a broker that keeps everything in memory loses when it is killed depends on the moment."""
    if reason := kind.missing():
        pytest.skip(reason)
    written = table()[kind.name, role, protocol]
    found = matrix.row(kind, role, protocol, tmp_path)
    for column in COLUMNS:
        if column not in KILLS or kind in DURABLE:
            assert found[column] == written[column], column


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind is not Mosquitto], ids=attrgetter("__name__")
)
def test_a_gateway_stores_and_sends_with_any_broker_and_comes_back_after_its_kill(
    kind: type[OtherBroker], tmp_path: Path
) -> None:
    """In CI those that could be installed; Mosquitto is the broker of all other tests."""
    if reason := kind.missing():
        pytest.skip(reason)
    assert {*matrix.quick_row(kind, tmp_path).values()} == {YES}


def test_the_table_has_a_row_for_every_broker_role_and_version() -> None:
    assert [*table()] == [
        (kind.name, role, protocol) for kind in KINDS for role in ROLES for protocol in PROTOCOLS
    ]


def test_a_row_is_replaced_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{matrix.BEGIN}\n{matrix.END}\nafter\n")
    monkeypatch.setattr(matrix, "PAGE", page)

    for name, role, protocol in [("NATS", "cloud", "5"), ("NATS", "local", "5"), ("Aedes", "local", "3.1.1")]:
        matrix.write(name, role, protocol, dict.fromkeys(COLUMNS, "not tried"))
    matrix.write("NATS", "local", "5", dict.fromkeys(COLUMNS, YES))

    text = page.read_text()
    assert text.startswith("before\n\n<!--") and text.endswith("-->\nafter\n")
    assert [*matrix.rows(text)] == [
        ("Aedes", "local", "3.1.1"),
        ("NATS", "local", "5"),
        ("NATS", "cloud", "5"),
    ]
    assert matrix.rows(text)["NATS", "local", "5"] == dict.fromkeys(COLUMNS, YES)


def test_a_verdict_counts_what_was_lost_and_what_came_twice() -> None:
    assert matrix.verdict(Counter([1, 2, 2]), range(1, 4)) == "1 of 3 lost, 1 of 3 twice"
    assert matrix.verdict(Counter([1, 2, 2]), range(1, 3), at_least_once=True) == YES


def table() -> dict[tuple[str, str, str], matrix.Row]:
    return matrix.rows(matrix.PAGE.read_text())
