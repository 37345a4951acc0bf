"""`gateway bench` measures, however few messages it is given."""

from __future__ import annotations

import json

import pytest

from tests.support.brokers import mosquitto_program
from tests.support.commands import gateway


@pytest.mark.slow
def test_the_cost_of_signing_is_measured_against_a_gateway_without_a_key() -> None:
    if mosquitto_program() is None:
        pytest.skip("there is no mosquitto")
    done = gateway("bench", "--signing", "--messages", "2000", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert min(found["plain_us"], found["signed_us"]) > 0


@pytest.mark.slow
def test_every_rate_is_measured_also_of_few_messages() -> None:
    if mosquitto_program() is None:
        pytest.skip("there is no mosquitto")
    done = gateway("bench", "--messages", "2000", "--json")
    assert done.returncode == 0, done.stderr
    rates = json.loads(done.stdout)
    assert len(rates) == 7
    assert min(rates.values()) > 100
