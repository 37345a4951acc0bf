"""The types of the configuration's values: what is written as text, and the number that code gets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from gateway.core import units
from gateway.core.errors import ConfigError, GatewayError
from gateway.core.events import Priority
from gateway.core.expressions import compile_expression
from gateway.core.timestamps import TimeBound, check_format, find_timezone, parse_time_bound
from gateway.core.topics import TopicTemplate
from gateway.host.files import read_regular

T = TypeVar("T")

# Names end up as topic levels, file names and metric labels, so they keep to what is safe in all three.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
FIELD_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$"
DURATION_PATTERN = r"^\s*(0|(\s*\d+(\.\d+)?\s*(ms|s|min|m|h|d)){1,5})\s*$"
SIZE_PATTERN = r"^\s*\d+(\.\d+)?\s*(B|[kK]B|[MG]B|[KMGT]iB)?\s*$"
RATE_PATTERN = r"^\s*\d+(\.\d+)?\s*([kKM]?bit|B|[kK]B|[MG]B|[KMGT]iB)?\s*/\s*s\s*$"


class Section(BaseModel):
    """Base of every part of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        defer_build=True,  # a section is built once, as part of the file, and not when it is defined, too
    )


def setting(default: object, description: str = "", **rules: Any) -> Any:
    """A key that may be left out. `default` is written as in the file: the type reads it like any value."""
    return Field(default, description=description, **rules)


class OrOff:
    """The schema of what may also be switched off: YAML reads `off` as false."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(core_schema), {"const": False}]}


def none_if_off(value: object) -> object:
    """Switched off, as a value that code can test."""
    return None if value in (False, "off") else value


def fault(message: str, hint: str = "") -> PydanticCustomError:
    """A problem with one value, for the reader of the configuration file."""
    text = f"{message}; {hint}" if hint else message
    return PydanticCustomError("config", "{text}", {"text": text})


def reading(parse: Callable[[Any], T]) -> Callable[[Any], T]:
    """`parse`, with its errors as faults that keep their place in the file."""

    def read(value: Any) -> T:
        try:
            return parse(value)
        except GatewayError as exc:
            raise fault(str(exc), exc.hint) from exc

    return read


def _text(kind: str, schema_pattern: str, *examples: str) -> WithJsonSchema:
    """The schema of a text; `kind` is its name in the reference."""
    schema = {"type": "string", "pattern": schema_pattern, "$comment": kind}
    return WithJsonSchema({**schema, "examples": list(examples)} if examples else schema)


def _positive(value: float) -> float:
    if value <= 0:
        raise fault("must be more than zero")
    return value


DurationMs = Annotated[
    int,
    BeforeValidator(reading(units.parse_duration_ms)),
    _text("duration", DURATION_PATTERN, "500ms", "10s", "5m", "1h"),
]
"""Written as `500ms`, `10s`, `1h30m`; milliseconds in code."""

PositiveDurationMs = Annotated[DurationMs, AfterValidator(_positive)]

SizeBytes = Annotated[
    int,
    BeforeValidator(reading(units.parse_size_bytes)),
    AfterValidator(_positive),
    WithJsonSchema(
        {"type": ["integer", "string"], "minimum": 1, "pattern": SIZE_PATTERN, "$comment": "size"}
    ),
]
"""Written as `64KiB`, `2GiB`; bytes in code."""

RateBytesPerS = Annotated[
    int,
    BeforeValidator(reading(units.parse_rate_bytes_per_s)),
    AfterValidator(_positive),
    _text("rate", RATE_PATTERN, "1MiB/s", "64kbit/s"),
]
"""Written as `1MiB/s`, `64kbit/s`; bytes per second in code."""

RatePerS = Annotated[
    float,
    BeforeValidator(reading(units.parse_rate_per_s)),
    AfterValidator(_positive),
    _text("rate of messages", r"^\s*\d+\s*/\s*(s|min)\s*$", "100/s", "30/min"),
]
"""Written as `100/s` or `30/min`; messages per second in code."""

Share = Annotated[
    float,
    BeforeValidator(reading(units.parse_share)),
    _text("share", r"^\s*\d+(\.\d+)?\s*%\s*$", "10%", "50%"),
]
"""Written as `10%`; a part of one in code."""


def _name(value: str) -> str:
    if not re.fullmatch(NAME_PATTERN, value):
        raise fault("a name has 1 to 64 letters, digits, '_', '-' or '.', and begins with a letter or digit")
    return value


Name = Annotated[str, AfterValidator(_name), _text("name", NAME_PATTERN)]


def _field_name(value: str) -> str:
    if not re.fullmatch(FIELD_PATTERN, value):
        raise fault("a field name has letters, digits, '_', '-' or '.', and begins with a letter or '_'")
    return value


FieldName = Annotated[str, AfterValidator(_field_name), _text("field name", FIELD_PATTERN)]


def _template(value: str) -> str:
    TopicTemplate(value)
    return value


Template = Annotated[
    str, AfterValidator(reading(_template)), WithJsonSchema({"type": "string", "$comment": "topic filter"})
]
"""A topic filter in which `{device}` names a level and `{rest...}`, at the end, all that follow."""


def _expression(value: str) -> str:
    # The names of levels are the route's business: it checks them where it knows its topic.
    if not re.fullmatch(r"\s*\{\s*\w+\s*\}\s*", value):
        compile_expression(value)
    return value


Expression = Annotated[
    str, AfterValidator(reading(_expression)), WithJsonSchema({"type": "string", "$comment": "expression"})
]
"""A JMESPath expression, or `{level}` for a named level of the topic."""


def _layout(value: str) -> str:
    check_format(value)
    return value


def _zone(value: str) -> str:
    find_timezone(value)
    return value


TimestampFormat = Annotated[str, AfterValidator(reading(_layout))]
TimeZoneName = Annotated[str, AfterValidator(reading(_zone))]


def _bound(value: object) -> TimeBound:
    if isinstance(value, TimeBound):
        return value
    if not isinstance(value, str):
        raise ConfigError("must be a time or a duration", hint="write 2020-01-01 or 1h")
    return parse_time_bound(value)


Bound = Annotated[
    TimeBound,
    BeforeValidator(reading(_bound)),
    WithJsonSchema({"type": "string", "$comment": "date or duration"}),
]


def _priority(value: object) -> object:
    if isinstance(value, Priority):
        return value
    names = [priority.name.lower() for priority in Priority]
    if not isinstance(value, str) or value not in names:
        expected = " or ".join(f"'{name}'" for name in names)
        raise PydanticCustomError("literal_error", "must be {expected}", {"expected": expected})
    return Priority[value.upper()]


PriorityName = Annotated[
    Priority,
    BeforeValidator(_priority),
    PlainSerializer(lambda priority: priority.name.lower(), return_type=str),
    WithJsonSchema({"enum": [priority.name.lower() for priority in Priority]}),
]


class HostPort(NamedTuple):
    """A network address; `host` without the brackets of IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_host_port(value: object, default_port: int | None = None) -> HostPort:
    """Read `127.0.0.1:8080`, `[::1]:8080`, `host`. Raises ConfigError with the valid forms."""
    if isinstance(value, HostPort):
        return value
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(\d{1,5}))?", str(value).strip())
    port = int(match[2]) if match and match[2] else default_port
    if match is None or port is None or not 0 < port < 65536:
        raise ConfigError("is not a network address", hint="write host:port, such as 127.0.0.1:8080")
    return HostPort(match[1].strip("[]"), port)


