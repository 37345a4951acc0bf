"""Problems that pydantic found, in the words of the file: place, line, message, nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gateway.config.document import Document, Path, Problem

_MESSAGES = {
    "missing": "is required",
    "string_type": "must be text; put a number or a yes/no in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "model_type": "must be a section with keys of its own",
    "model_attributes_type": "must be a section with keys of its own",
    "mapping_type": "must be a section with keys of its own",
    "dict_type": "must be a section with keys of its own",
    "tuple_type": "must be a list",
    "union_tag_not_found": "needs a type: tumbling, hopping, calendar, session, count or global",
}


def place(path: Path) -> str:
    """`('routes', 0, 'fields')` as `routes[0].fields`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def describe(document: Document, problem: Problem, source: str) -> str:
    """Return a problem as `file:line: place: message`."""
    line = problem.line or _line(document, problem.path)
    where = f"{place(problem.path)}: " if problem.path else ""
    return f"{source}:{line}: {where}{_hidden(problem, document)}"


def _line(document: Document, path: Path) -> int:
    """The line of `path`, or of the nearest part of the file that holds it."""
    while path and path not in document.lines:
        path = path[:-1]
    return document.lines.get(path, 1)


def from_pydantic(error: ErrorDetails, model: type[BaseModel], document: Document) -> Problem:
    """Turn one error of a model's validation into a problem of the file."""
    path = _path(error["loc"], document.data)
    return Problem(path, _message(error, model))


_PYDANTIC_STEPS = ("[key]", "[section]", "[expression]")


def _path(loc: tuple[int | str, ...], data: object) -> Path:
    """`loc` without the names of union members, which pydantic puts between the file's own keys."""
    path: list[str | int] = []
    tagged: object = None
    for position, step in enumerate(loc):
        if isinstance(data, dict) and data is not tagged and data.get("type") == step:
            tagged = data  # `window: {type: count, count: 5}`: the first `count` is the member's name
            continue
        inside = (isinstance(data, dict) and step in data) or (
            isinstance(data, list) and isinstance(step, int) and step < len(data)
        )
        if inside:
            data = data[step]  # type: ignore[index] # just seen to be there
            path.append(step)
        elif isinstance(data, dict) and position == len(loc) - 1:
            path.append(step)
    return tuple(step for step in path if step not in _PYDANTIC_STEPS)


def _message(error: ErrorDetails, model: type[BaseModel]) -> str:
    context: Mapping[str, Any] = error.get("ctx", {})
    kind = error["type"]
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        return "unknown key" + suggestion(name, _known_names(model, error["loc"][:-1]))
    if kind in ("literal_error", "union_tag_invalid"):
        expected = str(context.get("expected") or context.get("expected_tags"))
        given = error["input"] if kind == "literal_error" else context.get("tag")
        return f"must be {_unquoted(expected)}" + suggestion(given, re.findall(r"'([^']*)'", expected))
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    if kind == "config":
        return str(error["msg"])
    return str(error["msg"]).replace("Input should", "must").replace("Value error, ", "")


def _unquoted(expected: str) -> str:
    return expected.replace("'", "")


def suggestion(given: object, known: list[str]) -> str:
    """`" (did you mean 'x'?)"` where one of `known` is near what was given."""
    near = difflib.get_close_matches(str(given), known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near and near[0] != given else ""


def _hidden(problem: Problem, document: Document) -> str:
    """The message without values that came out of variables: it shows what stands in the file instead."""
    message = problem.message
    for path, (written, value) in document.substituted.items():
        if value and path[: len(problem.path)] == problem.path:
            message = message.replace(repr(value)[1:-1], written).replace(value, written)
    return message


def _known_names(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the section that `loc` leads to."""
    candidates: list[type[BaseModel]] = [model]
    for step in loc:
        inner = [
            nested
            for candidate in candidates
            if step in candidate.model_fields
            for nested in _models(candidate.model_fields[str(step)].annotation)
        ]
        tagged = [candidate for candidate in candidates if step in _tags(candidate)]
        candidates = inner or tagged or candidates
    return [name for candidate in candidates for name in candidate.model_fields]


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if get_origin(annotation) is None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in get_args(annotation):
        yield from _models(argument)


def _tags(model: type[BaseModel]) -> tuple[object, ...]:
    field = model.model_fields.get("type")
    return get_args(field.annotation) if field else ()
