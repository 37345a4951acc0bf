"""Values of query parameters: a wrong one is answered with 400 and the reason, wherever it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.core.errors import TopicError
from gateway.core.topics import check_filter

LARGEST = 2**62
"""Numbers up to here fit into the 64 bits of a database, also when a span of time is added."""
_QUOTED = 40


class BadQueryError(ValueError):
    """Raised when a query does not say what is wanted; its text says why."""


async def refusal(_request: Request, exc: Exception) -> Response:
    """Answer a request that raised a BadQueryError."""
    return PlainTextResponse(str(exc), 400)


def one_of(query: Mapping[str, str], name: str, words: Sequence[str]) -> str:
    """Return parameter `name`, the first of `words` where it is absent. Raises BadQueryError."""
    word = query.get(name, words[0])
    if word not in words:
        raise BadQueryError(f"{name} is {', '.join(words[:-1])} or {words[-1]}, not {_quoted(word)}")
    return word


def topic_filter(query: Mapping[str, str], name: str) -> str:
    """Return the filter in parameter `name`, all topics where it is absent. Raises BadQueryError."""
    text = query.get(name) or "#"
    try:
        check_filter(text)
    except TopicError as exc:
        raise BadQueryError(f"{name}: {exc}") from exc
    return text


def whole_number(
    query: Mapping[str, str], name: str, default: int | None = None, least: int = 0, most: int = LARGEST
) -> int:
    """Return parameter `name`, or the default where it is absent or empty.

    Raises BadQueryError for anything but a whole number from `least` to `most`.
    """
    text = query.get(name, "")
    if not text and default is not None:
        return default
    # int() itself refuses thousands of digits.
    if text.isdecimal() and len(text) <= len(str(LARGEST)) and least <= int(text) <= most:
        return int(text)
    raise BadQueryError(f"{name} is a whole number from {least} to {most}, not {_quoted(text)}")


def rows_wanted(query: Mapping[str, str], default: int, most: int) -> slice:
    """Return the rows of a list that `offset` and `limit` choose. Raises BadQueryError."""
    offset, limit = whole_number(query, "offset", 0), whole_number(query, "limit", default, 1, most)
    return slice(offset, offset + limit)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")
