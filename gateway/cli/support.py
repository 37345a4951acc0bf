"""`gateway support`: what helps to find a fault, in one file without secrets."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr

from gateway import __version__
from gateway.app.signed_configs import SIGNED_FILE
from gateway.buffer.proof.balance import audit
from gateway.buffer.reader import Reader
from gateway.cli.settings import DEFAULT_CONFIG
from gateway.config import Config, load_config, warnings_of
from gateway.config.document import MAX_FILE_BYTES, read_document
from gateway.config.load import data_dir_of, read_config
from gateway.config.service_models import Http
from gateway.config.types import ProxyPlace
from gateway.core.errors import ConfigError
from gateway.core.units import parse_size_bytes
from gateway.host.bundle import write_bundle
from gateway.host.control import SOCKET_FILE, ask
from gateway.host.last_good import LAST_GOOD_FILE, last_good

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="What helps to find a fault, without secrets."
)

_TIMEOUT_S = 5.0
_PAGES = {"metrics.txt": "/metrics", "state.json": "/api/state", "clock.json": "/clock"}
_SECRET_WORDS = ("password", "token", "secret", "headers", "key", "proxy", "command")


@app.command()
def bundle(
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")] = DEFAULT_CONFIG,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: gateway-support-DATE.tar.gz.")
    ] = None,
    most: Annotated[
        str | None,
        typer.Option("--most", help="Most bytes, such as 256KiB: the longest parts lose their beginnings."),
    ] = None,
) -> None:
    """Write versions, configuration, log, metrics, state and buffer counts into one file, secrets out.

    Works while the gateway runs, while it does not, and where the configuration has problems. It takes no
    payloads of devices but those that are in the log.
    """
    output = output or Path(f"gateway-support-{time.strftime('%Y%m%dT%H%M%S')}.tar.gz")
    settings, problems = _settings(config)
    data_dir = settings.gateway.data_dir if settings else _data_dir(config)
    secrets = {secret for text in _texts(config, data_dir) for secret in _written_secrets(text)}
    secrets |= {*_secrets(settings)} if settings else set()
    parts = {
        "about.txt": _about(data_dir),
        "packages.txt": "\n".join(sorted(f"{each.name} {each.version}" for each in distributions())),
        "config.json": _config(settings, problems),
        "config_in_use.json": _said(partial(_asked, data_dir, "config")),
        "log.jsonl": _said(lambda: "\n".join(ask(data_dir / SOCKET_FILE, {"do": "log"}, _quiet)["lines"])),
        "health.json": _said(partial(_asked, data_dir, "health")),
        "buffer.txt": _said(lambda: _buffer(data_dir)),
        "data_dir.txt": _said(lambda: _listing(data_dir)),
    }
    if settings is not None and settings.http is not None:
        for name, path in _PAGES.items():
            parts[name] = _said(partial(_fetched, settings.http, path))
    output.write_bytes(write_bundle(parts, secrets, None if most is None else parse_size_bytes(most)))
    output.chmod(0o600)
    typer.echo(f"{output}: {', '.join(parts)}")
    typer.echo("known secrets are taken out; look into it before you send it")


@app.command()
def request(
    gateway: Annotated[
        str, typer.Option("--gateway", help="Id of the gateway that is asked; * is for every gateway.")
    ],
    key: Annotated[Path, typer.Option("--key", help="Private key, from `gateway keys new`.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for the message; without it stdout.")
    ] = None,
) -> None:
    """Sign a request for a bundle. Publish it, not retained, on gateway/ID/down/support of the cloud broker.

    The answer comes on gateway/ID/support: a compressed tar file of at most 256 KiB, or JSON with the reason
    why there is none.
    """
    from gateway.wire.support_request import SupportRequest  # noqa: PLC0415 - needs an extra

    message = SupportRequest(gateway, time.time_ns() // 1_000_000).sign(key.read_bytes())
    if output is None:
        sys.stdout.write(message.decode() + "\n")
    else:
        output.write_bytes(message)


def _settings(path: Path) -> tuple[Config | None, list[str]]:
    try:
        return load_config(path), []
    except ConfigError as exc:
        return None, [str(exc), *exc.problems]


def _data_dir(path: Path) -> Path:
    """Return the data directory of a configuration with problems."""
    try:
        found = data_dir_of(read_config(path), path.parent)
    except ConfigError:
        found = None
    if found is None and last_good(Path.cwd(), path, MAX_FILE_BYTES) is not None:
        return Path.cwd()
    return found or path.parent / "data"


def _about(data_dir: Path) -> str:
    lines = [
        f"gateway {__version__}",
        f"python {sys.version}",
        f"machine {platform.platform()} {platform.machine()}",
        f"time {time.strftime('%Y-%m-%dT%H:%M:%S%z')}",
    ]
    folder = next(each for each in (data_dir, *data_dir.absolute().parents) if each.exists())
    usage = shutil.disk_usage(folder)
    return "\n".join([*lines, f"disk of {folder}: {usage.free} of {usage.total} bytes are free"])


def _config(settings: Config | None, problems: list[str]) -> str:
    told: dict[str, Any] = {"problems": problems}
    if settings is not None:
        told = {"warnings": [*warnings_of(settings)], "config": settings.model_dump(mode="json")}
    return json.dumps(told, indent=2)


def _buffer(data_dir: Path) -> str:
    reader = Reader(data_dir / "events.db")
    try:
        counters = {" ".join(name): count for name, count in reader.counters().items()}
        return json.dumps({"counters": counters, "balance": repr(audit(reader))}, indent=2)
    finally:
        reader.close()


def _listing(data_dir: Path) -> str:
    found = [(each.relative_to(data_dir), each.stat()) for each in sorted(data_dir.rglob("*"))]
    lines = (f"{stat.st_size:>12} {stat.st_mode:o} {int(stat.st_mtime)} {name}" for name, stat in found)
    return "\n".join(lines)


def _fetched(http: Http, path: str) -> str:
    host = "127.0.0.1" if http.listen.host in ("0.0.0.0", "::") else http.listen.host  # noqa: S104 - no bind
    request = urllib.request.Request(f"http://{http.listen._replace(host=host)}{path}")
    if http.token is not None:
        request.add_header("Authorization", f"Bearer {http.token.get_secret_value()}")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - see above
        return str(answer.read(), "utf-8")


def _asked(data_dir: Path, what: str) -> str:
    """Return what the running gateway says."""
    return json.dumps(dict(ask(data_dir / SOCKET_FILE, {"do": what}, _quiet)), indent=2)


def _said(part: Callable[[], str]) -> str:
    """Return a part, or why it is missing: one that fails must not cost the others."""
    try:
        return part()
    except Exception as exc:  # noqa: BLE001 - whatever is wrong belongs into the bundle
        return "".join(traceback.format_exception_only(exc))


def _quiet(_done: int, _total: int) -> None:
    """Report nothing."""


def _secrets(value: object) -> Iterator[str]:
    """Yield every secret in a configuration."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, ProxyPlace):
        yield value.password or ""
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if name == "headers":
                yield from inner.values()
            elif name == "command" and isinstance(inner, str):
                yield inner  # it may hold a token for the program that it calls
            else:
                yield from _secrets(inner)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _secrets(each)


def _texts(config: Path, data_dir: Path) -> Iterator[str]:
    """Yield the configuration as written, and those that the gateway keeps: log and state may be theirs."""
    for path in (config, data_dir / LAST_GOOD_FILE):
        with suppress(ConfigError):
            yield read_config(path)
    with suppress(OSError, ValueError):
        kept = json.loads((data_dir / SIGNED_FILE).read_bytes())
        yield from (each["text"] for each in kept.values() if isinstance(each, dict) and "text" in each)


def _written_secrets(text: str) -> Iterator[str]:
    """Yield the values under keys that name a secret, with variables as written and filled in."""
    for environ in (dict[str, str](), os.environ):
        yield from _under_secret_keys(read_document(text, environ).data, named=False)


def _under_secret_keys(data: object, *, named: bool) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            secret = any(word in str(key).lower() for word in _SECRET_WORDS)
            hidden = named or (secret and not str(key).endswith(("_file", "key")))
            yield from _under_secret_keys(value, named=hidden)
    elif isinstance(data, list):
        for value in data:
            yield from _under_secret_keys(value, named=named)
    elif named and isinstance(data, str):
        yield data
