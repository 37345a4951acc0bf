"""The `gateway` command. Each module of this package is one command or one group of commands."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script."""
