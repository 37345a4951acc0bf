"""What the commands say when they are called wrongly: one message that names the place, and no traceback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from gateway.cli import main
from gateway.cli.buffer_table import event_lines
from tests.support.buffers import append, event, opened
from tests.support.gateways import gateway_config


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Commands that run in this process set up the root logger for good."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object
) -> tuple[object, str]:
    """Exit code and standard error of a command, called in this process as the console script does."""
    monkeypatch.setattr("sys.argv", ["gateway", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose gateway has run and is stopped."""
    data = tmp_path / "data"
    data.mkdir()
    with opened(data / "events.db") as store:
        append(store, [event()])
    return gateway_config(tmp_path, "mqtt://127.0.0.1:9", gateway={"id": "g1", "data_dir": str(data)})


@pytest.mark.parametrize(
    "command",
    [
        ["run"],
        ["check"],
        ["top"],
        ["clock", "status"],
        ["replay", "--input", "x"],
        ["buffer", "stats"],
        ["buffer", "compact"],
        ["buffer", "restore"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("file", ["none.yaml", "."])
def test_a_configuration_that_cannot_be_read_is_named(
    command: list[str],
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / file
    code, text = said(monkeypatch, capsys, *command, "-c", path)
    assert (code, text.splitlines()[0].partition(": ")[0]) == (2, "error")
    assert f"cannot read {path}: " in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "command, code, text",
    [
        (["buffer", "export", "-c", "CONFIG", "--output", "/nowhere/x"], 1, "/nowhere/x: No such file"),
        (["buffer", "backup", "-c", "CONFIG", "--output", "/nowhere/x"], 1, "/nowhere: No such file"),
        (["buffer", "list", "-c", "CONFIG", "--newer-than", "noon"], 2, "--newer-than: 'noon' is not a dur"),
        (["receive", "--verify", "--output", "none.ndjson"], 2, "there is no none.ndjson to verify"),
        (["chekc"], 2, "there is no command 'chekc'; did you mean 'check'?"),
        (["top", "-c", "CONFIG"], 1, "does not answer: Connection refused\n"),
        (["clock", "status", "-c", "CONFIG"], 1, "Connection refused\n"),
    ],
    ids=str,
)
def test_a_command_that_cannot_do_it_says_where_and_why(
    config: Path,
    command: list[str],
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [config if word == "CONFIG" else word for word in command]
    ended, err = said(monkeypatch, capsys, *given)
    assert text in err and "Traceback" not in err and "Errno" not in err
    assert ended == code


@pytest.mark.parametrize(
    "command", [["run"], ["top"], ["buffer", "list"], ["explain", "a", "1"]], ids=" ".join
)
def test_without_a_file_gateway_yaml_of_the_folder_is_read(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = said(monkeypatch, capsys, *command)
    assert (code, "cannot read gateway.yaml: " in text) == (2, True)


@pytest.mark.parametrize(
    ("written", "place", "words"),
    [
        ("gateway:\n\tid: g1\n", "2", "a tab; YAML is indented with spaces only"),
        ("gateway:\n  id: g1\n\tdata_dir: data\n", "3", "a tab; YAML is indented with spaces only"),
        ("gateway:\n  id:g1\n  data_dir: data\n", "3", "is a space missing behind a colon"),
    ],
)
def test_yaml_that_cannot_be_read_is_explained_in_words(
    written: str,
    place: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(written)
    code, text = said(monkeypatch, capsys, "check", "-c", path)
    assert (code, words in text, f"gateway.yaml:{place}: " in text) == (1, True, True), text


def test_a_list_takes_two_lines_for_an_event_where_one_does_not_fit() -> None:
    rows = [
        {"event_id": str(UUID(int=n)), "status": "corrupt", "kind": "aggregate", "event_time_ms": 0,
         "stored_bytes": 123456, "sequence_num": n, "stream": "long/" * n, "refusal": None}
        for n in (1, 50)
    ]  # fmt: skip
    narrow, wide = [*event_lines(rows, 80)], [*event_lines(rows, None)]
    assert (len(narrow), len(wide), max(map(len, narrow))) == (5, 3, 80)
    assert narrow[2] == "    1 of long/, 123456 bytes"
    assert [*event_lines(rows, 400)] == wide
    assert wide[2].endswith("123456  50 of " + "long/" * 50)


def test_a_short_list_fits_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with opened(data / "events.db") as store:
        append(store, [event("long/" * 30 + "topic"), event("a/b")])
    config = gateway_config(tmp_path, "mqtt://127.0.0.1:9", gateway={"id": "g1", "data_dir": str(data)})
    monkeypatch.setattr("sys.argv", ["gateway", "buffer", "list", "--short", "-c", str(config)])
    with pytest.raises(SystemExit):
        main()
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) <= 80 for line in lines] == [True] * 3
    assert lines[1].endswith("…")
    assert lines[2].endswith(" a/b")