Listen = Annotated[
    HostPort,
    BeforeValidator(reading(parse_host_port)),
    PlainSerializer(str, return_type=str),
    _text("host:port", r"^.+:\d{1,5}$", "127.0.0.1:8080", "[::]:8080"),
]

EMBEDDED = "embedded"
DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_SYNONYMS = {"tcp": "mqtt", "ssl": "mqtts", "tls": "mqtts"}
_WEBSOCKET_PATH = "/mqtt"
_BROKER_PATTERN = r"^((mqtts?|tcp|ssl|tls)://[^@/?#]+/?|wss?://[^@/?#]+(/.*)?)$"
_BROKER_FORMS = "write mqtt://host:1883, mqtts://host:8883, ws://host:80/mqtt or wss://host:443/mqtt"


class BrokerPlace(NamedTuple):
    """The address of a broker. `path` is that of a WebSocket, else None."""

    scheme: str  # one of DEFAULT_PORTS
    address: HostPort
    path: str | None

    @property
    def uses_tls(self) -> bool:
        return self.scheme in ("mqtts", "wss")


def broker_place(url: str) -> BrokerPlace:
    """Take a broker's URL apart. Raises ConfigError, never with the URL in it."""
    scheme, separator, rest = url.partition("://")
    scheme = _SYNONYMS.get(scheme, scheme)
    if not separator or scheme not in DEFAULT_PORTS:
        raise ConfigError("is not a broker's address", hint=_BROKER_FORMS)
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise ConfigError(
            "must not hold a user or a password", hint="use username and password, or password_file"
        )
    address = parse_host_port(re.split(r"[?#]", authority)[0], DEFAULT_PORTS[scheme])
    if scheme.startswith("ws"):
        return BrokerPlace(scheme, address, slash + path if path else _WEBSOCKET_PATH)
    if path.strip("/") or "?" in rest or "#" in rest:
        raise ConfigError("ends after the port", hint="write mqtt://host:1883 or mqtts://host:8883")
    return BrokerPlace(scheme, address, None)


