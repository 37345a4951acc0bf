"""Whatever comes from outside is read or refused with the error that its reader names, and nothing else.

FUZZ_INPUTS says how many inputs each reader gets in the long form.
"""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.support.fuzz_targets import TARGETS

INPUTS = int(os.environ.get("FUZZ_INPUTS", "20000"))
SPLICES = (
    b"",
    b"\0",
    b"\xff",
    b"-",
    b"1e999",
    b"9" * 400,
    b"NaN",
    b"[" * 2000,
    b"{",
    b"}",
    b'"',
    b"\\u0000",
    b"null",
)
_SPLICES = st.sampled_from(SPLICES) | st.binary(max_size=12)


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A sound input with a few stretches replaced; or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 6)))
        data = data[:start] + draw(_SPLICES) + data[end:]
    return data


def try_inputs(name: str, inputs: int) -> int:
    """Returns how many inputs were tried."""
    target, tried = TARGETS[name], 0

    @seed(7)
    @settings(max_examples=inputs, database=None, suppress_health_check=list(HealthCheck))
    @given(mutated(target.seeds))
    def read(data: bytes) -> None:
        nonlocal tried
        tried += 1
        target.run(data)

    read()
    return tried


@pytest.mark.parametrize("name", TARGETS)
def test_sound_inputs_are_read_and_others_refused(name: str) -> None:
    for sound in TARGETS[name].seeds:
        TARGETS[name].read(sound)
    try_inputs(name, 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_inputs_are_read_or_refused(name: str) -> None:
    sys.stdout.write(f"{name}: {try_inputs(name, INPUTS):,} inputs\n")
