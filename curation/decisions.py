"""What people decided about fits: an append-only table, in SQLite or PostgreSQL. Torch-free.

Nothing is ever changed or removed. Undo and second thoughts are new rows that name the row they
supersede; what counts (``current``) is the end of each chain, unless it was withdrawn.

    store = DecisionStore(fits_dir / "decisions.sqlite")
    store.append(Decision(fit_id="0f...", annotator="anna", verdict="accept"))
    table = store.current_table()   # Arrow; curation.agreement, triage and export start here
"""

import dataclasses
import datetime as dt
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from curation import database as db
from curation.database import Database, new_id

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ALL_PARTS",
    "REASONS",
    "VERDICTS",
    "WITHDRAWN",
    "Decision",
    "DecisionError",
    "DecisionStore",
    "append_decision",
    "default_url",
]

VERDICTS = ("accept", "reject", "unsure")
WITHDRAWN = "withdrawn"
"""The verdict of a row that takes one back without giving another. It is in the history only."""

PART_FLAGS = ("body", "left_hand", "right_hand", "face")
ALL_PARTS = frozenset(PART_FLAGS)

REASONS: tuple[str, ...] = (
    "global_orientation", "left_right_swap", "limb_off", "depth_off", "self_intersection",
    "implausible_pose", "shape_off", "hand_off", "face_off", "wrong_person", "keypoints_bad",
    "occluded_or_truncated", "image_bad", "other",
)  # fmt: skip
"""Why a fit was rejected; the first nine have the keys 1-9 in the page. Names are only added."""

SOURCES = ("queue", "audit", "gold", "adjudication", "rule", "import")
"""How a fit came before the one who decided: the most useful next, the uniform sample, a hidden
gold item, a disagreement of others, a rule of the owner, or a file."""

MAX_COMMENT = 2000


_BY_ID = sa.select(db.decision).where(db.decision.c.decision_id == sa.bindparam("p_id"))


class DecisionError(ValueError):
    """A decision that cannot be taken. The message says why."""


@dataclass(frozen=True)
class Decision:
    """One row.

    Attributes:
        fit_id: Of the fit (schema.fit_id).
        annotator: Who; ``rule:<name>`` for a rule.
        verdict: One of VERDICTS, or WITHDRAWN.
        parts: Which of PART_FLAGS are good (True). An accepted fit with a wrong hand lacks it.
        reasons: Of REASONS.
        comment: Plain text.
        seconds: Time the item was looked at; NaN if unknown.
        guideline_version: That was shown; empty if none.
        overlay_version: That was shown; empty if none.
        supersedes: decision_id of the same person's row that this one replaces; empty for none.
        source: One of SOURCES.
        probability: With which the item came into a random sample ("audit"); NaN where it was
            chosen otherwise, so that it must not be used to estimate rates.
        decision_id: Made by the client, so that a repeated request appends nothing.
        created_at: UTC.
    """

    fit_id: str
    annotator: str
    verdict: str
    parts: frozenset[str] = ALL_PARTS
    reasons: tuple[str, ...] = ()
    comment: str = ""
    seconds: float = math.nan
    guideline_version: str = ""
    overlay_version: str = ""
    supersedes: str = ""
    source: str = "queue"
    probability: float = math.nan
    decision_id: str = field(default_factory=new_id)
    created_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def check(self) -> "Decision":
        """Return itself if every field makes sense.

        Raises:
            DecisionError: If not.
        """
        problem = ""
        if self.verdict not in (*VERDICTS, WITHDRAWN):
            problem = f"verdict must be one of {VERDICTS}, got {self.verdict!r}"
        elif not set(self.parts) <= ALL_PARTS:
            problem = f"parts must be of {PART_FLAGS}, got {sorted(self.parts)}"
        elif not set(self.reasons) <= set(REASONS) or len(set(self.reasons)) < len(self.reasons):
            problem = f"reasons must be of {REASONS}, got {list(self.reasons)}"
        elif self.source not in SOURCES:
            problem = f"source must be one of {SOURCES}, got {self.source!r}"
        elif len(self.comment) > MAX_COMMENT:
            problem = f"a comment has at most {MAX_COMMENT} characters, got {len(self.comment)}"
        elif "\0" in self.comment:
            problem = "a comment is text, without the character 0"
        elif not (self.fit_id and self.annotator and 8 <= len(self.decision_id) <= 64):
            problem = "fit_id, annotator and a decision_id of 8 to 64 characters are needed"
        elif self.verdict == WITHDRAWN and not self.supersedes:
            problem = "what is withdrawn must be named (supersedes)"
        elif self.created_at.tzinfo is None:
            problem = "created_at must know its time zone; use datetime.now(datetime.UTC)"
        if problem:
            raise DecisionError(problem)
        return self


