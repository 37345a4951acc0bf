"""The keeper of log lines sits in every thread that logs: whatever is logged, it must not end that thread."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from gateway.host.log_lines import LogLines


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no words for it")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogLines]:
    """The keeper, as the handler of a logger of its own."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # as in production: no traceback on stderr
    keeper, logger = LogLines("warning"), logging.getLogger("tests.log_lines")
    logger.addHandler(keeper)
    logger.propagate = False
    yield keeper
    logger.removeHandler(keeper)
    logger.propagate = True


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        pytest.param("%d messages", ("many",), id="a word where a number should be"),
        pytest.param("%s and %s", ("one",), id="too few arguments"),
        pytest.param("nothing", ("one",), id="too many arguments"),
        pytest.param("%s", (Unprintable(),), id="an argument that cannot be printed"),
        pytest.param("%", (1,), id="a format that is none"),
    ],
)
def test_a_wrong_log_call_ends_no_thread_and_the_next_line_is_kept(
    lines: LogLines, message: str, arguments: tuple[object, ...]
) -> None:
    logger = logging.getLogger("tests.log_lines")
    logger.warning(message, *arguments)
    logger.warning("after")
    assert [json.loads(line)["message"] for line in lines.take()] == ["after"]
    assert [json.loads(line)["message"] for line in lines.newest(10_000)] == ["after"]


def test_bytes_and_exceptions_are_lines_too(lines: LogLines) -> None:
    fault = ValueError("half a surrogate: \udcff")
    # Past the logger: pytest shows what a logger got, and parallel tests cannot send it to one another.
    lines.handle(
        logging.LogRecord(
            "tests", logging.ERROR, __file__, 1, "it came as %s", (b"\xff",), (ValueError, fault, None)
        )
    )
    (line,) = lines.take()
    said = json.loads(line)
    assert said["message"] == "it came as b'\\xff'"
    assert said["error"].endswith("half a surrogate: \\udcff")
    assert lines.newest(10_000) == [line]
