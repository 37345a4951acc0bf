"""`gateway bench` measures, however few messages it is given."""

from __future__ import annotations

import json

import pytest

from tests.support.brokers import mosquitto_program
from tests.support.commands import gateway


@pytest.mark.slow
def test_every_rate_is_measured_also_of_few_messages() -> None:
    if mosquitto_program() is None:
        pytest.skip("there is no mosquitto")
    done = gateway("bench", "--messages", "2000", "--json")
    assert done.returncode == 0, done.stderr
    rates = json.loads(done.stdout)
    assert len(rates) == 7
    assert min(rates.values()) > 100
