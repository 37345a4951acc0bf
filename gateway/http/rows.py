"""Rows as lines of text: JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import orjson

Row = dict[str, Any]
Rows = AsyncIterator[list[Any]]
"""Each a `Row`, or for NDJSON its line as bytes."""

OTHER = "other"
"""The column of CSV for what the first rows did not have."""


async def ndjson_lines(rows: Rows) -> AsyncIterator[bytes]:
    """Yield one JSON object per line."""
    async for some in rows:
        yield b"".join(
            row if isinstance(row, bytes) else orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
            for row in some
        )


async def csv_lines(rows: Rows) -> AsyncIterator[bytes]:
    """A header from the first rows, then a line each: `result.mean` for what lies deeper, lists as JSON."""
    columns: list[str] = []
    async for some in rows:
        flat = [flattened(row) for row in some]
        if not columns:
            columns = [*dict.fromkeys(name for row in flat for name in row), OTHER]
            yield _line(columns)
        yield b"".join(_line(_cells(row, columns)) for row in flat)


def flattened(row: Row, above: str = "") -> Row:
    """Objects inside of objects as one level, with dots in the names."""
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, dict) and (above, name) != ("quality.", "sources"):  # its names are topics
            flat |= flattened(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat


def _cells(row: Row, columns: list[str]) -> list[object]:
    others = {name: value for name, value in row.items() if name not in columns}
    known = [_cell(row.get(name)) for name in columns[:-1]]
    return [*known, orjson.dumps(others).decode() if others else ""]


def _cell(value: object) -> object:
    return orjson.dumps(value).decode() if isinstance(value, (dict, list, bool)) else value


def _line(cells: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()
