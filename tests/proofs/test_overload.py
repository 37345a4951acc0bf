"""Three times what the gateway can take, for five minutes; see `overload`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MosquittoFactory
from tests.proofs.overload import overload
from tests.proofs.soak import BROKER_LINES
from tests.support.cpu_group import why_no_cpu_group


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_cpu_group()), reason=why_no_cpu_group())
def test_three_times_too_much_for_five_minutes_sheds_in_order_and_ends_at_rest(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    result = overload(tmp_path, mosquitto(BROKER_LINES), 0.1, 3, 300, measured=10_000)
    assert result.problems == []
