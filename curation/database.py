"""The database of the review: its tables, and how SQLite and PostgreSQL are opened. Torch-free.

One schema for both, through SQLAlchemy Core. What people said (``decision``) and what happened
(``event``) can only be appended to: triggers refuse anything else, whoever asks. The other tables
hold what can be made anew from those two and the store of fits, or what may change.

Times are seconds since 1970 (UTC) as float64: the same number on both databases.
"""

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["Database", "DatabaseError", "new_id", "sqlite_url", "tables"]

SCHEMA_VERSION = 1

tables = sa.MetaData()
_Seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts INTEGER keys only

meta = sa.Table("meta", tables, sa.Column("key", sa.String(40), primary_key=True),
                sa.Column("value", sa.Text, nullable=False))  # fmt: skip

decision = sa.Table(
    "decision",
    tables,
    sa.Column("seq", _Seq, primary_key=True, autoincrement=True),
    sa.Column("decision_id", sa.String(64), nullable=False, unique=True),
    sa.Column("fit_id", sa.String(64), nullable=False),
    sa.Column("annotator", sa.String(64), nullable=False),
    sa.Column("verdict", sa.String(12), nullable=False),
    sa.Column("body", sa.Boolean, nullable=False),
    sa.Column("left_hand", sa.Boolean, nullable=False),
    sa.Column("right_hand", sa.Boolean, nullable=False),
    sa.Column("face", sa.Boolean, nullable=False),
    sa.Column("reasons", sa.Text, nullable=False),  # names joined by commas
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("guideline_version", sa.String(64), nullable=False),
    sa.Column("overlay_version", sa.String(64), nullable=False),
    sa.Column("supersedes", sa.String(64), nullable=False),  # "" for the first
    sa.Column("source", sa.String(24), nullable=False),
    sa.Column("probability", sa.Double),
    # A chain, never a fork: each row replaces at most one, and is replaced by at most one; one
    # person begins at most one chain on a fit. Two clicks of one person cannot both count.
    sa.UniqueConstraint("fit_id", "annotator", "supersedes", name="decision_chain"),
    sa.Index("decision_annotator", "annotator", "seq"),
    sa.Index("decision_supersedes", "supersedes"),
)

event = sa.Table(
    "event",
    tables,
    sa.Column("seq", _Seq, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),  # JSON
    sa.Index("event_kind", "kind", "at"),
)

