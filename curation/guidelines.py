"""What annotators are told, in numbered versions; a decision names the one it was made under."""

from dataclasses import dataclass

import sqlalchemy as sa

from curation import database as db
from curation.decisions import DecisionStore, log_event

__all__ = ["Guideline", "Guidelines"]


@dataclass(frozen=True)
class Guideline:
    """One version of the text, in Markdown. ``version`` counts from 1; 0 is the built-in text."""

    version: int
    text: str
    created_by: str = ""
    created_at: float = 0.0


class Guidelines:
    """The versions of a review's guideline; old ones stay.

    Args:
        store: Whose database.
    """

    def __init__(self, store: DecisionStore) -> None:
        self._store = store

    def current(self) -> Guideline | None:
        """Return the newest version, None if the built-in text has not been changed."""
        query = sa.select(db.guideline).order_by(db.guideline.c.version.desc()).limit(1)
        with self._store.database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else Guideline(**row._mapping)

    def save(self, text: str, by: str) -> Guideline:
        """Make a new version; everybody is shown it before their next item.

        Raises:
            ValueError: If the text is empty or longer than 100,000 characters.
        """
        if not text.strip() or len(text) > 100_000 or "\0" in text:
            raise ValueError("a guideline is a text of at most 100,000 characters")
        with self._store.database.write() as connection:
            last = connection.scalar(sa.select(sa.func.max(db.guideline.c.version))) or 0
            row = {"version": last + 1, "text": text, "created_by": by, "created_at": db.now()}
            connection.execute(db.guideline.insert(), row)
            log_event(connection, "guideline_saved", by, version=last + 1)
        return Guideline(**row)
