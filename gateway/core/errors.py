"""The errors that callers can act on, each with what failed, on which thing, and what to do."""

from __future__ import annotations


class GatewayError(Exception):
    """Base of every error that this package raises on purpose.

    `hint` says what the reader can do about it; the command line prints it below the message.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(GatewayError):
    """Raised when a configuration cannot be used. `problems` lists every one, each with its place."""

    def __init__(self, message: str, problems: tuple[str, ...] = (), *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class ConfigFileError(ConfigError):
    """Raised when a configuration file cannot be read at all, such as one that is missing."""


class TopicError(GatewayError):
    """Raised when a topic, a topic filter or a topic template is not well formed."""


class UnitError(GatewayError):
    """Raised when a duration, a size or a rate cannot be read."""


class DecodeError(GatewayError):
    """Raised when bytes are not what they claim to be: a payload, a frame, a timestamp.

    `reason` is a short fixed word for a metric label, such as `json` or `too_large`.
    """

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class PluginError(GatewayError):
    """Raised when a window plugin cannot be found, loaded, or does not keep the plugin contract."""


class DeliveryError(GatewayError):
    """Raised when a delivery event is not allowed in an entry's state. Nothing has changed."""


class AlarmError(GatewayError):
    """Raised when an alarm is not there, or cannot be acknowledged or cleared. Nothing has changed."""


class NotifyError(GatewayError):
    """Raised when a notification cannot be sent, or its URL is none. It never holds the URL."""


class StoreError(GatewayError):
    """Raised when the buffer cannot be opened or cannot do what was asked of it."""


class LogHeldError(StoreError):
    """Raised when nothing may be committed for now, because a reader keeps the write-ahead log from being
    reset. Nothing has been begun."""


class DamageError(StoreError):
    """Raised when the buffer's file itself is damaged, so that only a new start can mend it."""


class DisplacedError(StoreError):
    """Raised when the buffer's file was deleted or replaced while it is open. Nothing may be acknowledged."""


class BufferLockedError(StoreError):
    """Raised when another process owns the data directory."""


class BrokerError(GatewayError):
    """Raised when a broker refuses us or cannot be reached."""


class SilentBrokerError(BrokerError):
    """Raised when a broker holds a connection, but does not answer on it."""


class ControlError(GatewayError):
    """Raised when a running gateway cannot be asked to do something, or says that it could not."""


def plain_reason(error: BaseException) -> str:
    """Return the reason in plain words: without the number of an OSError and without urllib's wrapping."""
    wrapped = getattr(error, "reason", None)
    inner = wrapped if isinstance(wrapped, OSError) else error
    return str(getattr(inner, "strerror", None) or inner) or type(inner).__name__
