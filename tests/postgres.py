"""A PostgreSQL server of the tests' own: Debian's programs, a temporary folder, no network."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa


def postgres_programs() -> Path | None:
    """The folder with initdb and pg_ctl of the newest version that is installed."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3])
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class PostgresServer:
    """A running server; databases are made on it as needed."""

    def __init__(self, folder: Path, programs: Path, user: str | None) -> None:
        self.folder, self._programs, self._user = folder, programs, user

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        words = [str(self._programs / command[0]), *command[1:]]
        other: dict[str, Any] = {}
        if self._user is not None:  # initdb and postgres refuse to be root
            group = pwd.getpwnam(self._user).pw_gid
            other = {"user": self._user, "group": group, "extra_groups": [group]}
        return subprocess.run(
            words, cwd=self.folder, capture_output=True, text=True, timeout=60, check=check, **other
        )

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex[:12]}"
        admin = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        admin.dispose()
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://review@/{database}?host={self.folder}"


@contextlib.contextmanager
def postgres_server(durable: bool = False) -> Iterator[PostgresServer]:
    """Start a server on a socket in a temporary folder, and remove both in the end.

    ``durable``: with its usual care for a power cut, for benchmarks; tests need not wait for it.
    """
    programs = postgres_programs()
    if programs is None:
        raise FileNotFoundError("PostgreSQL's programs")
    user = None
    if os.geteuid() == 0:
        user = next(n for n in ("postgres", "nobody") if n in {p.pw_name for p in pwd.getpwall()})
    # Short: the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if user is not None:
        shutil.chown(folder, user)
    server = PostgresServer(folder, programs, user)
    options = f"-k {folder} -c listen_addresses='' -c max_connections=200"
    if not durable:
        options += " -c fsync=off -c full_page_writes=off -c synchronous_commit=off"
    try:
        server.run("initdb", "-D", "data", "-U", "review", "-A", "trust", "-E", "UTF8", "--no-sync")
        server.run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
        yield server
    finally:
        server.run("pg_ctl", "-D", "data", "-m", "immediate", "stop", check=False)
        shutil.rmtree(folder, ignore_errors=True)
