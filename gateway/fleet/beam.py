"""`gateway fleet run --runner beam`: the same fold as an Apache Beam pipeline, on any of Beam's runners.

Each event is an element of its own; Beam shuffles them by gateway, and the fold takes those of one gateway in
the order of their ids. The input has an end: a gateway is folded when all of its events are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.options.pipeline_options import PipelineOptions

from gateway.fleet.engine_fold import EngineFold
from gateway.fleet.job import Chunk, chunks_of, whole
from gateway.fleet.local import Task
from gateway.fleet.report import FleetReport, report_of
from gateway.fleet.rules import Rules
from gateway.fleet.split import ChunkReader

_REPORT = "report"


class BeamReading(beam.DoFn):  # type: ignore[misc]
    """Yields (gateway, record) of a chunk, and at its end the report."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def setup(self) -> None:
        """Load the routes once for each worker."""
        self._is_common = Rules.load(self._task.config).common_streams()

    def process(self, element: Chunk) -> Iterator[Any]:
        """Read one chunk."""
        chunk = Chunk(*element)
        reader = ChunkReader(self._task.inputs, self._task.wanted, self._is_common)
        yield from reader.read(chunk)
        report = {"file": chunk.file, **reader.report()._asdict()}
        yield beam.pvalue.TaggedOutput(_REPORT, orjson.dumps(report, default=list))


class BeamFold(beam.DoFn):  # type: ignore[misc]
    """Yields the lines that the records of one gateway give, and at the end the report."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def setup(self) -> None:
        """Load the windows once for each worker."""
        self._rules = Rules.load(self._task.config)

    def process(self, element: tuple[bytes, Iterable[bytes]]) -> Iterator[Any]:
        """Fold one gateway."""
        fold = EngineFold(self._rules, *element)
        yield from fold.lines(flush=self._task.flush)
        yield beam.pvalue.TaggedOutput(_REPORT, orjson.dumps(fold.report(), default=list))


class Line(beam.coders.Coder):  # type: ignore[misc]
    """Lines are written as they are."""

    def encode(self, value: bytes) -> bytes:
        """Return the line."""
        return value

    def is_deterministic(self) -> bool:
        """Return True."""
        return True


def run(task: Task, output: Path, options: Sequence[str]) -> FleetReport:
    """Run a task to its end and write the results. `options` are those of the pipeline."""
    Rules.load(task.config)  # its errors are told here, not by a worker
    with TemporaryDirectory(dir=output.parent, prefix=output.name) as folder:
        place = Path(folder)
        _run_pipeline(task, place, options)
        splits = [orjson.loads(line) for line in _lines_of(place, "splits")]
        folds = [orjson.loads(line) for line in _lines_of(place, "folds")]
        with whole(output) as file:
            file.writelines(_lines_of(place, "results"))
    each = [fold for fold in folds if "gateway" in fold]
    common_results = sum(fold.get("common_results", 0) for fold in folds)
    return report_of(task.inputs, splits, each, common_results)


def _run_pipeline(task: Task, place: Path, options: Sequence[str]) -> None:
    def write(name: str, *, newlines: bool = False) -> Any:
        path = str(place / name)
        return beam.io.WriteToText(path, coder=Line(), append_trailing_newlines=newlines)

    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        chunks = pipeline | beam.Create([tuple(chunk) for chunk in chunks_of(task.inputs)]) | beam.Reshuffle()
        read = chunks | "Read" >> beam.ParDo(BeamReading(task)).with_outputs(_REPORT, main="records")
        fold = beam.ParDo(BeamFold(task)).with_outputs(_REPORT, main="lines")
        folded = read.records | beam.GroupByKey() | "Fold" >> fold
        _ = folded.lines | "Results" >> write("results")
        _ = read[_REPORT] | "Splits" >> write("splits", newlines=True)
        _ = folded[_REPORT] | "Folds" >> write("folds", newlines=True)


def _lines_of(place: Path, name: str) -> Iterator[bytes]:
    for path in sorted(place.glob(f"{name}-*")):
        with path.open("rb") as file:
            yield from file
