"""The state table: what it allows, and that the docs draw it."""

from __future__ import annotations

from itertools import product

import pytest

from gateway.core.errors import DeliveryError
from gateway.core.events import Status
from gateway.delivery.states import ENTRIES, TRANSITIONS, DeliveryEvent, mermaid, sources, target
from tests.support.places import DOCS

DOCS = DOCS / "buffer.md"
LISTED = sorted(TRANSITIONS, key=str)
UNLISTED = sorted({*product(Status, DeliveryEvent)} - {*TRANSITIONS}, key=str)


@pytest.mark.parametrize("status, happening", UNLISTED, ids=str)
def test_what_is_not_listed_raises(status: Status, happening: DeliveryEvent) -> None:
    with pytest.raises(DeliveryError, match=f"{status.name} cannot {happening.value}"):
        target(status, happening)


@pytest.mark.parametrize("status, happening", LISTED, ids=str)
def test_what_is_listed_leads_to_its_status(status: Status, happening: DeliveryEvent) -> None:
    assert target(status, happening) is TRANSITIONS[status, happening]
    assert status in sources(happening)


def test_an_event_goes_to_the_cloud_through_syncing_only() -> None:
    before_synced = [s for (s, _), after in TRANSITIONS.items() if after is Status.SYNCED and s is not after]
    assert before_synced == [Status.SYNCING]
    assert sources(DeliveryEvent.PUBACK) == (Status.SYNCING,)


def test_what_is_on_its_way_is_never_removed() -> None:
    assert not [h for (status, h), after in TRANSITIONS.items() if status is Status.SYNCING and after is None]


def test_every_status_can_be_reached_and_left() -> None:
    assert {*TRANSITIONS.values(), *ENTRIES} >= {*Status}
    assert {status for status, _ in TRANSITIONS} == {*Status}


def test_every_happening_can_happen() -> None:
    assert {happening for _, happening in TRANSITIONS} == {*DeliveryEvent}


def test_the_diagram_has_one_line_for_each_row_of_the_table() -> None:
    lines = mermaid().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert len(lines) == 1 + len(ENTRIES) + len(TRANSITIONS)
    assert "    SYNCING --> PENDING: failure" in lines
    assert "    SYNCED --> [*]: evict" in lines


def test_the_diagram_in_the_docs_is_that_of_the_table() -> None:
    assert f"```mermaid\n{mermaid()}\n```" in DOCS.read_text(), (
        "put the output of `python -c 'from gateway.delivery.states import mermaid; print(mermaid())'` there"
    )
