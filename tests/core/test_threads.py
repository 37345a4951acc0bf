"""How a thread's end is remembered."""

from __future__ import annotations

import logging
import threading

import pytest

from gateway.core.threads import RoleThread

PATIENCE_S = 60.0


def test_a_thread_is_well_before_its_start_and_while_it_runs_and_its_end_is_a_problem() -> None:
    go_on = threading.Event()
    thread = RoleThread("ours", lambda: go_on.wait(PATIENCE_S))
    assert thread.problem == ""
    thread.start()
    assert thread.problem == ""
    go_on.set()
    thread.join(PATIENCE_S)
    assert thread.problem == "the thread gateway.ours has ended"


@pytest.mark.parametrize("error", [OSError("no such file"), SystemExit(3)])
@pytest.mark.parametrize("brief", [False, True])
def test_the_error_that_ended_it_is_named_and_logged(
    error: BaseException, brief: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    thread = RoleThread("ours", fail, brief=brief)
    with caplog.at_level(logging.CRITICAL):
        thread.start()
        thread.join(PATIENCE_S)
    assert thread.problem == f"the thread gateway.ours has ended: {type(error).__name__}: {error}"
    assert "gateway.ours" in caplog.text


def test_the_end_of_a_brief_job_is_no_problem() -> None:
    thread = RoleThread("ours", lambda: None, brief=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert thread.problem == ""
