"""The key `cloud.format`: frames, events, or an encoder by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

from pydantic import WithJsonSchema

from gateway.config.document import Problem
from gateway.config.problems import suggestion
from gateway.config.types import Name, Section, setting
from gateway.core.errors import PluginError
from gateway.pipeline.encoder_plugins import find_encoders
from gateway.wire.encoder import ENCODER_NAMES, Encoder
from gateway.wire.sparkplug_node import EdgeNode
from gateway.wire.thingsboard import ThingsboardEncoder

if TYPE_CHECKING:
    from gateway.config.models import Cloud, Config

SPARKPLUG = "sparkplug_b"
OWN_FORMATS = ("batch", "event", *ENCODER_NAMES)

UplinkFormat = Annotated[
    str,
    WithJsonSchema({"anyOf": [{"enum": [*OWN_FORMATS]}, {"type": "string", "$comment": "a plugin's name"}]}),
]


class SparkplugSection(Section):
    """The names of the edge node, with `format: sparkplug_b`."""

    group: Name = setting("gateway", description="Its group id.")
    node: Name | None = setting(None, description="Its edge node id. Unset: `gateway.id`.")


def encoder_factory(config: Config, cloud: Cloud) -> Callable[[], Encoder] | None:
    """Return what makes the encoder of each connection; None for formats without one, and `sparkplug_b`."""
    if cloud.format == "thingsboard":
        return ThingsboardEncoder
    if cloud.format in OWN_FORMATS:
        return None
    return find_encoders(config.plugins.directory)[cloud.format].encoder


def edge_node(config: Config, cloud: Cloud) -> EdgeNode | None:
    """Return the edge node that this gateway is, with `sparkplug_b`."""
    if cloud.format != SPARKPLUG:
        return None
    return EdgeNode(cloud.sparkplug.group, cloud.sparkplug.node or config.gateway.id)


def format_problems(config: Config) -> Iterator[Problem]:
    """Yield why the uplink's format cannot be used."""
    cloud = config.cloud
    if cloud is None:
        return
    path = ("cloud", "format")
    if cloud.format == SPARKPLUG:
        if cloud.connections > 1:
            yield Problem(
                ("cloud", "connections"), f"format: {SPARKPLUG} has one connection, the edge node's"
            )
        if find_spec("google") is None or find_spec("google.protobuf") is None:
            yield Problem(path, f"{SPARKPLUG} needs a package: pip install 'mqtt-edge-gateway[sparkplug]'")
    elif cloud.format not in OWN_FORMATS:
        found = find_encoders(config.plugins.directory)
        if cloud.format not in found:
            names = [*OWN_FORMATS, *found]
            near = suggestion(cloud.format, names) or f"; there is {', '.join(names)}"
            yield Problem(path, f"there is no format {cloud.format}{near}")
            return
        try:
            found[cloud.format].encoder()
        except PluginError as exc:
            yield Problem(path, f"{exc}; {exc.hint}")


def format_warnings(config: Config) -> Iterator[str]:
    """Yield what a format does not promise."""
    cloud = config.cloud
    if cloud is not None and cloud.format not in ("batch", "event"):
        yield (
            f"cloud.format: gateway receive does not read {cloud.format}: nothing proves there that all "
            "events arrived; an event still leaves the buffer only when the broker has acknowledged it"
        )
