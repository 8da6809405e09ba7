"""What the review queue hands out and takes, and its chances. Torch-free."""

import hashlib
import math
from dataclasses import dataclass

from curation.decisions import ALL_PARTS, DecisionError

__all__ = ["Judgement", "Lease", "LeaseError", "QueueSettings", "gold_due", "uniform_number"]


class LeaseError(DecisionError):
    """A lease that does not exist, or is another's."""


@dataclass(frozen=True)
class QueueSettings:
    """How items are handed out.

    Attributes:
        overlap: People who judge an item.
        audit_overlap: Likewise for items of the audit; agreement is measured on them.
        audit_rate: Part of the items that is the audit, and chance of being served from it.
        lease_seconds: After which an item that was left lying is given to others.
    """

    overlap: int = 1
    audit_overlap: int = 2
    audit_rate: float = 0.1
    lease_seconds: float = 1200.0

    def __post_init__(self) -> None:
        if self.overlap < 1 or self.audit_overlap < 1:
            raise ValueError("at least one person must judge an item")
        if not 0 < self.audit_rate < 1:
            raise ValueError(f"audit_rate must be between 0 and 1, got {self.audit_rate}")


@dataclass(frozen=True)
class Lease:
    """One item in one person's hands.

    Attributes:
        lease_id: Random; stands for the item towards the page, and tells nothing about it.
        fit_id: The fit.
        annotator: Whose.
        lane: Why: "gold", "audit", "half" (others have begun), "adjudication", "queue".
        probability: Of being in the audit; NaN for what was chosen otherwise.
        served_at: When, seconds since 1970.
        expires_at: Likewise.
        state: "open", "done", "expired".
    """

    lease_id: str
    fit_id: str
    annotator: str
    lane: str
    probability: float
    served_at: float
    expires_at: float
    state: str


@dataclass(frozen=True)
class Judgement:
    """What a person says of the item of a lease; the fields are those of Decision."""

    decision_id: str
    verdict: str
    parts: frozenset[str] = ALL_PARTS
    reasons: tuple[str, ...] = ()
    comment: str = ""
    seconds: float = math.nan
    guideline_version: str = ""
    overlay_version: str = ""


def uniform_number(*texts: str) -> float:
    """Return a number in [0, 1) that the texts determine and nobody can guess without them."""
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def gold_due(judged: int) -> int:
    """Return how many gold items somebody should have seen: 3 in 10 items, 10 in 100, 31 in 1000.

    Many while little is known about them, then fewer and fewer.
    """
    return math.isqrt(judged)
