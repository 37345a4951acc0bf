"""The configuration file of a command, read without importing all of its models before it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

DEFAULT_CONFIG = Path("gateway.yaml")
"""The configuration file that commands read by default."""

if TYPE_CHECKING:
    from gateway.config import Config


def load_config(path: Path) -> Config:
    """Read and check the configuration file at `path`. Raises ConfigError."""
    from gateway.config import load_config as load  # noqa: PLC0415 - half a second of models

    return load(path)
