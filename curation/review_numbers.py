"""How a review goes: progress, rate, acceptance, agreement, and how well each person does.

Torch-free. Everything is computed from the tables of one review at the moment of asking.
"""

import csv
import io
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import sqlalchemy as sa

from curation import database as db
from curation.agreement import AgreementReport, agreement_report
from curation.decisions import Decision, DecisionStore
from curation.intervals import Interval, wilson
from curation.votes import Votes

__all__ = ["AnnotatorNumbers", "ReviewNumbers", "annotators_csv", "review_numbers"]

LONGEST_SECONDS = 300.0
"""Longer looks are breaks: they do not count as time an item."""


@dataclass(frozen=True)
class AnnotatorNumbers:
    """One person's work.

    Attributes:
        name: Who.
        role: What they may.
        decided: Decisions that count, gold items not among them.
        today: Of the last 24 hours.
        median_seconds: Time an item; NaN if unknown.
        accepted: Share of accepts among accepts and rejects; NaN if there is none.
        gold: Gold items judged.
        gold_right: Share of them judged rightly, with Wilson's interval.
        undone: Decisions taken back or changed.
        last_at: Of the last decision, seconds since 1970; NaN if there is none.
    """

    name: str
    role: str
    decided: int
    today: int
    median_seconds: float
    accepted: float
    gold: int
    gold_right: Interval
    undone: int
    last_at: float


@dataclass(frozen=True)
class ReviewNumbers:
    """A whole review.

    Attributes:
        stages: Items by stage of the queue.
        decided: Decisions that count.
        by_rule: Decisions by rule.
        per_day: Decisions of people by day (UTC), the oldest first.
        last_hour: Decisions of people in the last hour.
        median_seconds: Time an item; NaN if unknown.
        acceptance: Of the uniform audit: the estimate for all items.
        acceptance_by_dataset: Likewise by dataset.
        verdicts_by_dataset: All votes of people by dataset and verdict.
        reasons: Rejections by reason, the most frequent first.
        parts_wrong: Accepted items by part that is not good.
        agreement: Of items that two or more judged; None if there are none.
        people: Everybody.
    """

    stages: dict[str, int]
    decided: int
    by_rule: dict[str, int]
    per_day: list[tuple[str, int]]
    last_hour: int
    median_seconds: float
    acceptance: Interval
    acceptance_by_dataset: dict[str, Interval]
    verdicts_by_dataset: dict[str, dict[str, int]]
    reasons: list[tuple[str, int]]
    parts_wrong: list[tuple[str, int]]
    agreement: AgreementReport | None
    people: list[AnnotatorNumbers] = field(default_factory=list)

    @property
    def items(self) -> int:
        """All items."""
        return sum(self.stages.values())

    @property
    def done(self) -> int:
        """Items that wait for nobody: agreed on, or out of the queue."""
        return self.stages.get("done", 0) + self.stages.get("off", 0)


def review_numbers(store: DecisionStore) -> ReviewNumbers:
    """Compute everything.

    Args:
        store: The review's.
    """
    moment = db.now()
    current = store.current()
    with store.database.read() as connection:
        items = dict(connection.execute(sa.select(db.item.c.fit_id, db.item.c.dataset)).all())
        stages = dict(
            connection.execute(
                sa.select(db.item.c.stage, sa.func.count()).group_by(db.item.c.stage)
            ).all()
        )
        gold = dict(connection.execute(sa.select(db.gold.c.fit_id, db.gold.c.verdict)).all())
        people = connection.execute(sa.select(db.annotator).order_by(db.annotator.c.name)).all()
        rows = connection.execute(
            sa.select(db.decision.c.annotator, sa.func.count()).group_by(db.decision.c.annotator)
        )
        written = dict(rows.all())
    human = [d for d in current if not d.annotator.startswith("rule:") and d.source != "import"]
    votes = [d for d in human if d.source in ("queue", "audit")]
    return ReviewNumbers(
        stages=stages,
        decided=len(current),
        by_rule=dict(Counter(d.annotator for d in current if d.annotator.startswith("rule:"))),
        per_day=sorted(Counter(d.created_at.date().isoformat() for d in human).items()),
        last_hour=sum(d.created_at.timestamp() > moment - 3600 for d in human),
        median_seconds=_median_seconds(human),
        acceptance=_acceptance([d for d in human if d.source == "audit"]),
        acceptance_by_dataset={
            name: _acceptance(
                [d for d in human if d.source == "audit" and items.get(d.fit_id) == name]
            )
            for name in sorted(set(items.values()))
        },
        verdicts_by_dataset=_verdicts(votes, items),
        reasons=Counter(
            reason for d in votes if d.verdict == "reject" for reason in d.reasons
        ).most_common(),
        parts_wrong=Counter(
            part
            for d in votes
            if d.verdict == "accept"
            for part in ("body", "left_hand", "right_hand", "face")
            if part not in d.parts
        ).most_common(),
        agreement=_agreement(votes),
        people=[_person(p, human, gold, written.get(p.name, 0), moment) for p in people],
    )


