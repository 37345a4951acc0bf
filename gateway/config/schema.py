"""The JSON Schema of the configuration file, for editors that complete and check as one types."""

from __future__ import annotations

from typing import Any

from gateway.config.models import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema as plain data: quantities as text with their patterns, a description for every key."""
    schema: dict[str, Any] = _tidied(Config.model_json_schema())
    return {"$schema": DIALECT, "title": "MQTT edge gateway", **schema}


def _tidied(node: Any) -> Any:
    """`node` without titles that only repeat the key, and with `${VARIABLE}` allowed in every text."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidied = {key: _tidied(value) for key, value in node.items() if key != "title"}
    if isinstance(tidied.get("pattern"), str):
        tidied["pattern"] = rf"(?:{tidied['pattern']})|\$\{{"
    return tidied
