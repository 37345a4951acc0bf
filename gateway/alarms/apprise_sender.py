"""Sends messages through Apprise, which knows some hundred services (extra `notify`).

The URLs hold passwords and tokens, and so does what Apprise logs: neither is ever logged or shown.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from gateway.alarms.notices import Notice
from gateway.core.errors import NotifyError

if TYPE_CHECKING:
    import apprise

_STATUS = re.compile(r"error=(\d{3})")
_LIBRARY_LOG = "apprise"
INSTALL = "run: pip install 'mqtt-edge-gateway[notify]'"


class AppriseSender:
    """One URL of Apprise. Raises NotifyError when it is not one."""

    def __init__(self, url: str) -> None:
        self._service = _service(url)
        self._warnings = _Warnings()

    def send(self, notice: Notice) -> None:
        """Send a message; blocks for some seconds at most. Raises NotifyError."""
        import apprise  # noqa: PLC0415 - an extra, and slow to import

        kind = apprise.NotifyType.SUCCESS if notice.is_good else apprise.NotifyType.WARNING
        log = logging.getLogger(_LIBRARY_LOG)
        log.addHandler(self._warnings)
        try:
            accepted = self._service.notify(body=notice.body, title=notice.title, notify_type=kind)
        except Exception as exc:  # noqa: BLE001 - foreign code; what it raises may hold the URL
            raise NotifyError(type(exc).__name__) from None
        finally:
            log.removeHandler(self._warnings)
        if not accepted:
            raise NotifyError(self._warnings.reason())


def scheme_of(url: str) -> str:
    """Return the name of the service in a URL, which is no secret."""
    scheme, found, _ = url.partition("://")
    return scheme.lower() if found and re.fullmatch(r"[A-Za-z0-9]{2,20}", scheme) else "url"


def _service(url: str) -> apprise.NotifyBase:
    try:
        import apprise  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise NotifyError("notifications need the extra `notify`", hint=INSTALL) from None
    log = logging.getLogger(_LIBRARY_LOG)
    log.propagate = False
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    service: Any = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if not isinstance(service, apprise.NotifyBase):
        raise NotifyError(
            f"Apprise cannot read this {scheme_of(url)} URL",
            hint="https://github.com/caronc/apprise/wiki shows the URL of each service",
        )
    return service


class _Warnings(logging.Handler):
    """Keeps of what Apprise says only what is no secret."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if found := _STATUS.search(text):
            self._reason = f"the service answered with status {found[1]}"
        elif "onnection" in text or "ocket" in text:
            self._reason = "no connection to the service"

    def reason(self) -> str:
        """Return why the last message was not accepted."""
        reason, self._reason = self._reason, ""
        return reason or "the service did not accept it"
