"""Folder of a run: what is done of it, so that a run that was interrupted goes on where it was.

Every file appears whole, under its name, or not at all. The folder belongs to one set of inputs and one
configuration; for any other it is emptied first.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from gateway import __version__
from gateway.core.errors import GatewayError

CHUNK_BYTES = 24 * 1024 * 1024
"""Of the input that is sorted at a time, in memory."""
PARTITIONS = 64
"""Parts into which gateways are spread: what a worker that dies has to do again."""

COMMON = PARTITIONS
"""The partition of events for windows over all gateways."""

_MARK = "job.json"


class FleetError(GatewayError):
    """Raised when a run cannot go on."""


class Input(NamedTuple):
    """A file of lines; or rows, those of a table or of a Parquet file of `gateway receive`."""

    place: str
    has_rows: bool = False

    def identity(self) -> list[object]:
        """Return what changes when its content does, as far as can be seen without reading it."""
        if self.has_rows:  # a Parquet file never changes
            return [self.place]
        found = Path(self.place).stat()
        return [str(Path(self.place).resolve()), found.st_size, found.st_mtime_ns]


class Chunk(NamedTuple):
    """A part of an input: the lines that begin from byte `first` on and before `end`."""

    number: int
    file: int
    first: int
    end: int


def chunks_of(inputs: Sequence[Input]) -> list[Chunk]:
    """Divide all inputs; rows are one chunk. Raises OSError."""
    found: list[Chunk] = []
    for file, one in enumerate(inputs):
        size = 1 if one.has_rows else Path(one.place).stat().st_size
        step = size if one.has_rows else CHUNK_BYTES
        found += [
            Chunk(len(found) + n, file, at, at + step) for n, at in enumerate(range(0, size, step or 1))
        ]
    return found


class Job:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def runs(self) -> Path:
        """Folder of sorted records, below it one for each partition."""
        return self._folder / "runs"

    @property
    def folds(self) -> Path:
        """Folder of results, a file for each part."""
        return self._folder / "folds"

    @property
    def reports(self) -> Path:
        """Folder of the reports of what is done; one that is there is not done again."""
        return self._folder / "reports"

    def open(self, identity: object) -> bool:
        """Prepare the folder; returns True if it goes on with the same run. Raises FleetError."""
        mark = blake2b(orjson.dumps([__version__, identity]), digest_size=16).hexdigest()
        path = self._folder / _MARK
        if path.exists() and orjson.loads(path.read_bytes()) == mark:
            return True
        if self._folder.exists():
            if any(self._folder.iterdir()) and not path.exists():
                raise FleetError(f"{self._folder} is not the folder of a run", hint="name another --work")
            shutil.rmtree(self._folder)
        for folder in (self.runs, self.folds, self.reports):
            folder.mkdir(parents=True)
        with whole(path) as file:
            file.write(orjson.dumps(mark))
        return False

    def report(self, name: str) -> Any:
        """The report of a part that is done, or None."""
        path = self.reports / f"{name}.json"
        return orjson.loads(path.read_bytes()) if path.exists() else None

    def reports_of(self, kind: str) -> Iterator[Any]:
        """The reports of all parts of a kind that are done."""
        return (orjson.loads(path.read_bytes()) for path in sorted(self.reports.glob(f"{kind}-*.json")))

    def done(self, name: str, report: Mapping[str, object]) -> None:
        """Note that a part is done, after its files are in place."""
        with whole(self.reports / f"{name}.json") as file:
            file.write(orjson.dumps(report, default=list))

    def runs_of(self, partition: int) -> list[Path]:
        """The sorted files of a partition."""
        return sorted((self.runs / str(partition)).glob("*.run"))

    def gather(self, names: Iterable[str], output: Path) -> int:
        """Write the results of the parts into one file, which appears whole; returns the number of bytes."""
        with whole(output) as file:
            for name in names:
                with (self.folds / f"{name}.ndjson").open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
            return file.tell()

    def remove(self) -> None:
        """Remove the folder of a run that is over."""
        shutil.rmtree(self._folder)


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write that appears at `path` only when it is complete."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        yield file
    beside.replace(path)
