"""Who may review: names, hashed passwords, roles, sessions, and a brake on guessing. Torch-free.

Passwords are kept as scrypt hashes, session tokens as SHA-256 hashes, so a copy of the database
lets nobody in. After a few wrong passwords the log-in waits, by name and by address; a wrong name
takes as long as a wrong password.
"""

import hashlib
import hmac
import json
import math
import re
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from curation import database as db
from curation.decisions import DecisionStore, log_event, plain_text

__all__ = ["ROLES", "AccountError", "Accounts", "LoginRefused", "Person", "Session"]

ROLES = ("annotator", "adjudicator", "owner")
"""Each may do what those before it may. Adjudicators also settle disagreements, owners see
everybody's work, make accounts, rules, gold items and guidelines."""

_NAME = re.compile(r"[^\W_][\w.-]{0,39}")
_LEAST_PASSWORD, _MOST_PASSWORD = 8, 200
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}  # 16 MiB and some 40 ms a try
_TOUCH_SECONDS = 60.0


class AccountError(ValueError):
    """An account that cannot be made or changed so. The message says why."""


class LoginRefused(Exception):
    """A log-in that failed.

    Attributes:
        wait_seconds: How long to wait before the next try is looked at; 0 for a wrong password.
    """

    def __init__(self, message: str, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class Person:
    """Somebody with an account."""

    name: str
    role: str
    must_change: bool = False
    disabled: bool = False
    tutorial_at: float | None = None
    guideline_seen: str = ""
    created_at: float = 0.0

    def may(self, role: str) -> bool:
        """Tell whether this person's role includes another."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True)
class Session:
    """A log-in that holds. ``token`` is what the browser keeps; only its hash is stored."""

    token: str
    person: Person
    expires_at: float


class Accounts:
    """Accounts and sessions of one review.

    Args:
        store: Whose database; changes are logged in it.
        session_seconds: How long a log-in lasts.
        idle_seconds: How long it lasts without a request.
        tries_per_name: Wrong passwords for a name from one address, within ``window_seconds``.
        tries_per_address: Wrong passwords from one address, likewise.
        tries_for_name: Wrong passwords for a name from everywhere, likewise.
        window_seconds: Over which they are counted.
    """

    def __init__(
        self,
        store: DecisionStore,
        *,
        session_seconds: float = 12 * 3600,
        idle_seconds: float = 4 * 3600,
        tries_per_name: int = 5,
        tries_per_address: int = 30,
        tries_for_name: int = 100,
        window_seconds: float = 600,
    ) -> None:
        self._store = store
        self._database = store.database
        self._session_seconds, self._idle_seconds = session_seconds, idle_seconds
        self._tries = (tries_per_name, tries_per_address, tries_for_name)
        self._window = window_seconds
        self._dummy = hash_password(secrets.token_hex(8))

    # --- people

    def add(
        self, name: str, password: str, role: str, *, must_change: bool = False, by: str = ""
    ) -> Person:
        """Make an account.

        Args:
            name: 1-40 letters of any script, digits, ``.``, ``_`` or ``-``.
            password: At least 8 characters.
            role: One of ROLES.
            must_change: Whether the person is asked for a password of their own at first.
            by: Who makes it, for the log.

        Raises:
            AccountError: If the name is taken or one of them is not fit.
        """
        name = normal_name(name)
        if not _NAME.fullmatch(name):
            raise AccountError(
                "a name is 1-40 letters, digits, '.', '_' or '-', the first a letter or digit"
            )
        if len({_is_latin(letter) for letter in name if letter.isalpha()}) > 1:
            raise AccountError("a name mixes Latin letters and others that may look like them")
        _check_role(role)
        row = {
            "name": name,
            "role": role,
            "password": hash_password(check_password(password)),
            "must_change": must_change,
            "disabled": False,
            "created_at": db.now(),
            "tutorial_at": None,
            "guideline_seen": "",
            "settings": "{}",
        }
        with self._database.write() as connection:
            # "Anna" must not pass for "anna"; databases lower some letters and not others.
            names = connection.scalars(sa.select(db.annotator.c.name)).all()
            taken = next((other for other in names if other.casefold() == name.casefold()), None)
            if taken is not None or not db.insert_new(connection, db.annotator, row):
                raise AccountError(f"there is an account {taken or name!r} already")
            log_event(connection, "account_added", by, name=name, role=role)
        return self.person(name)

    def person(self, name: str) -> Person:
        """Return an account.

        Raises:
            AccountError: If there is none of this name.
        """
        with self._database.read() as connection:
            row = _account(connection, name)
        if row is None:
            raise AccountError(f"there is no account {name[:40]!r}")
        return _person(row)

    def people(self) -> list[Person]:
        """Return all accounts by name."""
        query = sa.select(db.annotator).order_by(db.annotator.c.name)
        with self._database.read() as connection:
            return [_person(row) for row in connection.execute(query)]

    def change(self, name: str, by: str = "", **changes: Any) -> Person:
        """Change an account; whoever is disabled or gets a new role or password is logged out.

        Args:
            name: Whose.
            by: Who changes it, for the log.
            changes: ``role``, ``disabled``, ``password``, ``must_change``, ``tutorial_at``,
                ``guideline_seen``.

        Raises:
            AccountError: If there is no such account, or the last owner would be lost.
        """
        values = dict(changes)
        if "password" in values:
            values["password"] = hash_password(check_password(values["password"]))
        if "role" in values:
            _check_role(values["role"])
        with self._database.write() as connection:
            if _account(connection, name) is None:
                raise AccountError(f"there is no account {name[:40]!r}")
            where = db.annotator.c.name == name
            connection.execute(sa.update(db.annotator).where(where).values(**values))
            owners = sa.select(sa.func.count()).where(
                db.annotator.c.role == "owner", ~db.annotator.c.disabled
            )
            if {"role", "disabled"} & set(values) and not connection.scalar(owners):
                raise AccountError("one owner must remain")
            if {"role", "disabled", "password"} & set(values):
                connection.execute(sa.delete(db.session).where(db.session.c.name == name))
                shown = {k: v for k, v in changes.items() if k != "password"}
                log_event(connection, "account_changed", by, name=name, **shown)
        return self.person(name)

    def finish_tutorial(self, name: str) -> None:
        """Keep that somebody has been through the tutorial."""
        with self._database.write() as connection:
            where = db.annotator.c.name == name
            connection.execute(sa.update(db.annotator).where(where).values(tutorial_at=db.now()))
            log_event(connection, "tutorial_done", name)

    def settings(self, name: str) -> dict[str, Any]:
        """Return what the person has set on the page."""
        query = sa.select(db.annotator.c.settings).where(db.annotator.c.name == name)
        with self._database.read() as connection:
            return json.loads(connection.scalar(query) or "{}")

    def save_settings(self, name: str, settings: Mapping[str, Any]) -> None:
        """Keep what the person has set on the page (at most 4 kB of JSON)."""
        text = json.dumps(dict(settings))
        if len(text) > 4096:
            raise AccountError("too many settings")
        with self._database.write() as connection:
            where = db.annotator.c.name == name
            connection.execute(sa.update(db.annotator).where(where).values(settings=text))

    # --- sessions

    def log_in(self, name: str, password: str, address: str = "") -> Session:
        """Check a password and begin a session.

        Args:
            name: Claimed.
            password: Claimed.
            address: Of the client.

        Raises:
            LoginRefused: If the password is wrong or there were too many wrong ones.
        """
        name = normal_name(name)
        self.check(name, password, address)
        return self.open_session(name, address)

    def check(self, name: str, password: str, address: str = "") -> None:
        """Check a password without beginning a session; see ``log_in``."""
        name, address = plain_text(name, 64), plain_text(address, 64)
        wait = self._wait_seconds(name, address)
        if wait > 0:
            self._store.log("login_blocked", name, address)
            raise LoginRefused(
                f"Too many wrong passwords. Try again in {math.ceil(wait / 60)} min.", wait
            )
        with self._database.read() as connection:
            row = _account(connection, name)
        # The hash is computed for unknown names, too: time must not tell who has an account.
        is_right = verify_password(password[:_MOST_PASSWORD], row.password if row else self._dummy)
        if row is None or not is_right or row.disabled:
            with self._database.write() as connection:
                failure = {"name": name, "address": address, "at": db.now()}
                connection.execute(db.login_failure.insert(), failure)
                log_event(connection, "login_failed", name, address)
            raise LoginRefused("Name or password is wrong.")

    def open_session(self, name: str, address: str = "") -> Session:
        """Begin a session without a password: for those who have proved who they are elsewhere."""
        person = self.person(name)
        if person.disabled:
            raise LoginRefused("This account is disabled.")
        token, start = secrets.token_urlsafe(32), db.now()
        row = {
            "token_hash": _token_hash(token),
            "name": name,
            "created_at": start,
            "expires_at": start + self._session_seconds,
            "seen_at": start,
            "address": address[:64],
        }
        with self._database.write() as connection:
            connection.execute(db.session.insert(), row)
            old = db.session.c.expires_at < start - 30 * 86400
            connection.execute(sa.delete(db.session).where(old))
            log_event(connection, "login", name, address)
        return Session(token, person, row["expires_at"])

    def session(self, token: str, address: str = "") -> Session | None:
        """Return the session of a token, or None if there is none, it ended, or is disabled."""
        if not token or len(token) > 200:
            return None
        hashed, moment = _token_hash(token), db.now()
        with self._database.read() as connection:
            row = connection.execute(_SESSION, {"p_token": hashed}).first()
        if row is None or row.disabled:
            return None
        if row.expires_at < moment or row.seen_at < moment - self._idle_seconds:
            self._store.log("session_expired", row.name, address)
            return None
        if row.seen_at < moment - _TOUCH_SECONDS:
            with self._database.write() as connection:
                where = db.session.c.token_hash == hashed
                connection.execute(sa.update(db.session).where(where).values(seen_at=moment))
        return Session(token, _person(row), row.expires_at)

    def log_out(self, token: str) -> None:
        """End a session."""
        with self._database.write() as connection:
            where = db.session.c.token_hash == _token_hash(token)
            connection.execute(sa.delete(db.session).where(where))

    def _wait_seconds(self, name: str, address: str) -> float:
        """Return how long this name and address have to wait."""
        failure, moment = db.login_failure.c, db.now()
        by_name, by_address = failure.name == name, failure.address == address
        wait = 0.0
        with self._database.read() as connection:
            for which, limit in zip(
                ((by_name, by_address), (by_address,), (by_name,)), self._tries, strict=True
            ):
                at = connection.scalars(
                    sa.select(failure.at)
                    .where(*which, failure.at > moment - self._window)
                    .order_by(failure.at.desc())
                    .limit(limit)
                ).all()
                if len(at) == limit:  # free again when the oldest of these leaves the window
                    wait = max(wait, at[-1] + self._window - moment)
        return wait


def normal_name(name: str) -> str:
    """Return a name as it is stored: keyboards write the same letter in more than one way."""
    return unicodedata.normalize("NFC", name.strip())


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("LATIN ")


def hash_password(password: str) -> str:
    """Return ``scrypt$n$r$p$salt$hash``."""
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, maxmem=2**26, dklen=32, **_SCRYPT)
    cost = "$".join(str(_SCRYPT[k]) for k in ("n", "r", "p"))
    return f"scrypt${cost}${salt.hex()}${digest.hex()}"


def verify_password(password: str, stored: str) -> bool:
    """Tell whether a password has this hash."""
    kind, n, r, p, salt, digest = stored.split("$")
    if kind != "scrypt":
        return False
    found = hashlib.scrypt(
        password.encode("utf-8", "replace"),
        salt=bytes.fromhex(salt), maxmem=2**27, dklen=32, n=int(n), r=int(r), p=int(p),
    )  # fmt: skip
    return hmac.compare_digest(found, bytes.fromhex(digest))


def check_password(password: str) -> str:
    """Return a password that may be used.

    Raises:
        AccountError: If it is too short or too long.
    """
    if not _LEAST_PASSWORD <= len(password) <= _MOST_PASSWORD:
        raise AccountError(
            f"a password has {_LEAST_PASSWORD} to {_MOST_PASSWORD} characters, got {len(password)}"
        )
    return password


_SESSION = (
    sa.select(db.session, *(c for c in db.annotator.c if c.name not in ("name", "created_at")))
    .add_columns(db.annotator.c.created_at.label("since"))
    .join(db.annotator, db.annotator.c.name == db.session.c.name)
    .where(db.session.c.token_hash == sa.bindparam("p_token"))
)


def _account(connection: sa.Connection, name: str) -> Any:
    name = plain_text(name, 64)
    return connection.execute(sa.select(db.annotator).where(db.annotator.c.name == name)).first()


def _person(row: Any) -> Person:
    return Person(
        row.name, row.role, row.must_change, row.disabled, row.tutorial_at, row.guideline_seen,
        row.created_at,
    )  # fmt: skip


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise AccountError(f"a role is one of {ROLES}, got {role!r}")


def _token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
