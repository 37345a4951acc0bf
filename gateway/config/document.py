"""A YAML file as plain data, with the line of every value, and `${VARIABLE}` filled in.

Only the YAML that a configuration needs: text, numbers, booleans, lists and mappings. Dates stay text.
Duplicate keys, tags, and aliases that would grow without end are problems.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

Path = tuple[str | int, ...]

MAX_FILE_BYTES = 1024 * 1024
# Many times what a large configuration has; an alias bomb has billions.
MAX_VALUES = 100_000
MAX_DEPTH = 32

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[^}:]*)(?::-(?P<default>[^}]*))?\})")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WHOLE = re.compile(r"[-+]?\d{1,18}")
_DECIMAL = re.compile(r"[-+]?\d+\.\d*(?:[eE][-+]?\d+)?")
_TEXT_KINDS = ("str", "int", "float", "timestamp", "merge", "value")


class Problem(NamedTuple):
    """Something wrong at `path`; `line` only where that is not the line of the path itself."""

    path: Path
    message: str
    line: int | None = None


@dataclass
class Document:
    """The content of a file. `lines` has the line of every value: that of its key, where it has one.

    `substituted` has the text as written of each value that a variable went into: such a value may be a
    secret and is never shown.
    """

    data: object = None
    lines: dict[Path, int] = field(default_factory=dict)
    substituted: dict[Path, tuple[str, str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_document(text: str, environ: Mapping[str, str]) -> Document:
    """Parse `text`. Never raises: what is wrong is in `problems` of the result."""
    document = Document()
    try:
        node = _compose(text)
        if node is not None:
            document.data = _Reader(document, environ).read(node, ())
    except _UnreadableError as exc:
        document.problems.append(Problem((), str(exc), exc.line))
    return document


class _UnreadableError(Exception):
    """Raised when nothing can be made of the file."""

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


def _compose(text: str) -> yaml.Node | None:
    if len(text.encode(errors="surrogatepass")) > MAX_FILE_BYTES:
        raise _UnreadableError("the file is larger than 1 MiB")
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 1
        raise _UnreadableError(_in_words(str(exc.problem), text, line), line) from exc
    except yaml.YAMLError as exc:
        raise _UnreadableError(f"not valid YAML: {str(exc).splitlines()[0]}") from exc
    except RecursionError as exc:
        raise _UnreadableError("nested too deeply") from exc


def _in_words(problem: str, text: str, line: int) -> str:
    """Explain YAML's errors about tabs and about a missing space after a colon."""
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    if r"'\t'" in problem or "\t" in written[: len(written) - len(written.lstrip())]:
        return "not valid YAML: a tab; YAML is indented with spaces only"
    if "could not find expected ':'" in problem or "mapping values are not allowed" in problem:
        return f"not valid YAML: {problem}; is a space missing behind a colon, here or above?"
    return f"not valid YAML: {problem}"


class _Reader:
    """Turns YAML nodes into data; knows how much it has made already."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._count = 0

    def read(self, node: yaml.Node, path: Path) -> object:
        self._count += 1
        line = node.start_mark.line + 1
        if self._count > MAX_VALUES:
            raise _UnreadableError(f"more than {MAX_VALUES} values; do aliases repeat each other?", line)
        if len(path) > MAX_DEPTH:
            raise _UnreadableError(f"nested more than {MAX_DEPTH} levels deep", line)
        self._document.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, position)) for position, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(path, "a key must be text", line)
                continue
            inner = (*path, str(key_node.value))
            if key_node.value in mapping:
                first = self._document.lines[inner]
                self._problem(inner, f"stands here a second time; the first is in line {first}", line)
                continue
            self._document.lines[inner] = line
            mapping[key_node.value] = self.read(value_node, inner)
        return mapping

    def _scalar(self, node: yaml.Node, path: Path) -> object:
        text, kind = str(node.value), node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        # YAML 1.1 also reads 12:30 and 0x10 as numbers: here they are text.
        if kind == "int" and _WHOLE.fullmatch(text):
            return int(text)
        if kind == "float" and _DECIMAL.fullmatch(text):
            return float(text)
        if kind not in _TEXT_KINDS:
            self._problem(path, f"the YAML tag {node.tag} is not used here", node.start_mark.line + 1)
        return self._substitute(text, path)

    def _substitute(self, text: str, path: Path) -> str:
        value = _VARIABLE.sub(lambda match: self._fill(match, path), text) if "$" in text else text
        if value != text:
            self._document.substituted[path] = (text, value)
        return value

    def _fill(self, match: re.Match[str], path: Path) -> str:
        name, default = match["name"], match["default"]
        if name is None:
            return "$"
        if not _NAME.fullmatch(name):
            self._problem(path, f"{match[0]} names no variable; write $$ for a plain $")
        elif default is None and name not in self._environ:
            self._problem(path, f"the environment variable {name} is not set; or write ${{{name}:-default}}")
        return self._environ.get(name) or default or ""

    def _problem(self, path: Path, message: str, line: int | None = None) -> None:
        self._document.problems.append(Problem(path, message, line))
