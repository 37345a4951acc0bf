"""`gateway buffer retry|drop|compact|restore|adopt`: what an operator changes by hand.

A running gateway is asked through its control socket; the buffer of a stopped one is opened here, under the
lock that keeps a gateway from starting meanwhile. What was done says which of the two it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import orjson
import typer

from gateway.alarms.register import AlarmRegister
from gateway.alarms.requests import alarm_operations
from gateway.buffer.alerts import append_alert
from gateway.buffer.event_filter import EventFilter
from gateway.buffer.lock import DataDirLock
from gateway.buffer.opening import OpenedStore, open_buffer
from gateway.buffer.operator_actions import Operation, OperatorActions, operations
from gateway.buffer.reader import Reader
from gateway.buffer.repair.recovery import backup_path
from gateway.buffer.repair.restore import restore as restore_buffer
from gateway.buffer.store import Store
from gateway.cli.buffer_options import (
    AsJson,
    ConfigFile,
    FromTime,
    NewerThan,
    OfKind,
    OfStatus,
    OfStream,
    OlderThan,
    ToTime,
    buffer_path,
    choice_of,
    moment_ms,
    progress_bar,
)
from gateway.cli.settings import DEFAULT_CONFIG, load_config
from gateway.core.errors import BrokerError, BufferLockedError, StoreError
from gateway.core.events import Status
from gateway.core.own_topics import OwnTopics
from gateway.core.units import format_bytes
from gateway.delivery.states import DeliveryEvent, sources
from gateway.host.control import SOCKET_FILE, ask
from gateway.local.subscriptions import MEMORY_FILE, Memory

if TYPE_CHECKING:
    from gateway.config import Config

ROLE = "`gateway buffer` command"

EventIds = Annotated[
    list[str] | None, typer.Argument(help="Event ids; default: all that the options select.")
]
All = Annotated[bool, typer.Option("--all", help="All events, without any other option.")]

T = TypeVar("T")


class Done(NamedTuple):
    """The result of a change. `live`: made by a running gateway."""

    result: Mapping[str, Any]
    live: bool


def retry(
    config: ConfigFile = DEFAULT_CONFIG,
    event_ids: EventIds = None,
    kind: OfKind = None,
    stream: OfStream = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Send failed events again: they become pending, their attempts start at zero, and no stream pauses."""
    choice = choice_of(None, kind, stream, older_than, newer_than, event_ids or ())
    _require_choice(choice, everything)
    done = change(config, {"do": "retry", "choice": choice.as_json()}, "retrying")
    _require_some(done.result["retried"], choice, "failed")
    tell(done, as_json, f"{done.result['retried']:,} events are pending again")