def _median_seconds(decisions: Sequence[Decision]) -> float:
    seconds = np.array([d.seconds for d in decisions], np.float64)
    seconds = seconds[(seconds > 0) & (seconds <= LONGEST_SECONDS)]
    return float(np.median(seconds)) if len(seconds) else math.nan


def _acceptance(decisions: Sequence[Decision]) -> Interval:
    """Share of accepts among the audit's accepts and rejects; an item counts once."""
    shares: dict[str, list[bool]] = defaultdict(list)
    for d in decisions:
        if d.verdict in ("accept", "reject"):
            shares[d.fit_id].append(d.verdict == "accept")
    return wilson(sum(float(np.mean(v)) for v in shares.values()), len(shares))


def _verdicts(votes: Sequence[Decision], items: dict[str, str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for d in votes:
        counts = found.setdefault(items.get(d.fit_id, "?"), dict.fromkeys(
            ("accept", "reject", "unsure"), 0))  # fmt: skip
        counts[d.verdict] += 1
    return found


def _agreement(votes: Sequence[Decision]) -> AgreementReport | None:
    counts = Counter(d.fit_id for d in votes)
    twice = [d for d in votes if counts[d.fit_id] > 1]
    if not twice:
        return None
    matrix = Votes.from_records(
        [d.fit_id for d in twice], [d.annotator for d in twice], [d.verdict for d in twice]
    )
    return agreement_report(matrix, replicates=500)


def _person(
    row: Any, human: Sequence[Decision], gold: dict[str, str], written: int, moment: float
) -> AnnotatorNumbers:
    own = [d for d in human if d.annotator == row.name]
    ordinary = [d for d in own if d.source != "gold"]
    golds = [d for d in own if d.source == "gold" and d.fit_id in gold]
    right = sum(d.verdict == gold[d.fit_id] for d in golds)
    clear = [d.verdict == "accept" for d in ordinary if d.verdict != "unsure"]
    return AnnotatorNumbers(
        name=row.name,
        role=row.role,
        decided=len(ordinary),
        today=sum(d.created_at.timestamp() > moment - 86400 for d in own),
        median_seconds=_median_seconds(own),
        accepted=float(np.mean(clear)) if clear else math.nan,
        gold=len(golds),
        gold_right=wilson(right, len(golds)),
        undone=written - len(own),
        last_at=max((d.created_at.timestamp() for d in own), default=math.nan),
    )


def annotators_csv(people: Sequence[AnnotatorNumbers]) -> str:
    """Return the people's numbers as CSV; names are quoted so that no spreadsheet runs them."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC)
    names = [f.name for f in fields(AnnotatorNumbers) if f.name != "gold_right"]
    writer.writerow([*names, "gold_right", "gold_right_low", "gold_right_high"])
    for person in people:
        right = person.gold_right
        values = [getattr(person, name) for name in names]
        numbers = [right.value, right.low, right.high]
        writer.writerow(["" if v != v else v for v in [*values, *numbers]])
    return out.getvalue()
