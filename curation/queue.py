"""Who is shown which fit next: leases, overlap, gold, audit, disagreements. Torch-free.

An item is a fit that waits for people (curation.queue_state has its stages). It is handed out by a
lease, which ends after a while, so that what somebody left lying comes back. The order for one
person is: own open leases; a gold item if one is due; with a chance of one in ten, the next of the
audit; what others have begun; disagreements (adjudicators); the most useful next by priority; the
rest of the audit.

**The audit.** One item in ten belongs to it, by a hash that nothing else enters. They are served
in the order of their hash, and by nothing else, so at any time those that were judged are a uniform
sample of all items: acceptance and precision are estimated from them without bias.
"""

import math
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from curation import database as db
from curation import queue_sql as sql
from curation.decisions import WITHDRAWN, Decision, DecisionError, DecisionStore, append_decision
from curation.queue_records import (
    Judgement,
    Lease,
    LeaseError,
    QueueSettings,
    gold_due,
    uniform_number,
)
from curation.queue_state import expire, last_of_chain, lease_from, own_lease, restage

__all__ = ["ReviewQueue"]

_LANE_SOURCES = {"gold": "gold", "audit": "audit", "adjudication": "adjudication"}


class ReviewQueue:
    """Hands out items and takes decisions; every method is one transaction.

    Args:
        store: Where decisions go.
        settings: How items are handed out. What is in the database already keeps its overlap until
            set_overlap.
    """

    def __init__(self, store: DecisionStore, settings: QueueSettings | None = None) -> None:
        self.store = store
        self.settings = settings or QueueSettings()
        self._database = store.database
        self._seed = self._database.seed()

    # --- items

    def add_items(self, items: Iterable[tuple[str, str, str]]) -> int:
        """Put fits into the queue; those that are in it stay as they are.

        Args:
            items: fit_id, run_id and dataset of each.

        Returns:
            How many were new.
        """
        settings = self.settings
        with self._database.write() as connection:
            known = set(connection.scalars(sa.select(db.item.c.fit_id)))
            rows = []
            for fit_id, run_id, dataset in items:
                if fit_id in known:
                    continue
                known.add(fit_id)
                audit = uniform_number(self._seed, "audit", fit_id) < settings.audit_rate
                rows.append(
                    {
                        "fit_id": fit_id,
                        "run_id": run_id,
                        "dataset": dataset,
                        "stage": "fresh",
                        "audit": audit,
                        "chance": uniform_number(self._seed, "order", fit_id),
                        "needed": settings.audit_overlap if audit else settings.overlap,
                    }
                )
            for start in range(0, len(rows), 5000):
                connection.execute(db.item.insert(), rows[start : start + 5000])
            return len(rows)

    def set_priorities(self, priorities: Mapping[str, float]) -> None:
        """Say which items are the most useful next; the highest comes first, 0 is the default."""
        rows = [{"id": fit_id, "value": float(value)} for fit_id, value in priorities.items()]
        if not all(math.isfinite(row["value"]) for row in rows):
            raise ValueError("priorities must be finite numbers")
        update = (
            sa.update(db.item)
            .where(db.item.c.fit_id == sa.bindparam("id"))
            .values(priority=sa.bindparam("value"))
        )
        # In pieces: nobody who is judging waits for tens of thousands of rows.
        for start in range(0, len(rows), 1000):
            with self._database.write() as connection:
                connection.execute(update, rows[start : start + 1000])

    def set_overlap(self, overlap: int, audit_overlap: int) -> None:
        """Let more (or fewer) people judge each item; what was done may be opened again."""
        item = db.item.c
        wanted = sa.case((item.audit, audit_overlap), else_=overlap)
        with self._database.write() as connection:
            changed = connection.scalars(
                sa.select(item.fit_id).where(item.needed != wanted, item.stage != "fresh")
            ).all()
            connection.execute(sa.update(db.item).values(needed=wanted))
            for fit_id in changed:
                restage(connection, fit_id)

    def heed(self) -> int:
        """Take items out of the queue that a rule or an imported file has decided meanwhile.

        Returns:
            How many items changed their stage.
        """
        stage = db.item.c.stage
        decided = db.decision.c.source.in_(("rule", "import"))
        query = (
            sa.select(db.item.c.fit_id)
            .distinct()
            .join(db.decision, db.decision.c.fit_id == db.item.c.fit_id)
            .where(stage.in_(("fresh", "off")), ~db.item.c.is_gold, ~db.item.c.audit, decided)
        )
        with self._database.read() as connection:
            found = connection.scalars(query).all()
        changed = 0
        for start in range(0, len(found), 200):
            with self._database.write() as connection:
                changed += sum(restage(connection, fit_id) for fit_id in found[start : start + 200])
        return changed

    def counts(self) -> dict[str, int]:
        """Return how many items are in each stage."""
        query = sa.select(db.item.c.stage, sa.func.count()).group_by(db.item.c.stage)
        with self._database.read() as connection:
            return dict(connection.execute(query).all())

    # --- leases

    def take(
        self,
        annotator: str,
        count: int = 3,
        adjudicates: bool = False,
        only_disagreements: bool = False,
    ) -> list[Lease]:
        """Return a person's next items, own open ones first; they become the person's.

        Args:
            annotator: Who.
            count: How many at most; the first is to be judged, the others can be loaded ahead.
            adjudicates: Whether to hand out disagreements of others, too.
            only_disagreements: Whether to hand out nothing else.
        """
        with self._database.write() as connection:
            return self._take(connection, annotator, count, adjudicates, only_disagreements)

    def _take(
        self,
        connection: sa.Connection,
        annotator: str,
        count: int,
        adjudicates: bool,
        only_disagreements: bool,
    ) -> list[Lease]:
        expire(connection, annotator)
        end = db.now() + self.settings.lease_seconds
        connection.execute(sql.EXTEND_OWN, {"p_annotator": annotator, "p_end": end})
        rows = connection.execute(sql.OWN_OPEN, {"p_annotator": annotator})
        leases = [lease_from(row) for row in rows]
        if only_disagreements:
            leases = [lease for lease in leases if lease.lane == "adjudication"]
        while len(leases) < count:
            found = self._next(connection, annotator, adjudicates, only_disagreements)
            if found is None:
                break
            lease = self._lend(connection, annotator, *found, end)
            if lease is not None:  # None: this person's other window was faster
                leases.append(lease)
        return leases[:count]

    def lease(self, lease_id: str, annotator: str) -> Lease:
        """Return a lease of this person.

        Raises:
            LeaseError: If there is none, or it is another's.
        """
        with self._database.read() as connection:
            return own_lease(connection, lease_id, annotator)

    def _next(
        self,
        connection: sa.Connection,
        annotator: str,
        adjudicates: bool,
        only_disagreements: bool,
    ) -> tuple[str, str, float] | None:
        """Return fit_id, lane and probability of what to serve next."""
        me = {"p_annotator": annotator}
        if only_disagreements:
            found = connection.execute(sql.NEXT_DISAGREED, me).first()
            return (found.fit_id, "adjudication", math.nan) if found else None
        served = dict(connection.execute(sql.SERVED_BY_LANE, me).all())
        golds = served.pop("gold", 0)
        judged = sum(served.values())
        coin = [uniform_number(self._seed, annotator, str(judged), k) for k in ("gold", "audit")]
        # A third, so that the moment cannot be guessed; it is due until it comes.
        if golds < gold_due(judged) and coin[0] < 1 / 3:
            fit_id = self._next_gold(connection, annotator)
            if fit_id is not None:
                return fit_id, "gold", math.nan

        rate = self.settings.audit_rate
        if coin[1] < rate:
            found = connection.execute(sql.NEXT_OF_AUDIT, me).first()
            if found:
                return found.fit_id, "audit", rate
        for statement in sql.NEXT_BEGUN:
            found = connection.execute(statement, me).first()
            if found:
                return found.fit_id, *(("audit", rate) if found.audit else ("half", math.nan))
        if adjudicates:
            found = connection.execute(sql.NEXT_DISAGREED, me).first()
            if found:
                return found.fit_id, "adjudication", math.nan
        found = connection.execute(sql.NEXT_USEFUL, me).first()
        if found:
            return found.fit_id, "queue", math.nan
        found = connection.execute(sql.NEXT_OF_AUDIT, me).first()
        return (found.fit_id, "audit", rate) if found else None

    def _next_gold(self, connection: sa.Connection, annotator: str) -> str | None:
        left = connection.scalars(sql.GOLD_LEFT, {"p_annotator": annotator}).all()
        return min(left, key=lambda f: uniform_number(self._seed, annotator, f), default=None)

    def _lend(
        self,
        connection: sa.Connection,
        annotator: str,
        fit_id: str,
        lane: str,
        probability: float,
        end: float,
    ) -> Lease | None:
        lease = Lease(db.new_id(), fit_id, annotator, lane, probability, db.now(), end, "open")
        row = vars(lease) | {"probability": None if math.isnan(probability) else probability}
        # One that expired is lent again under a new name.
        connection.execute(sql.DROP_EXPIRED, {"p_fit": fit_id, "p_annotator": annotator})
        if not db.insert_new(connection, db.lease, row):
            return None
        restage(connection, fit_id, annotator)
        return lease

    # --- decisions

    def decide(
        self,
        lease_id: str,
        annotator: str,
        judgement: Judgement,
        *,
        revises: str = "",
        take: int = 0,
        adjudicates: bool = False,
        only_disagreements: bool = False,
    ) -> tuple[Decision, list[Lease]]:
        """Take a decision, and hand out what comes next, in one transaction.

        A repeated request (same decision_id) changes nothing and succeeds. A lease that expired
        still counts: what somebody has judged is not thrown away, even if it is one vote more.

        Args:
            lease_id: Of this person.
            annotator: Who.
            judgement: What they say.
            revises: The decision that this one replaces, if they change their mind.
            take: How many next items to return, as in ``take``.
            adjudicates: As in ``take``.
            only_disagreements: As in ``take``.

        Raises:
            LeaseError: If the lease is not this person's.
            DecisionError: If the judgement makes no sense, or they have decided already.
        """
        with self._database.write() as connection:
            lease = own_lease(connection, lease_id, annotator)
            last = last_of_chain(connection, lease.fit_id, annotator)
            if last is not None and last.decision_id == judgement.decision_id:
                supersedes = last.supersedes
            else:
                is_open = last is None or last.verdict == WITHDRAWN
                if not is_open and revises != last.decision_id:
                    raise DecisionError("you have decided on this one already; it is in history")
                supersedes = "" if last is None else last.decision_id
            decision = Decision(
                fit_id=lease.fit_id,
                annotator=annotator,
                supersedes=supersedes,
                source=_LANE_SOURCES.get(lease.lane, "queue"),
                probability=lease.probability,
                **vars(judgement),
            )
            if append_decision(connection, decision):
                connection.execute(sql.SET_LEASE_STATE, {"p_lease": lease_id, "p_state": "done"})
                restage(connection, lease.fit_id, annotator)
            following = []
            if take:
                how = (adjudicates, only_disagreements)
                following = self._take(connection, annotator, take, *how)
        return decision, following

    def withdraw(self, annotator: str, decision_id: str, new_decision_id: str = "") -> Lease:
        """Take a decision back; its item is the person's next again.

        Args:
            annotator: Who.
            decision_id: Of a decision of theirs that counts.
            new_decision_id: For the row that says so, so that a repeated request is harmless.

        Raises:
            LeaseError: If the item was never handed to this person by the queue.
            DecisionError: If it is another's, or does not count any more.
        """
        with self._database.write() as connection:
            row = connection.execute(sql.DECISION, {"p_decision": decision_id}).first()
            if row is None or row.annotator != annotator:
                raise DecisionError("there is no such decision of yours")
            me = {"p_annotator": annotator}
            lease_row = connection.execute(sql.LEASE_OF_FIT, me | {"p_fit": row.fit_id}).first()
            if lease_row is None:
                raise LeaseError("this decision was not made in the queue")
            withdrawn = Decision(
                fit_id=row.fit_id,
                annotator=annotator,
                verdict=WITHDRAWN,
                parts=frozenset(),
                supersedes=decision_id,
                source=row.source,
                probability=math.nan if row.probability is None else row.probability,
                decision_id=new_decision_id or db.new_id(),
            )
            if append_decision(connection, withdrawn):
                first = connection.scalar(sql.FIRST_SERVED, me)
                times = {
                    "p_served": db.now() if first is None else first - 1e-3,
                    "p_end": db.now() + self.settings.lease_seconds,
                }
                connection.execute(sql.REOPEN_LEASE, times | {"p_lease": lease_row.lease_id})
                restage(connection, row.fit_id)
            return own_lease(connection, lease_row.lease_id, annotator)

    def done_since(self, annotator: str, seconds: float) -> int:
        """Return how many items a person has judged in the last seconds, less what was undone."""
        later = db.decision.alias("later")
        query = sa.select(sa.func.count()).where(
            db.decision.c.annotator == annotator,
            db.decision.c.created_at > db.now() - seconds,
            db.decision.c.verdict != WITHDRAWN,
            ~sa.exists().where(later.c.supersedes == db.decision.c.decision_id),
        )
        with self._database.read() as connection:
            return connection.scalar(query)

    def own_history(
        self, annotator: str, limit: int = 50, before: float = math.inf
    ) -> list[tuple[Decision, str]]:
        """Return a person's decisions that count, the newest first, with their lease ids.

        Args:
            annotator: Whose.
            limit: How many.
            before: Only older ones, seconds since 1970.
        """
        from curation.decisions import _current_query, _from_row

        query = (
            _current_query()
            .add_columns(db.lease.c.lease_id)
            .join(
                db.lease,
                (db.lease.c.fit_id == db.decision.c.fit_id)
                & (db.lease.c.annotator == db.decision.c.annotator),
            )
            .where(db.decision.c.annotator == annotator)
            .order_by(None)
            .order_by(db.decision.c.seq.desc())
            .limit(limit)
        )
        if math.isfinite(before):
            query = query.where(db.decision.c.created_at < before)
        with self._database.read() as connection:
            return [(_from_row(row), row.lease_id) for row in connection.execute(query)]
