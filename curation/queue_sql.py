"""The statements that run with every decision, built once: building them costs more than running.

Named parameters begin with ``p_``, because SQLAlchemy keeps the columns' own names for itself.
"""

import sqlalchemy as sa

from curation import database as db
from curation.decisions import WITHDRAWN

_p = sa.bindparam
_item, _lease, _decision, _gold = db.item.c, db.lease.c, db.decision.c, db.gold.c
_later = db.decision.alias("later")

NOT_SUPERSEDED = ~sa.exists().where(_later.c.supersedes == _decision.decision_id)

# --- leases

OWN_OPEN = (
    sa.select(db.lease)
    .where(_lease.annotator == _p("p_annotator"), _lease.state == "open")
    .order_by(_lease.served_at)
)
EXTEND_OWN = (
    sa.update(db.lease)
    .where(_lease.annotator == _p("p_annotator"), _lease.state == "open")
    .values(expires_at=_p("p_end"))
)
LEASE = sa.select(db.lease).where(_lease.lease_id == _p("p_lease"))
LEASE_OF_FIT = sa.select(db.lease).where(
    _lease.fit_id == _p("p_fit"), _lease.annotator == _p("p_annotator")
)
SET_LEASE_STATE = (
    sa.update(db.lease).where(_lease.lease_id == _p("p_lease")).values(state=_p("p_state"))
)
REOPEN_LEASE = (
    sa.update(db.lease)
    .where(_lease.lease_id == _p("p_lease"))
    .values(state="open", served_at=_p("p_served"), expires_at=_p("p_end"))
)
FIRST_SERVED = sa.select(sa.func.min(_lease.served_at)).where(
    _lease.annotator == _p("p_annotator"), _lease.state == "open"
)
DROP_EXPIRED = sa.delete(db.lease).where(
    _lease.fit_id == _p("p_fit"),
    _lease.annotator == _p("p_annotator"),
    _lease.state == "expired",
)
EXPIRED = (
    sa.select(_lease.lease_id, _lease.fit_id, _lease.annotator)
    .where(
        _lease.state == "open",
        _lease.expires_at < _p("p_now"),
        _lease.annotator != _p("p_annotator"),
    )
    .limit(20)
    .with_for_update(skip_locked=True)
)
SERVED_BY_LANE = (
    sa.select(_lease.lane, sa.func.count())
    .where(_lease.annotator == _p("p_annotator"), _lease.state != "expired")
    .group_by(_lease.lane)
)

# --- what is next

_MINE = sa.exists().where(
    _lease.fit_id == _item.fit_id,
    _lease.annotator == _p("p_annotator"),
    _lease.state != "expired",
)


def _first(*where: sa.ColumnElement[bool], order: tuple = ()) -> sa.Select:
    return (
        sa.select(_item.fit_id, _item.audit)
        .where(*where, ~_MINE)
        .order_by(*order)
        .limit(1)
        .with_for_update(skip_locked=True, of=db.item)
    )


NEXT_OF_AUDIT = _first(_item.stage == "fresh", _item.audit, order=(_item.chance,))
NEXT_BEGUN = tuple(
    # Two ranges of an index, because "not mine" alone would walk over all that are mine.
    _first(_item.stage == "half", other)
    for other in (
        _item.last_annotator < _p("p_annotator"),
        _item.last_annotator > _p("p_annotator"),
    )
)
NEXT_DISAGREED = _first(_item.stage == "disagree", _item.open_leases == 0, order=(_item.chance,))
NEXT_USEFUL = _first(
    _item.stage == "fresh", ~_item.audit, order=(_item.priority.desc(), _item.chance.desc())
)
GOLD_LEFT = sa.select(_gold.fit_id).where(
    ~_gold.in_tutorial,
    _gold.created_by != _p("p_annotator"),
    _gold.fit_id.not_in(
        sa.union(
            sa.select(_lease.fit_id).where(_lease.annotator == _p("p_annotator")),
            sa.select(db.practice.c.fit_id).where(db.practice.c.annotator == _p("p_annotator")),
        )
    ),
)

# --- the state of one item

ITEM = sa.select(db.item).where(_item.fit_id == _p("p_fit")).with_for_update()
VERDICTS = sa.select(_decision.verdict, _decision.source).where(
    _decision.fit_id == _p("p_fit"), _decision.verdict != WITHDRAWN, NOT_SUPERSEDED
)
HELD = sa.select(sa.func.count()).where(
    _lease.fit_id == _p("p_fit"), _lease.state == "open", _lease.lane != "gold"
)
SET_ITEM = (
    sa.update(db.item)
    .where(_item.fit_id == _p("p_fit"))
    .values(
        stage=_p("p_stage"),
        votes=_p("p_votes"),
        open_leases=_p("p_held"),
        last_annotator=_p("p_last"),
    )
)

# --- decisions

DECISION = sa.select(db.decision).where(_decision.decision_id == _p("p_decision"))
LAST_OF_CHAIN = (
    sa.select(db.decision)
    .where(_decision.fit_id == _p("p_fit"), _decision.annotator == _p("p_annotator"))
    .order_by(_decision.seq.desc())
    .limit(1)
)
