"""The docs point to what is there: pages, sections, tests, files and commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway.cli import app
from tests.support.places import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that a page's headings have on GitHub."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


TEST_FILES = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    assert [name for name in re.findall(r"`(test_\w+?)(?:\.py)?`", text) if name not in TEST_FILES] == []
    paths = re.findall(r"\b((?:tests|benchmarks)/[\w/]+\.\w+)", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    functions = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert [name for path, name in functions if f"def {name}(" not in (ROOT / path).read_text()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_in_a_shell_block_exists(page: Path) -> None:
    root = typer.main.get_command(app)
    for block in SHELL.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            check_command(root, shlex.split(line, comments=True))


def test_every_decision_stands_in_the_list() -> None:
    decisions = ROOT / "docs" / "decisions"
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (decisions / "README.md").read_text()))
    assert linked == {page.name for page in decisions.glob("*.md")} - {"README.md"}


def check_command(root: Any, words: list[str]) -> None:
    if not words or Path(words[0]).name != "gateway":
        return
    command, options = root, {"--help"}
    for word in words[1:]:
        if word in ("|", ">", "&&"):
            break
        if hasattr(command, "get_command") and not word.startswith("-"):  # it has commands of its own
            command = command.get_command(typer.Context(command), word)
            assert command, " ".join(words)
        options |= {name for each in command.params for name in [*each.opts, *each.secondary_opts]}
        if word.startswith("-"):
            assert word.partition("=")[0] in options, " ".join(words)
