"""Gold items: fits whose right verdict is known, to teach and to measure people. Torch-free.

They are handed out among the others and look like them. Those of the tutorial are shown with their
answer, and never to be judged in the queue.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

import sqlalchemy as sa

from curation import database as db
from curation.decisions import REASONS, VERDICTS, Decision, DecisionError, DecisionStore, log_event
from curation.queue_state import restage

__all__ = ["TUTORIAL_ITEMS", "GoldItem", "GoldItems"]

TUTORIAL_ITEMS = 10


@dataclass(frozen=True)
class GoldItem:
    """A fit with a known answer.

    Attributes:
        fit_id: The fit.
        verdict: "accept" or "reject".
        reasons: Why it is rejected; any of them is right.
        note: What the tutorial says about it.
        in_tutorial: Whether it teaches; otherwise it measures.
        created_by: Who knows; they are never asked themselves.
    """

    fit_id: str
    verdict: str
    reasons: tuple[str, ...] = ()
    note: str = ""
    in_tutorial: bool = False
    created_by: str = ""


class GoldItems:
    """The gold items of a review.

    Args:
        store: Whose database.
    """

    def __init__(self, store: DecisionStore) -> None:
        self._store = store

    def add(self, items: Iterable[GoldItem]) -> int:
        """Make fits gold; they leave the ordinary queue. Return how many were new or changed.

        Raises:
            DecisionError: If a verdict or reason makes no sense.
        """
        count = 0
        with self._store.database.write() as connection:
            for item in items:
                if item.verdict not in VERDICTS[:2] or not set(item.reasons) <= set(REASONS):
                    raise DecisionError("a gold item is accepted, or rejected for known reasons")
                row = vars(item) | {"reasons": ",".join(item.reasons), "created_at": db.now()}
                where = db.gold.c.fit_id == item.fit_id
                connection.execute(sa.delete(db.gold).where(where))
                connection.execute(db.gold.insert(), row)
                connection.execute(
                    sa.update(db.item)
                    .where(db.item.c.fit_id == item.fit_id)
                    .values(is_gold=True, stage="off")
                )
                log_event(connection, "gold_added", item.created_by, fit_id=item.fit_id)
                count += 1
        return count

    def remove(self, fit_id: str, by: str = "") -> None:
        """Make a gold item an ordinary one again."""
        with self._store.database.write() as connection:
            connection.execute(sa.delete(db.gold).where(db.gold.c.fit_id == fit_id))
            which = db.item.c.fit_id == fit_id
            connection.execute(sa.update(db.item).where(which).values(is_gold=False))
            restage(connection, fit_id)
            log_event(connection, "gold_removed", by, fit_id=fit_id)

    def all(self) -> list[GoldItem]:
        """Return the gold items, those of the tutorial first."""
        query = sa.select(db.gold).order_by(db.gold.c.in_tutorial.desc(), db.gold.c.created_at)
        with self._store.database.read() as connection:
            return [_gold(row) for row in connection.execute(query)]

    def propose_tutorial(self, by: str) -> list[GoldItem]:
        """Return fits that all who judged them agreed on, for the places left in the tutorial.

        At least two people; rejects and accepts in turn, those with reasons first, because the
        answer then says why. Nothing is changed: pass them to ``add``.

        Args:
            by: Who takes them.
        """
        known = {item.fit_id for item in self.all()}
        votes: dict[str, list[Decision]] = defaultdict(list)
        for decision in self._store.current():
            if decision.source in ("queue", "audit") and decision.fit_id not in known:
                votes[decision.fit_id].append(decision)
        found: dict[str, list[GoldItem]] = {"accept": [], "reject": []}
        for fit_id, decisions in votes.items():
            verdicts = {d.verdict for d in decisions}
            if len(decisions) < 2 or len(verdicts) > 1 or verdicts == {"unsure"}:
                continue
            verdict = decisions[0].verdict
            reasons = tuple(r for r in REASONS if any(r in d.reasons for d in decisions))
            note = f"{len(decisions)} people agreed."
            found[verdict].append(GoldItem(fit_id, verdict, reasons, note, True, by))
        rejects = sorted(found["reject"], key=lambda item: not item.reasons)
        mixed = [item for pair in zip_longest(rejects, found["accept"]) for item in pair if item]
        return mixed[: max(0, TUTORIAL_ITEMS - len(self.tutorial()))]

    def tutorial(self) -> list[GoldItem]:
        """Return the items of the tutorial, at most ten."""
        return [item for item in self.all() if item.in_tutorial][:TUTORIAL_ITEMS]

    def practise(self, annotator: str, gold: GoldItem, verdict: str) -> bool:
        """Keep an answer of the tutorial; the first one counts. Return whether it is right.

        Args:
            annotator: Who answers.
            gold: An item of the tutorial, of this review or built into the page.
            verdict: The answer.

        Raises:
            DecisionError: If it is no item of the tutorial.
        """
        if not gold.in_tutorial or verdict not in VERDICTS:
            raise DecisionError("this is not an item of the tutorial")
        answer = {
            "annotator": annotator,
            "fit_id": gold.fit_id,
            "verdict": verdict,
            "is_right": verdict == gold.verdict,
            "at": db.now(),
        }
        with self._store.database.write() as connection:
            db.insert_new(connection, db.practice, answer)
        return answer["is_right"]

    def practised(self, annotator: str) -> dict[str, bool]:
        """Return which items of the tutorial somebody has answered, and whether rightly."""
        query = sa.select(db.practice.c.fit_id, db.practice.c.is_right).where(
            db.practice.c.annotator == annotator
        )
        with self._store.database.read() as connection:
            return dict(connection.execute(query).all())


def _gold(row: sa.Row) -> GoldItem:
    values = dict(row._mapping)
    del values["created_at"]
    return GoldItem(**values | {"reasons": tuple(row.reasons.split(",")) if row.reasons else ()})
