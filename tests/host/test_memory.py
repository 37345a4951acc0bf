"""Memory that a training of a dictionary needed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAINING = """
import threading
import psutil
from gateway.buffer.compression import train
from gateway.host.memory import give_back, use_one_heap

use_one_heap()
samples = [b'{"value": %d, "unit": "C", "n": %d}' % (20 + n % 97, n) for n in range(1000)]
before = psutil.Process().memory_info().rss
thread = threading.Thread(target=train, args=(samples,))
thread.start()
thread.join()
give_back()
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about glibc")
def test_what_a_training_needed_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAINING], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 3_000_000  # it takes 7 MB
