"""CSV: a reading a line."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from gateway.core.errors import DecodeError
from gateway.decode.decoders.plain import check_size, check_utf8


@dataclass(frozen=True, slots=True)
class CsvSpec:
    """The format of lines. Without `columns` and header they are called `c1`, `c2`, …"""

    columns: tuple[str, ...] = ()
    separator: str = ","
    decimal: str = "."
    header: bool = False


class CsvParser:
    """Reads payloads of one layout, as `decoders.Parse`."""

    def __init__(self, spec: CsvSpec) -> None:
        self._spec = spec
        self._number = re.compile(
            rf"[+-]?(?:\d+{re.escape(spec.decimal)}?\d*|{re.escape(spec.decimal)}\d+)(?:[eE][+-]?\d{{1,3}})?",
            re.ASCII,
        )

    def __call__(self, payload: bytes, _arrival_ms: int = 0) -> list[object]:
        """An object for each line. None, which is a miss, for a line with more cells than columns."""
        check_size(payload)
        rows = self._rows(payload)
        columns = self._spec.columns
        if self._spec.header and rows:
            names = [name.strip() for name in rows.pop(0)]
            columns = columns or tuple(names)
        if not rows:
            raise DecodeError("there is no line to read", reason="csv")
        return [self._reading(row, columns) for row in rows]

    def _rows(self, payload: bytes) -> list[list[str]]:
        check_utf8(payload)
        text = payload.decode()
        if "\0" in text:
            raise DecodeError("a NUL is in the text", reason="csv")
        lines = io.StringIO(text, newline="")
        try:
            rows = list(csv.reader(lines, delimiter=self._spec.separator, skipinitialspace=True, strict=True))
        except csv.Error as exc:
            raise DecodeError(f"not CSV: {exc}", reason="csv") from exc
        return [row for row in rows if any(cell.strip() for cell in row)]

    def _reading(self, row: list[str], columns: tuple[str, ...]) -> dict[str, object] | None:
        if not columns:
            return {f"c{number}": self._value(cell) for number, cell in enumerate(row, 1)}
        if any(cell.strip() for cell in row[len(columns) :]):
            return None
        cells = [self._value(cell) for cell in row[: len(columns)]]
        return dict(zip(columns, cells + [None] * (len(columns) - len(cells)), strict=True))

    def _value(self, cell: str) -> object:
        """A number where the whole cell is one, null for an empty one, else text."""
        cell = cell.strip()
        if not self._number.fullmatch(cell):
            return cell or None
        if cell.lstrip("+-").isdecimal():
            return int(cell)
        return float(cell.replace(self._spec.decimal, "."))
