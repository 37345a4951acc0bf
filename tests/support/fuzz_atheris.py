"""Runs one of the targets of `fuzz_targets` under Atheris, guided by what of the gateway's code it reaches.

`pip install atheris`, then `python -m tests.support.fuzz_atheris TARGET -max_total_time=60`.
It is not among the dependencies: it has no wheels for some platforms.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gateway"]):  # what is imported before is not instrumented
    from tests.support.fuzz_targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-"))  # libFuzzer ends the process: nobody could clean up
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, str(corpus)], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