def broker_address(url: str) -> HostPort:
    """Host and port of a broker's URL. Raises ConfigError, never with the URL in it."""
    return broker_place(url).address


class ProxyPlace(NamedTuple):
    """A proxy, with what it wants to know."""

    scheme: Literal["http", "socks5"]
    address: HostPort
    username: str | None
    password: str | None

    def __repr__(self) -> str:
        return f"{self.scheme}://{self.address}"


def parse_proxy(value: object) -> ProxyPlace:
    """Read `http://host:port` or `socks5://user:password@host:port`. Raises ConfigError without the value."""
    if isinstance(value, ProxyPlace):
        return value
    scheme, _, rest = str(value).partition("://")
    if scheme not in ("http", "socks5"):
        raise ConfigError("is not a proxy", hint="write http://host:3128 or socks5://host:1080")
    login, _, place = rest.rstrip("/").rpartition("@")
    username, _, password = login.partition(":")
    address = parse_host_port(place, 3128 if scheme == "http" else 1080)
    known: Literal["http", "socks5"] = "http" if scheme == "http" else "socks5"
    return ProxyPlace(known, address, unquote(username) or None, unquote(password) or None)


ProxyUrl = Annotated[
    ProxyPlace,
    BeforeValidator(reading(parse_proxy)),
    PlainSerializer(repr, return_type=str),
    _text("proxy", r"^(http|socks5)://.+$"),
]


def _cloud_url(value: str) -> str:
    broker_address(value)
    return value


def _cloud_urls(value: object) -> object:
    urls = list(value) if isinstance(value, list | tuple) else [value]
    if not urls or not all(isinstance(url, str) for url in urls):
        raise ConfigError("is not a broker's address", hint=_BROKER_FORMS)
    for url in urls:
        broker_place(str(url))
    return value


def _local_url(value: str) -> str:
    return value if value == EMBEDDED else _cloud_url(value)


_BROKER_URL = {"type": "string", "pattern": _BROKER_PATTERN, "$comment": "broker"}
BrokerUrls = Annotated[
    str | tuple[str, ...],
    BeforeValidator(reading(_cloud_urls)),
    WithJsonSchema({"anyOf": [_BROKER_URL, {"type": "array", "items": _BROKER_URL, "minItems": 1}]}),
]
LocalUrl = Annotated[
    str, AfterValidator(reading(_local_url)), _text("broker", f"^embedded$|{_BROKER_PATTERN}")
]


def _protocol(value: object) -> object:
    return str(value) if type(value) is int else value


def base_dir(info: ValidationInfo) -> Path:
    """The folder that relative paths start from: that of the configuration file."""
    context = info.context or {}
    return Path(context.get("base_dir", "."))


def _resolve(value: Path, info: ValidationInfo) -> Path:
    return base_dir(info) / value.expanduser()


def _existing(value: Path, info: ValidationInfo) -> Path:
    path = _resolve(value, info)
    if not path.is_file():
        raise fault(f"there is no file {value}", "paths are relative to the configuration file")
    return path


_PATH = WithJsonSchema({"type": "string", "$comment": "path"})
AnyPath = Annotated[Path, AfterValidator(_resolve), _PATH]
FilePath = Annotated[Path, AfterValidator(_existing), _PATH]

Protocol = Annotated[
    Literal["3.1.1", "5"], BeforeValidator(_protocol), WithJsonSchema({"enum": ["3.1.1", "5", 5]})
]


def blank_as_none(value: object) -> object:
    """An empty text is what `${VARIABLE:-}` leaves of a variable that is not set."""
    return None if value == "" else value


# Longer than any password or token; a bound, so that a wrong path cannot pull a disk image into memory.
MAX_SECRET_BYTES = 64 * 1024


def read_secret(path: Path) -> SecretStr:
    """The text of a secret's file without the white space around it. Raises a fault."""
    try:
        content = read_regular(path, MAX_SECRET_BYTES + 1)
    except OSError as exc:
        raise fault(f"cannot read the password file: {exc.strerror}") from exc
    if len(content) > MAX_SECRET_BYTES:
        raise fault("the password file is larger than 64 KiB")
    try:
        return SecretStr(content.decode().strip())
    except UnicodeDecodeError:
        raise fault("the password file is not UTF-8 text") from None
