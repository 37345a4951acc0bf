"""`gateway fleet run --runner flink`: the same fold as a PyFlink job.

Each event is an entry of a list in keyed state, by gateway; the end of the input is a timer, at which the
fold takes the entries of one gateway in the order of their ids. Text carries the records, one character for a
byte. The job runs in streaming mode: in batch mode PyFlink 2.3 loses an entry whenever the key changes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from pyflink.common import Configuration, Types
from pyflink.datastream import (
    FlatMapFunction,
    KeyedProcessFunction,
    RuntimeContext,
    RuntimeExecutionMode,
    StreamExecutionEnvironment,
)
from pyflink.datastream.state import ListStateDescriptor
from pyflink.java_gateway import get_gateway

from gateway.core.errors import ConfigError
from gateway.fleet.engine_fold import EngineFold
from gateway.fleet.job import Chunk, chunks_of, whole
from gateway.fleet.local import Task
from gateway.fleet.report import FleetReport, report_of
from gateway.fleet.rules import Rules
from gateway.fleet.split import ChunkReader

_CODE = "latin-1"  # each byte is one character, and comes back as it was
_KEY_END = "\x1e"
_END_OF_INPUT = 2**63 - 1
_DEFAULTS = {"execution.checkpointing.interval": "60s"}
_SPLIT, _FOLD, _RESULT = "S", "F", "R"
"""First characters of what comes out: the report of a chunk, that of a fold, a line of results."""


class FlinkReading(FlatMapFunction):  # type: ignore[misc]
    """Gives the records of a chunk, and its report, each behind its key."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def open(self, runtime_context: RuntimeContext) -> None:
        """Load the routes once for each worker."""
        self._is_common = Rules.load(self._task.config).common_streams()

    def flat_map(self, value: str) -> Iterator[str]:
        """Read one chunk."""
        chunk = Chunk(*orjson.loads(value))
        reader = ChunkReader(self._task.inputs, self._task.wanted, self._is_common)
        for gateway, record in reader.read(chunk):
            yield _RESULT + gateway.decode(_CODE) + _KEY_END + record.decode(_CODE)
        report = {"file": chunk.file, **reader.report()._asdict()}
        yield _SPLIT + _KEY_END + orjson.dumps(report, default=list).decode()


class FlinkFold(KeyedProcessFunction):  # type: ignore[misc]
    """Keeps the records of a gateway until the input ends, then gives the lines of results and a report."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def open(self, runtime_context: RuntimeContext) -> None:
        """Load the windows once for each worker."""
        self._rules = Rules.load(self._task.config)
        self._records = runtime_context.get_list_state(ListStateDescriptor("records", Types.STRING()))

    def process_element(self, value: str, ctx: KeyedProcessFunction.Context) -> Iterator[str]:
        """Keep a record, or pass a report on."""
        if value.startswith(_SPLIT):
            yield _SPLIT + value.partition(_KEY_END)[2]
            return
        self._records.add(value.partition(_KEY_END)[2])
        ctx.timer_service().register_event_time_timer(_END_OF_INPUT)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[str]:
        """Fold one gateway."""
        gateway = ctx.get_current_key()[1:].encode(_CODE)
        fold = EngineFold(self._rules, gateway, (one.encode(_CODE) for one in self._records.get()))
        yield from (_RESULT + line.decode() for line in fold.lines(flush=self._task.flush))
        self._records.clear()
        yield _FOLD + orjson.dumps(fold.report(), default=list).decode()


def run(task: Task, output: Path, workers: int, options: Sequence[str]) -> FleetReport:
    """Run a task to its end and write the results. `options` are KEY=VALUE of Flink's configuration."""
    Rules.load(task.config)  # its errors are told here, not by a worker
    splits: list[dict[str, Any]] = []
    folds: list[dict[str, Any]] = []
    with whole(output) as file:
        for one in _given(task, workers, options):
            if one.startswith(_RESULT):
                file.write(one[1:].encode())
            else:
                (splits if one.startswith(_SPLIT) else folds).append(orjson.loads(one[1:]))
    each = [fold for fold in folds if "gateway" in fold]
    common_results = sum(fold.get("common_results", 0) for fold in folds)
    return report_of(task.inputs, splits, each, common_results)


def _given(task: Task, workers: int, options: Sequence[str]) -> Iterator[str]:
    environment = _environment(_configuration(options))
    environment.set_runtime_mode(RuntimeExecutionMode.STREAMING)
    environment.set_parallelism(workers)
    chunks = [orjson.dumps(list(chunk)).decode() for chunk in chunks_of(task.inputs)]
    records = (
        environment.from_collection(chunks, type_info=Types.STRING())
        .rebalance()
        .flat_map(FlinkReading(task), output_type=Types.STRING())
    )
    folded = records.key_by(_key_of, key_type=Types.STRING()).process(
        FlinkFold(task), output_type=Types.STRING()
    )
    with folded.execute_and_collect("gateway fleet run") as found:
        yield from found


def _environment(configuration: Configuration) -> StreamExecutionEnvironment:
    if not configuration.contains_key("execution.target"):
        return StreamExecutionEnvironment.get_execution_environment(configuration)
    # The other one would start a cluster in this process, whatever the target is.
    java = get_gateway().jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment
    return StreamExecutionEnvironment(java(configuration._j_configuration))


def _configuration(options: Sequence[str]) -> Configuration:
    configuration = Configuration()
    for name in ("python.executable", "python.client.executable"):
        configuration.set_string(name, sys.executable)
    for name, value in _DEFAULTS.items():
        configuration.set_string(name, value)
    for option in options:
        name, is_given, value = option.partition("=")
        if not is_given:
            raise ConfigError(f"{option!r} is no option of Flink", hint="write KEY=VALUE")
        configuration.set_string(name, value)
    return configuration


def _key_of(value: str) -> str:
    return value.partition(_KEY_END)[0]
