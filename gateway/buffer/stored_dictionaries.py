"""The compression dictionaries of a buffer: a table, and the compressor that works with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from zlib import crc32

import apsw
import orjson

from gateway.buffer.compression import FIRST_DICTIONARY, PayloadCompressor

log = logging.getLogger(__name__)

_RATIO = "dictionary_{}_permille"
"""In `meta`: compressed size of 1000 bytes with a dictionary."""


class StoredDictionaries:
    """The table `dictionaries`, and what it means for `compressor`. For the writer's thread."""

    def __init__(self, connection: apsw.Connection, compressor: PayloadCompressor) -> None:
        self._connection = connection
        self._compressor = compressor

    def load(self) -> None:
        """Compress with the committed dictionaries and no others."""
        compressor, ratios = self._compressor, self._ratios()
        compressor.forget()
        rows = self._connection.execute(
            "SELECT codec, family, content, checksum FROM dictionaries ORDER BY codec"
        )
        for codec, family, content, checksum in rows:
            if crc32(content) == checksum:
                compressor.install(codec, family, bytes(content), ratios.get(_RATIO.format(codec)))
            else:
                # Not back to an older one: that may be removed, because no new event can need it.
                compressor.retire(family)
                log.error("dictionary %d of %r is damaged, what it compressed is lost", codec, family)

    def install(self, family: str, content: bytes, now_ms: int, expected: float | None = None) -> None:
        """Store a dictionary and compress `family` with it from now on; it is expected to give that ratio."""
        # Never a number that was given before: events may have it whose dictionary is lost.
        given = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'dictionaries'")
        codec = max(FIRST_DICTIONARY, int(next(iter(given), (0,))[0]) + 1)
        self._connection.execute(
            "INSERT INTO dictionaries (codec, family, content, checksum, trained_at) VALUES (?, ?, ?, ?, ?)",
            (codec, family, content, crc32(content), now_ms),
        )
        self._compressor.install(codec, family, content, expected)
        if expected is not None:
            self._set_ratio(codec, expected)

    def keep(self, family: str, ratio: float) -> None:
        """Put up with the dictionary that `family` has, which gives that ratio: there is no better one."""
        codec = self._compressor.expect(family, ratio)
        if codec is not None:
            self._set_ratio(codec, ratio)

    def forget(self, codecs: Iterable[int]) -> int:
        """Remove dictionaries that no event needs, unless their family is compressed with them; return how
        many those were."""
        unused = self._compressor.superseded.intersection(codecs)
        self._connection.execute(
            "DELETE FROM dictionaries WHERE codec IN (SELECT value FROM json_each(?))",
            (orjson.dumps([*unused]).decode(),),
        )
        self._connection.execute(
            "DELETE FROM meta WHERE name IN (SELECT value FROM json_each(?))",
            (orjson.dumps([_RATIO.format(codec) for codec in unused]).decode(),),
        )
        self._compressor.superseded -= unused
        return len(unused)

    def _ratios(self) -> dict[str, float]:
        rows = self._connection.execute(
            "SELECT name, value FROM meta WHERE name LIKE ?", (_RATIO.format("%"),)
        )
        return {name: int(value) / 1000 for name, value in rows}

    def _set_ratio(self, codec: int, ratio: float) -> None:
        self._connection.execute(
            "REPLACE INTO meta (name, value) VALUES (?, ?)", (_RATIO.format(codec), str(round(1000 * ratio)))
        )