def default_url(store_root: Path | str) -> str:
    """Return the URL of the decisions of a store of fits: an SQLite file in it."""
    return db.sqlite_url(Path(store_root) / "decisions.sqlite")


class DecisionStore:
    """The decisions and the log of one review.

    Args:
        url: As for database.Database, or an open one.

    Attributes:
        database: For the queue, accounts and the other parts of the same review.
    """

    def __init__(self, url: str | Path | Database) -> None:
        self.database = url if isinstance(url, Database) else Database(url)

    def append(self, decision: Decision) -> bool:
        """Append one decision; a repeated one (same id) changes nothing.

        Returns:
            Whether it was new.

        Raises:
            DecisionError: If a field makes no sense, the id stands for something else, or the
                person has decided on this fit already and the row does not supersede that.
        """
        return self.append_all([decision]) == 1

    def append_all(self, decisions: Sequence[Decision]) -> int:
        """Append many in one transaction, all or none; return how many were new."""
        with self.database.write() as connection:
            return sum(append_decision(connection, decision) for decision in decisions)

    def history(
        self, fit_id: str = "", annotator: str = "", limit: int | None = None
    ) -> list[Decision]:
        """Return all rows, superseded ones too, the oldest first.

        Args:
            fit_id: Only of this fit.
            annotator: Only by this one.
            limit: Only the newest so many.
        """
        query = sa.select(db.decision).order_by(db.decision.c.seq.desc()).limit(limit)
        if fit_id:
            query = query.where(db.decision.c.fit_id == fit_id)
        if annotator:
            query = query.where(db.decision.c.annotator == annotator)
        with self.database.read() as connection:
            return [_from_row(row) for row in reversed(connection.execute(query).all())]

    def current(self, fit_ids: Collection[str] | None = None) -> list[Decision]:
        """Return what counts: neither superseded nor withdrawn, in the order it was decided.

        Args:
            fit_ids: Only of these fits.
        """
        query = _current_query()
        if fit_ids is not None:
            query = query.where(db.decision.c.fit_id.in_(sorted(fit_ids)))
        with self.database.read() as connection:
            return [_from_row(row) for row in connection.execute(query)]

    def current_table(self) -> "pa.Table":
        """Return what counts as an Arrow table, see decision_schema."""
        with self.database.read() as connection:
            rows = connection.execute(_current_query()).all()
        return _to_table(rows)

    def history_table(self) -> "pa.Table":
        """Return every row as an Arrow table, the oldest first."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(db.decision).order_by(db.decision.c.seq)).all()
        return _to_table(rows)

    # --- the log

    def log(self, kind: str, who: str = "", address: str = "", **detail: Any) -> None:
        """Append to the log of what happened.

        Args:
            kind: What, in one word.
            who: A person's name, possibly a claimed one.
            address: Of the client.
            detail: What JSON can hold.
        """
        with self.database.write() as connection:
            log_event(connection, kind, who, address, **detail)

    def events(self, kind: str = "", limit: int = 1000) -> list[dict[str, Any]]:
        """Return the newest events, the newest first."""
        query = sa.select(db.event).order_by(db.event.c.seq.desc()).limit(limit)
        if kind:
            query = query.where(db.event.c.kind == kind)
        with self.database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [dict(row) | {"detail": json.loads(row["detail"])} for row in rows]

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def append_decision(connection: sa.Connection, decision: Decision) -> bool:
    """Append one decision in a transaction that others take part in; see DecisionStore.append."""
    decision.check()
    values = _to_values(decision)
    found = connection.execute(_BY_ID, {"p_id": decision.decision_id}).mappings().first()
    if found is not None:
        same = ("fit_id", "annotator", "verdict", "supersedes")
        if any(found[name] != values[name] for name in same):
            raise DecisionError("this decision_id stands for another decision; make a new id")
        return False
    if decision.supersedes:
        replaced = connection.execute(_BY_ID, {"p_id": decision.supersedes}).first()
        expected = (decision.fit_id, decision.annotator)
        if replaced is None or (replaced.fit_id, replaced.annotator) != expected:
            raise DecisionError("only a decision of the same person on the same fit is superseded")
    if not db.insert_new(connection, db.decision, values):
        raise DecisionError(
            f"{decision.annotator} has decided on this fit already"
            if not decision.supersedes
            else "that decision is superseded already"
        )
    return True


def log_event(
    connection: sa.Connection, kind: str, who: str = "", address: str = "", **detail: Any
) -> None:
    """Append to the log in a transaction that others take part in."""
    text = json.dumps(detail, ensure_ascii=True, default=str)
    row = {"at": db.now(), "who": _plain(who, 64), "address": _plain(address, 64)}
    connection.execute(db.event.insert(), row | {"kind": kind, "detail": text[:4000]})


def decision_schema() -> "pa.Schema":
    """Return the Arrow schema of decisions.

    The parts are four bool columns, named as in PART_FLAGS; ``reasons`` is a list of strings;
    ``created_at`` is a UTC timestamp; ``seconds`` and ``probability`` are NaN where unknown.
    """
    import pyarrow as pa

    return pa.schema(
        [
            *((name, pa.string()) for name in ("decision_id", "fit_id", "annotator", "verdict")),
            *((name, pa.bool_()) for name in PART_FLAGS),
            ("reasons", pa.list_(pa.string())),
            ("comment", pa.string()),
            ("created_at", pa.timestamp("us", "UTC")),
            ("seconds", pa.float64()),
            *(
                (name, pa.string())
                for name in ("guideline_version", "overlay_version", "supersedes", "source")
            ),
            ("probability", pa.float64()),
        ]
    )


def decisions_table(decisions: Sequence[Decision]) -> "pa.Table":
    """Return decisions as the table that ``current_table`` gives."""
    from types import SimpleNamespace

    return _to_table([SimpleNamespace(**_to_values(d)) for d in decisions])


def _current_query() -> sa.Select:
    later = db.decision.alias("later")
    superseded = sa.exists().where(later.c.supersedes == db.decision.c.decision_id)
    return (
        sa.select(db.decision)
        .where(db.decision.c.verdict != WITHDRAWN, ~superseded)
        .order_by(db.decision.c.seq)
    )


def _to_table(rows: Sequence[Any]) -> "pa.Table":
    import pyarrow as pa

    columns: dict[str, list] = {}
    for column in decision_schema():
        values = [getattr(row, column.name) for row in rows]
        if column.name == "reasons":
            values = [text.split(",") if text else [] for text in values]
        elif column.name == "created_at":
            values = [round(1e6 * seconds) for seconds in values]
        elif pa.types.is_floating(column.type):
            values = [math.nan if value is None else value for value in values]
        columns[column.name] = pa.array(values, column.type)
    return pa.table(columns, decision_schema())


def _to_values(decision: Decision) -> Mapping[str, Any]:
    values = {f.name: getattr(decision, f.name) for f in dataclasses.fields(decision)}
    parts = values.pop("parts")
    values |= {name: name in parts for name in PART_FLAGS}
    values["reasons"] = ",".join(decision.reasons)
    values["created_at"] = decision.created_at.timestamp()
    for name in ("seconds", "probability"):
        if not math.isfinite(values[name]):
            values[name] = None
    return values


def _from_row(row: Any) -> Decision:
    values = {
        f.name: getattr(row, f.name) for f in dataclasses.fields(Decision) if f.name != "parts"
    }
    values["parts"] = frozenset(name for name in PART_FLAGS if getattr(row, name))
    values["reasons"] = tuple(row.reasons.split(",")) if row.reasons else ()
    values["created_at"] = dt.datetime.fromtimestamp(row.created_at, dt.UTC)
    for name in ("seconds", "probability"):
        values[name] = math.nan if values[name] is None else values[name]
    return Decision(**values)


def _plain(text: str, length: int) -> str:
    """Text that both databases take: no character 0, no half characters, not too long."""
    return text.replace("\0", "?").encode("utf-8", "replace").decode()[:length]
