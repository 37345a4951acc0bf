"""The soak in short: an outage of the cloud in the middle, free and with as little memory as is promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MosquittoFactory
from tests.proofs.soak import BROKER_LINES, Plan, soak
from tests.support.memory_group import why_no_memory_group

LIMIT_BYTES = 128 * 1024 * 1024


def short_soak(
    mosquitto: MosquittoFactory, folder: Path, plan: Plan, memory_bytes: int | None = None
) -> None:
    for name in ("local", "cloud"):
        (folder / name).mkdir()
    local, cloud = (mosquitto(BROKER_LINES, persistence=folder / name) for name in ("local", "cloud"))
    result = soak(folder, local, cloud, plan, memory_bytes)
    assert result.problems == []
    assert result.published == plan.rate_per_s * plan.seconds
    assert max(sample.pending for sample in result.samples) > plan.rate_per_s * plan.outage_s / 2
    assert result.latencies_ms


def test_nothing_is_lost_or_doubled_over_an_outage(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    short_soak(mosquitto, tmp_path, Plan(400, 4, outage_s=2, devices=20, sample_every_s=0.2))


@pytest.mark.skipif(bool(why_no_memory_group()), reason=why_no_memory_group())
def test_the_main_job_is_done_within_128_mib(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    short_soak(mosquitto, tmp_path, Plan(2000, 6, outage_s=3, devices=200, sample_every_s=0.2), LIMIT_BYTES)


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_memory_group()), reason=why_no_memory_group())
def test_the_main_job_is_done_within_128_mib_for_minutes(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    short_soak(mosquitto, tmp_path, Plan(2000, 180, outage_s=60), LIMIT_BYTES)
