"""The JSON Schema of the configuration file, for editors that complete and check as one types."""

from __future__ import annotations

from typing import Any

from gateway.config.models import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema as plain data: quantities as text with their patterns, a description for every key."""
    return {"$schema": DIALECT, "title": "MQTT edge gateway", **Config.model_json_schema()}