def drop(
    config: ConfigFile = DEFAULT_CONFIG,
    event_ids: EventIds = None,
    status: OfStatus = None,
    kind: OfKind = None,
    stream: OfStream = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove events for good: failed and corrupt ones, or with --status pending those that wait.

    Each loss is counted, and announced on the gateway's alerts topic.
    """
    choice = choice_of(status, kind, stream, older_than, newer_than, event_ids or ())
    _require_choice(choice, everything)
    if choice.status is not None and choice.status not in sources(DeliveryEvent.DROP):
        raise typer.BadParameter(
            f"{choice.status.name.lower()} events cannot be dropped", param_hint="--status"
        )
    if not yes:
        wanted = _count(buffer_path(config), choice)
        _require_some(wanted, choice, _named(_droppable(choice)))
        typer.confirm(f"Remove {wanted:,} events for good?", abort=True, err=True)
    done = change(config, {"do": "drop", "choice": choice.as_json()}, "dropping")
    _require_some(done.result["dropped"], choice, _named(_droppable(choice)))
    tell(done, as_json, f"{done.result['dropped']:,} events were dropped")


def forward(
    config: ConfigFile = DEFAULT_CONFIG,
    event_ids: EventIds = None,
    kind: OfKind = None,
    stream: OfStream = None,
    from_time: FromTime = None,
    to_time: ToTime = None,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Send events to the cloud that were kept at the edge: they become pending."""
    choice = replace(
        choice_of(None, kind, stream, None, None, event_ids or ()),
        from_ms=moment_ms(from_time, "--from"),
        before_ms=moment_ms(to_time, "--to"),
    )
    _require_choice(choice, everything)
    done = change(config, {"do": "forward", "choice": choice.as_json()}, "forwarding")
    _require_some(done.result["forwarded"], choice, "kept", "--status kept")
    tell(done, as_json, f"{done.result['forwarded']:,} events go to the cloud")


def compact(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Give free space in the file back to the file system. A running gateway keeps running."""
    done = change(config, {"do": "compact"}, "compacting")
    before, after = (format_bytes(done.result[name]) for name in ("before_bytes", "after_bytes"))
    tell(done, as_json, f"{before} → {after}")


def restore(
    config: ConfigFile = DEFAULT_CONFIG,
    backup: Annotated[
        Path | None, typer.Argument(help="Backup file; default: the one that `gateway buffer backup` makes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replace the buffer of a stopped gateway by a backup. The replaced files stay beside it."""
    settings = load_config(config)
    path = settings.gateway.buffer_path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _stopped(path, "restore"), progress_bar() as progress:
        progress.add_task("copying and checking", total=None)
        done = restore_buffer(path, backup or backup_path(path), _now_ms(), partial(_announce, settings))
    result = done._asdict() | {"kept_aside": str(done.kept_aside) if done.kept_aside else None}
    aside = f"; what was there is in {done.kept_aside}" if done.kept_aside else ""
    tell(
        Done(result, live=False), as_json, f"{done.events:,} events restored, {done.pending:,} pending{aside}"
    )
    if not done.numbers_known:
        typer.echo(
            "the replaced buffer could not be read: sequence numbers that were used after the backup are"
            " used again",
            err=True,
        )


def adopt(
    config: ConfigFile = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    leave_session: Annotated[
        bool, typer.Option("--leave-session", help="Do not end the old session at the local broker.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take over the buffer of a stopped gateway under the configured gateway.id, with its waiting events.

    The old session at the local broker is ended, with the messages queued in it: run the gateway under its
    old id first, until that queue is empty.
    """
    settings, path = load_config(config), buffer_path(config)
    with _stopped(path, "adopt"):
        opened = _open(settings, path, adopt=True)
        try:
            owner = opened.store.identity.gateway_id
            foreign = owner not in ("", settings.gateway.id)
            old_client = "" if leave_session or not foreign else _left_session(settings, path)
            if old_client and not yes:
                typer.confirm(
                    f"Messages that the local broker has queued for {old_client!r} are dropped. Continue?",
                    abort=True,
                    err=True,
                )
            if old_client:
                _end_session(settings, old_client)
            _begin(opened, settings)
            if opened.marker:
                opened.marker.write(opened.store.last_id())
        finally:
            opened.store.close()
    text = (
        f"the buffer of {owner!r} belongs to {settings.gateway.id!r} now"
        if foreign
        else "the buffer belongs to this gateway already"
    )
    tell(Done({"before": owner, "ended_session": old_client}, live=False), as_json, text)


# --- inside ---


def _left_session(settings: Config, path: Path) -> str:
    """Return the client id of the session that the buffer's last gateway has at the local broker, if that
    would stay behind."""
    client_id, _, url = Memory.read(path.with_name(MEMORY_FILE)).session.rpartition(" at ")
    local = settings.local
    return "" if local.embedded or url != local.url or client_id == local.client_id else client_id


def _end_session(settings: Config, client_id: str) -> None:
    from gateway.config.specs import ingest_endpoint  # noqa: PLC0415 - no other command needs the models
    from gateway.mqtt.session_end import end_session  # noqa: PLC0415 - or MQTT

    try:
        end_session(ingest_endpoint(settings.local), client_id)
    except BrokerError as exc:
        hint = "nothing was changed; if that session or the broker no longer exists, add --leave-session"
        raise BrokerError(str(exc), hint=hint) from exc


def _require_choice(choice: EventFilter, everything: bool) -> None:
    if choice.is_everything and not everything:
        raise typer.BadParameter("give event ids, options that select events, or --all")


def _require_some(found: int, choice: EventFilter, status: str, option: str = "--status failed") -> None:
    """Raise StoreError where events were named by their ids and none of them was found."""
    if choice.event_ids and not found:
        raise StoreError(
            f"none of these events is {status} in this buffer",
            hint=f"`gateway buffer list {option}` shows those that are",
        )


def _droppable(choice: EventFilter) -> Sequence[Status]:
    return (Status.FAILED, Status.CORRUPT) if choice.status is None else (choice.status,)


def _named(statuses: Sequence[Status]) -> str:
    return " or ".join(status.name.lower() for status in statuses)


def change(config: Path, request: dict[str, Any], doing: str) -> Done:
    """Have it done by the gateway that runs, or here when none does."""
    settings, path = load_config(config), buffer_path(config)
    with progress_bar() as progress:
        task = progress.add_task(doing, total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        try:
            with DataDirLock(path.parent, ROLE), _opened(settings, path) as possible:
                return Done(possible[request["do"]](request, report), live=False)
        except BufferLockedError as locked:
            socket = path.parent / SOCKET_FILE
            if not socket.exists():
                hint = "a gateway takes commands only once it has started; wait for it, or stop it"
                raise StoreError(f"{locked}, which takes no commands", hint=hint) from locked
            return Done(ask(socket, request, report), live=True)


@contextmanager
def _opened(settings: Config, path: Path) -> Iterator[dict[str, Operation]]:
    """Open the buffer of a stopped gateway and yield the operations on it."""
    opened = _open(settings, path)
    store = opened.store
    try:
        _begin(opened, settings)
        yield {**operations(_actions(store, settings)), **alarm_operations(_alarms(settings), _runs(store))}
        if opened.marker:
            opened.marker.write(store.last_id())
    finally:
        store.close()


def _open(settings: Config, path: Path, *, adopt: bool = False) -> OpenedStore:
    return open_buffer(
        *(path, _now_ms(), settings.buffer.max_size, settings.buffer.synchronous),
        gateway_id=settings.gateway.id,
        adopt=adopt,
    )


def _begin(opened: OpenedStore, settings: Config) -> None:
    def alert(store: Store, name: str, message: str) -> None:
        append_alert(store, _alerts(settings), _now_ms(), name, message)

    startup = opened.startup(alert)
    with opened.store.transaction():
        startup.apply(opened.store)
    for said in filter(None, (opened.recovery.alert, startup.lost)):
        typer.echo(said, err=True)


def _runs(store: Store) -> Callable[[Callable[[Store], T]], T]:
    def run(change: Callable[[Store], T]) -> T:
        with store.transaction():
            return change(store)

    return run


def _alarms(settings: Config) -> AlarmRegister:
    topics = OwnTopics(settings.gateway.topic_prefix, settings.gateway.id)
    return AlarmRegister(topics, _now_ms, {})


def _actions(store: Store, settings: Config) -> OperatorActions:
    def alert(store: Store, name: str, message: str, details: Mapping[str, Any]) -> None:
        append_alert(store, _alerts(settings), _now_ms(), name, message, details)

    return OperatorActions(_runs(store), lambda change: change(store), alert)


def _announce(settings: Config, store: Store, text: str) -> None:
    append_alert(store, _alerts(settings), _now_ms(), "buffer_restored", text)


def _now_ms() -> int:
    return round(datetime.now(UTC).timestamp() * 1000)


def _alerts(settings: Config) -> str:
    return OwnTopics(settings.gateway.topic_prefix, settings.gateway.id).alerts


@contextmanager
def _stopped(path: Path, doing: str) -> Iterator[None]:
    try:
        with DataDirLock(path.parent, ROLE):
            yield
    except BufferLockedError as exc:
        raise StoreError(
            f"{doing} needs a stopped gateway, and it is running: {exc}",
            hint=f"stop the gateway, run `gateway buffer {doing}` again, then start it",
        ) from exc


def _count(path: Path, choice: EventFilter) -> int:
    reader = Reader(path)
    try:
        return reader.count(choice, _droppable(choice))
    finally:
        reader.close()


def tell(done: Done, as_json: bool, text: str) -> None:
    if as_json:
        typer.echo(orjson.dumps({**done.result, "live": done.live}).decode())
        return
    where = "by the running gateway" if done.live else "in the buffer of the stopped gateway"
    typer.echo(f"{text} ({where})")
