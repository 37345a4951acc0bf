"""`gateway fleet run --runner local`: the fold in worker processes of this machine.

The input is split into sorted runs, then each partition is folded; both in parts that any worker may take and
that are written whole. A worker that dies loses the part that it was at, and another one does it again.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from gateway.fleet.fold import WHOLE, CommonFold, GatewayFold, Share, lines_of_fold
from gateway.fleet.job import COMMON, PARTITIONS, Chunk, FleetError, Input, Job, chunks_of, whole
from gateway.fleet.records import StoredRecord, read_record, without_arrival
from gateway.fleet.report import FleetReport, fold_fields, report_of
from gateway.fleet.rules import Rules
from gateway.fleet.split import ChunkReader, records_in_order, split
from gateway.host.garbage import collect_seldom

MOST_DEATHS = 3
"""Times that workers may die without any part getting done in between."""
_HEAVY = 2
"""A partition with more than its share of the bytes, divided by this, is spread by streams."""


class Task(NamedTuple):
    """The work of a run. `wanted` names the gateways whose events are taken; empty: all."""

    config: Path
    inputs: tuple[Input, ...]
    folder: Path
    wanted: frozenset[bytes] = frozenset()
    flush: bool = True


class FoldPart(NamedTuple):
    """A partition, or a share of the streams of each of its gateways."""

    partition: int
    share: Share = WHOLE

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"fold-{self.partition:02}-{self.share.position}-of-{self.share.of}"


Step = tuple[str, Callable[[Task, Any], dict[str, Any]], Any]
"""Name of the report, the function, what it works on."""


def run(task: Task, output: Path, workers: int, progress: Callable[[int, int], None]) -> FleetReport:
    """Run a task to its end and write the results. `progress` is told how many of how many parts are done.

    Raises FleetError, ConfigError, PluginError or OSError.
    """
    rules = Rules.load(task.config)
    job = Job(task.folder)
    identity = [one.identity() for one in task.inputs]
    options = [sorted(map(bytes.decode, task.wanted)), task.flush]
    job.open([identity, task.config.read_text(), rules.plugins.fingerprints, options])
    chunks = chunks_of(task.inputs)
    work: list[Step] = [(f"split-{chunk.number:08}", _split, chunk) for chunk in chunks]
    splits = _all(task, workers, work, progress)
    parts = parts_of(splits, workers if rules.streams_are_independent else 1)
    folds = _all(task, workers, [(part.name, _fold, part) for part in parts], progress)
    job.gather((part.name for part in parts), output)
    common_results = sum(fold["common_results"] for fold in folds)
    each = [one for fold in folds for one in fold["gateways"]]
    report = report_of(task.inputs, splits, each, common_results)
    job.remove()
    return report


def parts_of(splits: Sequence[dict[str, Any]], workers: int) -> list[FoldPart]:
    """Return the parts to fold. A partition that would keep one worker busy while others wait is divided by
    streams; the workers then all read it, and skip what is another's."""
    sizes = dict.fromkeys(range(PARTITIONS + 1), 0)
    for report in splits:
        for partition, size in report["bytes_by_partition"].items():
            sizes[int(partition)] += size
    total = sum(sizes.values()) - sizes[COMMON]
    parts = []
    for partition, size in sizes.items():
        is_heavy = partition != COMMON and size * workers * _HEAVY > total
        shares = workers if is_heavy else 1
        parts += [FoldPart(partition, Share(index, shares)) for index in range(shares if size else 0)]
    return parts


def _all(
    task: Task, workers: int, steps: list[Step], progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Do every step that is not done yet; returns the reports in the order of the steps."""
    job = Job(task.folder)
    todo = [step for step in steps if job.report(step[0]) is None]
    deaths = 0
    progress(len(steps) - len(todo), len(steps))
    while todo:
        left = len(todo)
        for _ in _in_processes(task, todo, workers) if workers > 1 else _here(task, todo):
            left -= 1
            progress(len(steps) - left, len(steps))
        deaths = 0 if left < len(todo) else deaths + 1
        if deaths == MOST_DEATHS:
            raise FleetError("workers end before they have done anything", hint="is there enough memory?")
        todo = [step for step in todo if job.report(step[0]) is None]
    return [job.report(name) for name, _, _ in steps]


def _here(task: Task, steps: Sequence[Step]) -> Iterator[None]:
    for step in steps:
        _do(task, step)
        yield


def _in_processes(task: Task, steps: Sequence[Step], workers: int) -> Iterator[None]:
    """Do steps in worker processes; ends early when a worker has died."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=collect_seldom) as pool:
        waiting: set[Future[None]] = {pool.submit(_do, task, step) for step in steps}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for one in done:
                if isinstance(one.exception(), BrokenProcessPool):
                    return
                one.result()
                yield


def _do(task: Task, step: Step) -> None:
    name, work, on = step
    Job(task.folder).done(name, work(task, on))


def _split(task: Task, chunk: Chunk) -> dict[str, Any]:
    reader = ChunkReader(task.inputs, task.wanted, Rules.load(task.config).common_streams())
    report = split(reader, chunk, Job(task.folder).runs)
    return {"file": chunk.file, **report._asdict()}


def _fold(task: Task, part: FoldPart) -> dict[str, Any]:
    job = Job(task.folder)
    rules = Rules.load(task.config)
    packed = records_in_order(job.runs_of(part.partition))
    gateways: list[dict[str, Any]] = []
    common_results = 0
    with whole(job.folds / f"{part.name}.ndjson") as file:
        if part.partition == COMMON:
            expected = {name for report in job.reports_of("split") for name in report["common_gateways"]}
            common = CommonFold(rules, expected)
            records = map(read_record, map(without_arrival, packed))
            file.writelines(lines_of_fold(common, records, flush=task.flush))
            common_results = common.results
        else:
            for gateway, taken in groupby(map(read_record, packed), _gateway_of):
                fold = GatewayFold(gateway, rules, part.share)
                file.writelines(lines_of_fold(fold, taken, flush=task.flush))
                gateways.append(fold_fields(fold))
    return {"gateways": gateways, "common_results": common_results}


def _gateway_of(record: StoredRecord) -> bytes:
    return record.gateway
