"""The state of leases and items in the database, within a transaction of the queue. Torch-free.

An item is a fit that waits for people. It goes through stages::

    fresh    nobody has it
    half     some have voted or hold it, and more people are needed
    full     as many hold it or have voted as are needed
    done     they agree, or somebody adjudicated
    disagree they do not agree, or are all unsure
    off      not in the queue (a gold item, or what a rule decided)
"""

import math
from typing import Any

import sqlalchemy as sa

from curation import database as db
from curation import queue_sql as sql
from curation.decisions import log_event
from curation.queue_records import Lease, LeaseError

__all__ = ["expire", "last_of_chain", "lease_from", "own_lease", "restage"]

_VOTE_SOURCES = ("queue", "audit")


def own_lease(connection: sa.Connection, lease_id: str, annotator: str) -> Lease:
    """Return a person's lease.

    Raises:
        LeaseError: If there is none, or it is another's.
    """
    row = connection.execute(sql.LEASE, {"p_lease": lease_id}).first()
    if row is None or row.annotator != annotator:
        raise LeaseError("this item is not yours")
    return lease_from(row)


def lease_from(row: Any) -> Lease:
    """Return a row of the table of leases as a record."""
    values = dict(row._mapping)
    values["probability"] = math.nan if row.probability is None else row.probability
    return Lease(**values)


def last_of_chain(connection: sa.Connection, fit_id: str, annotator: str) -> Any:
    """Return the row of a person's newest decision on a fit, None if there is none."""
    return connection.execute(
        sql.LAST_OF_CHAIN, {"p_fit": fit_id, "p_annotator": annotator}
    ).first()


def expire(connection: sa.Connection, annotator: str) -> None:
    """Free what others left lying; a person's own leases are theirs until somebody needs them."""
    times = {"p_now": db.now(), "p_annotator": annotator}
    for row in connection.execute(sql.EXPIRED, times).all():
        connection.execute(sql.SET_LEASE_STATE, {"p_lease": row.lease_id, "p_state": "expired"})
        log_event(connection, "lease_expired", row.annotator, lease=row.lease_id)
        restage(connection, row.fit_id)


def restage(connection: sa.Connection, fit_id: str, annotator: str = "") -> bool:
    """Count an item's votes and leases afresh and set its stage; return whether that changed."""
    which = {"p_fit": fit_id}
    item = connection.execute(sql.ITEM, which).first()
    if item is None or item.is_gold:
        return False
    verdicts = connection.execute(sql.VERDICTS, which).all()
    held = connection.scalar(sql.HELD, which)
    votes = [verdict for verdict, source in verdicts if source in _VOTE_SOURCES]
    sources = {source for _, source in verdicts}
    if not item.audit and not votes and not held and sources & {"rule", "import"}:
        stage = "off"  # the audit goes on: it measures the rules, too
    elif "adjudication" in sources:
        stage = "done"
    elif len(votes) >= item.needed:
        stage = "done" if len(set(votes)) == 1 and votes[0] != "unsure" else "disagree"
    elif len(votes) + held >= item.needed:
        stage = "full"
    else:
        stage = "half" if votes or held else "fresh"
    changed = {"p_stage": stage, "p_votes": len(votes), "p_held": held}
    connection.execute(sql.SET_ITEM, which | changed | {"p_last": annotator or item.last_annotator})
    return stage != item.stage
