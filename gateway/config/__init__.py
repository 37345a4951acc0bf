"""The configuration file: what may stand in it, read and checked as a whole before anything starts."""

from __future__ import annotations

from gateway.config.checks import warnings_of
from gateway.config.load import load_config, parse_config
from gateway.config.models import Config
from gateway.config.schema import json_schema

__all__ = ["Config", "json_schema", "load_config", "parse_config", "warnings_of"]
