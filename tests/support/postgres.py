"""A PostgreSQL server for the tests. As root it runs as the user `postgres`: it refuses root."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.ports import free_port

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def postgres_server() -> Iterator[str]:
    """Its URL, without a database."""
    if not PROGRAMS:
        pytest.skip("there is no PostgreSQL below /usr/lib/postgresql (Debian's package postgresql)")
    with TemporaryDirectory(prefix="gateway-postgres-") as folder:
        port, data = free_port(), Path(folder) / "data"
        Path(folder).chmod(0o777)
        postgres_command(["initdb", "-D", str(data), "-A", "trust", "-U", "gateway", "--no-sync"])
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        postgres_command(["pg_ctl", "-D", str(data), "-o", options, "-l", f"{folder}/log", "-w", "start"])
        try:
            yield f"postgresql://gateway@127.0.0.1:{port}"
        finally:
            postgres_command(["pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop"])


def new_database(server_url: str) -> str:
    """Return the URL of a database of one's own in that server."""
    psycopg = pytest.importorskip("psycopg")
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server_url}/{name}"


def postgres_command(words: list[str]) -> None:
    """Run one of PostgreSQL's programs."""
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    program = str(PROGRAMS[-1] / words[0])
    done = subprocess.run(
        [*prefix, program, *words[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
