"""Docstrings begin with an imperative or a noun phrase, and texts use plain English (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import DOCS, ROOT

CLAUSE = re.compile(r"(What|Whether|Where|Which|How|Who|Whose|Whom|When|That|Why|Whatever|Whoever)\b")
DIALECT = {
    r"(cannot|could not|to|can) be had": "is not available",
    r"cannot be said": "is unknown",
    r"\bwho (asks|knows no|reads|needs it)\b": "a client, a reader",
    r"\bfor who\b": "for a client that, for operators who",
    r"\bbe born again\b": "send a new birth",
    r"\bthose who bend\b": "devices, acknowledgements, intake",
    r"\bas they use to\b": "as usual",
    r"\beverybody\b": "everyone, all clients, all parts",
    r"\b(files?|those|reasons|that) of before\b": "earlier",
    r"\bon their way wait again\b": "will be sent again",
    r"\bof one's own\b": "custom, your own",
}
"""Phrases that readers stumble over, each with words to use instead."""
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / "gateway").rglob("*.js"), *ROOT.glob("*.md")])
MODULES = sorted([*(ROOT / "gateway").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])


def documented(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, those below attributes included."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def found(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        for phrase, instead in DIALECT.items():
            if hit := re.search(phrase, line, re.IGNORECASE):
                yield f"{path.relative_to(ROOT)}:{number}: {hit[0]!r}: rather {instead}"


def test_no_docstring_begins_with_a_clause() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in MODULES
        for line, text in documented(ast.parse(path.read_text()))
        if CLAUSE.match(text)
    ]
    assert not wrong, "begin with an imperative (Return …) or a noun (Number of …):\n" + "\n".join(wrong)


@pytest.mark.parametrize("files", [MODULES, PAGES], ids=["code", "pages"])
def test_texts_use_plain_words(files: list[Path]) -> None:
    wrong = [
        line
        for path in files
        if path.name != "CHANGELOG.md" and ".min." not in path.name
        for line in found(path, path.read_text())
    ]
    assert not wrong, "\n".join(wrong)


def test_a_clause_and_a_dialect_phrase_are_found() -> None:
    assert CLAUSE.match("Whether the disk is full.") and not CLAUSE.match("Wherever")
    assert [*found(ROOT / "x.md", "The port cannot be had.")] == [
        "x.md:1: 'cannot be had': rather is not available"
    ]
