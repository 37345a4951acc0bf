"""Compiled readers: whatever the payload, they give what `Route.decode` gives, or leave it to that."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.timestamps import parse_time_bound
from gateway.decode.fields import FieldSpec
from gateway.decode.payload import PayloadSpec
from gateway.decode.routes import Route, RouteSpec

NOW_MS = 1_700_000_000_000
TOPIC, LEVELS = "s/a", {"device": "a"}
FIELDS = {"t": "b.t", "h": "h"}

ROUTES = {
    "open": Route(RouteSpec("r", "s/{device}")),
    "open with a time": Route(
        RouteSpec("r", "s/{device}", timestamp_path="at", timestamp_format="unix_ms or iso")
    ),
    "fields": Route(RouteSpec("r", "s/{device}", fields=FIELDS)),
    "normalized": Route(
        RouteSpec("r", "s/{device}", fields=FIELDS, timestamp_path="b.at", timestamp_format="unix_ms")
    ),
    "trusted": Route(
        RouteSpec(
            "r", "s/{device}", fields=FIELDS, timestamp_path="b.at || at", timestamp_format="unix_ms",
            timestamp="trusted",
        )
    ),
    "arrival": Route(
        RouteSpec(
            "r", "s/{device}", fields=FIELDS, timestamp_path="at", timestamp_format="unix", timestamp="ingest"
        )
    ),
    "bounded": Route(
        RouteSpec(
            "r", "s/{device}", fields=FIELDS, timestamp_path="at", timestamp_format="unix_ms",
            timestamp_min=parse_time_bound("1h"), timestamp="trusted",
        )
    ),
    "expressions": Route(
        RouteSpec(
            "r", "s/{device}",
            fields={"who": "{device}", "all": "h || b.t", "first": "list[0]", "tenth": FieldSpec("h", 0.1)},
        )
    ),
    "number": Route(RouteSpec("r", "s/{device}", decoder="number")),
    "unwrapped": Route(RouteSpec("r", "s/{device}", payload=PayloadSpec(duplicates="number"))),
}  # fmt: skip

times = st.one_of(
    st.sampled_from([NOW_MS, NOW_MS // 1000, 0, -1, True, None, "", "2023-11-14T22:13:20Z", NOW_MS / 1000]),
    st.integers(NOW_MS - 10_000_000, NOW_MS + 10_000_000),
    st.integers(-(1 << 70), 1 << 70),
)
values = st.one_of(
    st.floats(), st.integers(-(1 << 70), 1 << 70), st.booleans(), st.none(), st.text(max_size=3),
    st.sampled_from([1e99, 1e100, -1e100, 1e101, "21.5", [], [1.5], {}]),
)  # fmt: skip
documents = st.one_of(
    values,
    st.lists(values, max_size=2),
    st.fixed_dictionaries(
        {},
        optional={
            "h": values,
            "at": times,
            "list": st.lists(values, max_size=2),
            "b": st.one_of(values, st.fixed_dictionaries({}, optional={"t": values, "at": times})),
        },
    ),
)
payloads = st.one_of(documents.map(lambda document: json.dumps(document).encode()), st.binary(max_size=12))


def check(route: Route, payload: bytes) -> bool:
    """Compare both ways; False where the compiled reader leaves the payload to the other."""
    assert route.read_plain is not None
    plain = route.read_plain(payload, LEVELS, NOW_MS)
    if plain is None:
        return False
    decoded = route.decode(TOPIC, LEVELS, payload, NOW_MS)
    time_ms, device_ms, flags, fields, misses = plain
    assert ((time_ms, fields),) == decoded.samples
    assert [*map(type, fields.values())] == [*map(type, decoded.samples[0].fields.values())]
    assert (time_ms, device_ms, flags, misses) == decoded[1:4] + decoded[5:6]
    assert (decoded.problem, decoded.filtered, decoded.notes) == (None, 0, ())
    return True


@pytest.mark.parametrize("name", ROUTES)
@given(payload=payloads)
def test_a_compiled_reader_reads_as_the_route_does(name: str, payload: bytes) -> None:
    check(ROUTES[name], payload)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("open", {"t": 21.5, "on": True, "nothing": None, "inner": {}}),
        ("open", 21.5),
        ("open with a time", {"t": 21.5, "at": "2023-11-14T22:13:20Z"}),
        ("fields", {"b": {"t": 1}, "h": 2.5}),
        ("fields", {"b": {"t": 1}}),  # one is missing
        ("normalized", {"b": {"t": 1, "at": NOW_MS - 500}, "h": 2.5}),
        ("normalized", {"b": {"t": 1, "at": NOW_MS - 60_000}, "h": 2.5}),  # corrected
        ("trusted", {"b": {"t": 1}, "h": 2.5, "at": NOW_MS - 10_000_000}),
        ("arrival", {"b": {"t": 1}, "h": 2.5, "at": NOW_MS / 1000}),
        ("bounded", {"b": {"t": 1}, "h": 2.5, "at": NOW_MS - 60_000}),
        ("expressions", {"h": 194, "list": [1]}),
        ("number", 21.5),
        ("unwrapped", {"t": 21.5}),
    ],
)
def test_what_is_usual_is_not_left_to_the_long_way(name: str, document: Any) -> None:
    assert check(ROUTES[name], json.dumps(document).encode())


@pytest.mark.parametrize(
    "spec",
    [
        RouteSpec("r", "s/{device}", readings="list"),
        RouteSpec("r", "s/{device}", fields={"t": "t"}, where="t > 1"),
        RouteSpec("r", "s/{device}", fields={"t": "t", "double": FieldSpec(compute="t * 2")}),
        RouteSpec("r", "s/{device}", fields={"of": "{topic}"}),
        RouteSpec("r", "spBv1.0/#", decoder="sparkplug_b"),
    ],
)
def test_what_needs_more_has_no_compiled_reader(spec: RouteSpec) -> None:
    assert Route(spec).read_plain is None


def test_a_value_that_is_not_finite_does_not_pass() -> None:
    payload = json.dumps({"b": {"t": math.inf}, "h": math.nan}).encode()
    assert not check(ROUTES["fields"], payload)  # not JSON as it stands: the long way mends it
