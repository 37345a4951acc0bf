"""Reads from certificate files when they expire, and says so in time."""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)

SOON_S = 30 * 86_400.0
_URGENT_S = 7 * 86_400.0
_LOOK_EVERY_S = 3600.0
_PEM = re.compile(rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----(.+?)-----END", re.DOTALL)
_VERSION, _UTC_TIME, _LONG_LENGTH = 0xA0, 0x17, 0x80
_VALIDITY = 3  # behind serial number, signature algorithm and issuer; the version may be left out


@dataclass(frozen=True)
class CertificateFile:
    """One file of a configuration. `name` is its key there. A file of authorities may hold old ones, too."""

    name: str
    path: Path
    holds_authorities: bool = False

    def expires_at_s(self) -> float | None:
        """Return when the file is no longer good for anything, Unix time; None where it cannot be told.

        Of a chain every certificate is needed; of authorities, the one that lasts longest counts.
        """
        try:
            ends_s = [_not_after_s(der) for der in _certificates(self.path.read_bytes())]
        except (OSError, ValueError, IndexError, StopIteration):
            return None  # what is wrong with it is said when it is used
        return (max if self.holds_authorities else min)(ends_s, default=None)

    def warning(self, now_s: float, soon_s: float = SOON_S) -> str:
        """Return in words that the file expires within `soon_s`, or has expired; empty where it has not."""
        ends_s = self.expires_at_s()
        if ends_s is None or ends_s - now_s > soon_s:
            return ""
        name, day = f"{self.name} ({self.path})", _day(ends_s)
        if ends_s > now_s:
            return f"{name} expires in {_days(ends_s - now_s)}, on {day}: put a new one in its place"
        return f"{name} expired on {day}, it is {_day(now_s)} now: put a new one in its place"


class CertificateWatch:
    """Looks at `files` once an hour. `alert(name, message)` is called when one expires soon, and again when
    it becomes urgent and when it has expired."""

    def __init__(
        self, files: Sequence[CertificateFile], alert: Callable[[str, str], None], now_ms: Callable[[], int]
    ) -> None:
        self.files = tuple(files)
        self._alert = alert
        self._now_ms = now_ms
        self._next_look_s = 0.0
        self._said: set[tuple[CertificateFile, float, float]] = set()  # with its end and within what it was

    def look(self, monotonic_s: float) -> None:
        """Look when it is time to. Raises nothing."""
        if monotonic_s < self._next_look_s:
            return
        self._next_look_s = monotonic_s + _LOOK_EVERY_S
        now_s = self._now_ms() / 1000
        for file in self.files:
            within_s = next((each for each in (0.0, _URGENT_S, SOON_S) if file.warning(now_s, each)), None)
            about = file, file.expires_at_s() or 0.0, within_s or 0.0
            if within_s is not None and about not in self._said:
                self._said.add(about)
                message = file.warning(now_s)
                log.warning("%s", message)
                self._alert("certificate_expires", message)

    def left_s(self) -> Iterator[tuple[CertificateFile, float]]:
        """Yield how long each file is still good; negative for one that has expired."""
        now_s = self._now_ms() / 1000
        for file in self.files:
            if (ends_s := file.expires_at_s()) is not None:
                yield file, ends_s - now_s


def _certificates(content: bytes) -> Iterator[bytes]:
    for match in _PEM.finditer(content):
        try:
            yield base64.b64decode(match[1])
        except binascii.Error:
            continue


def _not_after_s(der: bytes) -> float:
    """Read the second date of a certificate (RFC 5280, 4.1). Raises ValueError, IndexError, StopIteration."""
    _, certificate = next(_elements(der))
    _, to_be_signed = next(_elements(certificate))
    fields = [content for tag, content in _elements(to_be_signed) if tag != _VERSION]
    _, (tag, text) = _elements(fields[_VALIDITY])
    digits = text.decode("ascii")
    if tag == _UTC_TIME:  # two digits for the year: 50 and more are of the last century
        digits = ("19" if digits >= "5" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (tag, content) of what follows one another in `der`."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length >= _LONG_LENGTH:
            digits = length - _LONG_LENGTH
            length = int.from_bytes(der[at : at + digits], "big")
            at += digits
        yield tag, der[at : at + length]
        at += length


def _days(seconds: float) -> str:
    days = int(seconds // 86_400)
    return f"{days} day{'s' * (days != 1)}" if days else "less than a day"


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).date().isoformat()
