"""Log lines for people on a terminal, JSON lines for machines."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import orjson

_CHATTY = ("asyncio", "peewee")
"""Libraries that on level debug write each statement with its values, or each step of their own."""


class JsonFormatter(logging.Formatter):
    """Log format with one JSON object per record: time (RFC 3339), level, logger, thread, message, and error
    if any."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(entry).decode()
        except TypeError:  # half a surrogate, as in a file name that is no UTF-8: the line must not be lost
            whole = {name: str(value).encode(errors="backslashreplace") for name, value in entry.items()}
            return orjson.dumps({name: value.decode() for name, value in whole.items()}).decode()


def set_up_logging(level: str, form: Literal["auto", "text", "json"]) -> None:
    """Log to stderr. `auto` is text where stderr is a terminal."""
    handler = logging.StreamHandler()
    if form == "json" or (form == "auto" and not sys.stderr.isatty()):
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.INFO if level == "debug" else logging.NOTSET)