annotator = sa.Table(
    "annotator",
    tables,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password", sa.Text, nullable=False),
    sa.Column("must_change", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("tutorial_at", sa.Double),
    sa.Column("guideline_seen", sa.String(64), nullable=False, server_default=""),
    sa.Column("settings", sa.Text, nullable=False, server_default="{}"),
)

session = sa.Table(
    "session",
    tables,
    sa.Column("token_hash", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
)

login_failure = sa.Table(
    "login_failure",
    tables,
    sa.Column("seq", _Seq, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Index("login_failure_name", "name", "at"),
    sa.Index("login_failure_address", "address", "at"),
)

item = sa.Table(
    "item",
    tables,
    sa.Column("fit_id", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(100), nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    # fresh -> half -> full -> done or disagree; "off": not in the queue. See queue_state.
    sa.Column("stage", sa.String(10), nullable=False),
    sa.Column("audit", sa.Boolean, nullable=False),
    sa.Column("is_gold", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("chance", sa.Double, nullable=False),  # uniform in [0, 1), from a hash
    sa.Column("priority", sa.Double, nullable=False, server_default="0"),
    sa.Column("needed", sa.Integer, nullable=False),
    sa.Column("votes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("open_leases", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_annotator", sa.String(64), nullable=False, server_default=""),
    sa.Index("item_by_priority", "stage", "audit", "priority", "chance"),
    sa.Index("item_by_chance", "stage", "audit", "chance"),
    sa.Index("item_half", "stage", "last_annotator"),
)

lease = sa.Table(
    "lease",
    tables,
    sa.Column("lease_id", sa.String(64), primary_key=True),
    sa.Column("fit_id", sa.String(64), nullable=False),
    sa.Column("annotator", sa.String(64), nullable=False),
    sa.Column("lane", sa.String(24), nullable=False),
    sa.Column("probability", sa.Double),
    sa.Column("served_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),  # open, done, expired
    sa.UniqueConstraint("fit_id", "annotator", name="lease_once"),
    sa.Index("lease_own", "annotator", "state", "served_at"),
    sa.Index("lease_expiry", "state", "expires_at"),
)

gold = sa.Table(
    "gold",
    tables,
    sa.Column("fit_id", sa.String(64), primary_key=True),
    sa.Column("verdict", sa.String(12), nullable=False),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("in_tutorial", sa.Boolean, nullable=False),
    sa.Column("created_by", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

practice = sa.Table(
    "practice",
    tables,
    sa.Column("annotator", sa.String(64), primary_key=True),
    sa.Column("fit_id", sa.String(64), primary_key=True),
    sa.Column("verdict", sa.String(12), nullable=False),
    sa.Column("is_right", sa.Boolean, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

guideline = sa.Table(
    "guideline",
    tables,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("created_by", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

_APPEND_ONLY = ("decision", "event")
_KEPT = {"decision": "decisions are kept for ever: append one that supersedes",
         "event": "the log is kept for ever"}  # fmt: skip


class DatabaseError(RuntimeError):
    """The database cannot be opened or has another form. The message says how to go on."""


def new_id() -> str:
    """Return 128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


def sqlite_url(path: Path | str) -> str:
    """Return the URL of an SQLite file."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


class Database:
    """Connections to the review's database, made with its tables and triggers if it is empty.

    SQLite is used in WAL mode with ``synchronous=FULL``: what was committed survives a killed
    process and a power cut. Writers of this process take turns; other processes wait up to 30 s.
    SQLite's WAL does not work on network file systems: use PostgreSQL there.

    Args:
        url: ``sqlite:////path/decisions.sqlite`` or ``postgresql://user:password@host/name``; a
            bare path is an SQLite file.

    Raises:
        DatabaseError: If it cannot be opened, or was made by a newer version.
    """

    def __init__(self, url: str | Path) -> None:
        text = str(url)
        if "://" not in text:
            Path(text).parent.mkdir(parents=True, exist_ok=True)
            text = sqlite_url(text)
        parsed = sa.make_url(text)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.url = parsed
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if not self.is_sqlite and parsed.get_backend_name() != "postgresql":
            raise DatabaseError(
                f"expected an SQLite file or a postgresql:// URL, got {parsed.drivername}://"
            )
        self._turn = threading.Lock()
        options: dict[str, Any] = {"pool_size": 20, "max_overflow": 40}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": 30, "check_same_thread": False}
            if not parsed.database or parsed.database == ":memory:":
                raise DatabaseError("an SQLite database in memory loses decisions; name a file")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        else:
            options["pool_pre_ping"] = True
        try:
            self.engine = sa.create_engine(parsed, **options)
        except ImportError as error:
            raise DatabaseError(
                f"PostgreSQL needs the extra: pip install 'pseudogt[postgres]' ({error})"
            ) from None
        if self.is_sqlite:
            sa_event.listen(self.engine, "connect", _set_pragmas)
            sa_event.listen(self.engine, "begin", _begin)
        self._writing = self.engine.execution_options(pseudogt_write=True)
        try:
            self._create()
        except sa.exc.OperationalError as error:
            self.engine.dispose()
            shown = parsed.render_as_string(hide_password=True)
            raise DatabaseError(f"{shown} cannot be opened: {error.orig}") from None

    def _create(self) -> None:
        with self.write() as connection:
            if not self.is_sqlite:
                # Two servers that start at once must not both create.
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7031871)"))
            tables.create_all(connection)
            found = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "version"))
            if found is None:
                for statement in self._triggers():
                    connection.execute(sa.text(statement))
                connection.execute(
                    meta.insert(),
                    [
                        {"key": "version", "value": str(SCHEMA_VERSION)},
                        # Chooses the audit sample; kept so that later fits join the same draw.
                        {"key": "seed", "value": new_id()},
                    ],
                )
            elif int(found) > SCHEMA_VERSION:
                raise DatabaseError(
                    f"the decisions were written by a newer version (form {found}, this one "
                    f"knows {SCHEMA_VERSION}); install a newer pseudogt"
                )

    def _triggers(self) -> Iterator[str]:
        if self.is_sqlite:
            for name in _APPEND_ONLY:
                for change in ("UPDATE", "DELETE"):
                    yield (
                        f"CREATE TRIGGER {name}_no_{change.lower()} BEFORE {change} ON {name} "
                        f"BEGIN SELECT RAISE(ABORT, '{_KEPT[name]}'); END"
                    )
            return
        for name in _APPEND_ONLY:
            yield (
                f"CREATE FUNCTION {name}_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$ "
                f"BEGIN RAISE EXCEPTION '{_KEPT[name]}'; END $$"
            )
            yield (
                f"CREATE TRIGGER {name}_no_change BEFORE UPDATE OR DELETE ON {name} "
                f"FOR EACH ROW EXECUTE FUNCTION {name}_is_kept()"
            )
            yield (
                f"CREATE TRIGGER {name}_no_truncate BEFORE TRUNCATE ON {name} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {name}_is_kept()"
            )

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction that writes: committed at the end, undone if anything is raised."""
        if not self.is_sqlite:
            with self._writing.begin() as connection:
                yield connection
            return
        # SQLite's own waiting is not fair: under load some writer would starve.
        with self._turn, self._writing.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One transaction that reads."""
        with self.engine.begin() as connection:
            yield connection

    def seed(self) -> str:
        """Return the random text that the audit sample is drawn by."""
        with self.read() as connection:
            return connection.scalar(sa.select(meta.c.value).where(meta.c.key == "seed"))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def now() -> float:
    """Return the time in seconds since 1970."""
    return time.time()


def insert_new(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless a unique constraint forbids it; return whether it was inserted."""
    statement = _insert_new_statement(connection.dialect.name, table)
    return connection.execute(statement, values).first() is not None


@cache
def _insert_new_statement(dialect: str, table: sa.Table) -> sa.Executable:
    module = sqlite if dialect == "sqlite" else postgresql
    return module.insert(table).on_conflict_do_nothing().returning(*table.primary_key)


def _set_pragmas(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver's guess
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON",
        # Without it, REPLACE would delete a decision and no trigger would see it.
        "recursive_triggers=ON",
    ):  # fmt: skip
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another writer: it would fail.
    is_write = connection.get_execution_options().get("pseudogt_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")
