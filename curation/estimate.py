"""How far the accepted set can be trusted: its precision, with an interval. Torch-free.

Two things make the plain share of accepted audits wrong. Annotators err, so an accepted item may
be bad; Dawid and Skene's model estimates their errors from gold items and from items that several
people judged. And what people were asked about first is no fair sample, so only the uniform audit
stream (with recorded probabilities) speaks for items that nobody looked at.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation.consensus import VoteModel
from curation.intervals import Interval, logit_interval, weighted_share
from curation.votes import Votes

__all__ = ["PrecisionEstimate", "acceptance_rate", "estimate_precision"]

_FEW = 10


@dataclass(frozen=True)
class PrecisionEstimate:
    """The share of the accepted set that is good.

    Attributes:
        precision: Estimate and interval, the annotators' errors taken into account; NaN where
            nothing tells of these errors: no item was judged twice, and none is gold.
        accepted: Size of the accepted set.
        judged: Accepted items that a human judged.
        judged_twice: Accepted or not, items that two or more judged.
        gold: Items of known class with votes.
        caution: Why the estimate rests on assumptions rather than data; empty if it does not.
        by_stratum: The same by stratum: how many are accepted, and which share of them is good.
    """

    precision: Interval
    accepted: int
    judged: int
    judged_twice: int
    gold: int
    caution: str
    by_stratum: dict[str, tuple[int, float]]


def acceptance_rate(
    is_accepted: np.ndarray, probability: np.ndarray, level: float = 0.95
) -> Interval:
    """Return the share of all items that annotators would accept, from the audit stream alone.

    Args:
        is_accepted: (n,) bool, verdicts of the items that were drawn at random (source "audit").
        probability: (n,) with which each was drawn, as its decision records it.
        level: Of confidence.
    """
    return weighted_share(is_accepted, probability, level)


def estimate_precision(
    votes: Votes,
    is_accepted: np.ndarray,
    *,
    truth: np.ndarray | None = None,
    stratum: np.ndarray | None = None,
    stratum_names: Sequence[str] = (),
    level: float = 0.95,
    replicates: int = 100,
    seed: int = 0,
) -> PrecisionEstimate:
    """Estimate the precision of an accepted set.

    It is the mean probability of being good over the accepted items. Items with votes have Dawid
    and Skene's posterior; items without (accepted by a rule) have their stratum's share of good
    ones, which the audited items of that stratum tell. The interval is a bootstrap by item, each
    replicate fitted anew.

    Args:
        votes: Of humans, on accept, reject and perhaps unsure, one row for *every* item of the
            set, also those without votes. A rule's own verdict is not a vote.
        is_accepted: (N,) bool, the set.
        truth: (N,) int8 for gold items: 0 good, 1 bad, -1 unknown. Gold items that are not of the
            set (made up, say) serve to measure annotators; leave them out of ``is_accepted``.
        stratum: (N,) int. Items that different rules accepted, and items that people were asked
            about for different reasons, go into different strata.
        stratum_names: For ``by_stratum``.
        level: Of the interval.
        replicates: Of the bootstrap.
        seed: Of its random numbers.

    Raises:
        ValueError: If the arrays' lengths differ.
    """
    is_accepted = np.asarray(is_accepted, bool)
    count = len(votes.items)
    if is_accepted.shape != (count,):
        raise ValueError(f"is_accepted must be ({count},), got {is_accepted.shape}")
    stratum = np.zeros(count, np.int64) if stratum is None else np.asarray(stratum, np.int64)
    model = VoteModel(votes, 2, truth, stratum, group=is_accepted)
    state = model.fit(model.weights, model.start(), 3000, 1e-6)
    is_in = model.group == 1

    def mean(weights: np.ndarray, posterior: np.ndarray) -> float:
        kept = weights * is_in
        return float(kept @ posterior[:, 0] / kept.sum()) if kept.sum() else math.nan

    value = mean(model.weights, state.posterior)
    has_votes = (votes.matrix >= 0).any(1)
    known = np.zeros(count, bool) if truth is None else np.asarray(truth) >= 0
    twice = int(((votes.matrix >= 0).sum(1) >= 2).sum())
    gold = int((known & has_votes).sum())
    is_measured = twice > 0 or gold > 0
    rng = np.random.default_rng(seed)
    share = model.weights / max(model.weights.sum(), 1)
    again = np.full(replicates, math.nan)
    for k in range(replicates if is_accepted.any() and is_measured else 0):
        drawn = rng.multinomial(count, share).astype(np.float64)
        # Stopped early it would stay near where it began, and the interval would be too narrow.
        fitted = model.fit(drawn, state.posterior.copy(), 1000, 1e-5)
        again[k] = mean(drawn, fitted.posterior)
    # One vote an item fits any error rate: a number would be the model's prior and nobody's data.
    unknown = Interval(math.nan, math.nan, math.nan)
    precision = logit_interval(value, again, level) if is_measured else unknown
    posterior = state.posterior[model.kind_of, 0]
    names = list(stratum_names) or [str(k) for k in range(int(stratum.max(initial=0)) + 1)]
    return PrecisionEstimate(
        precision=precision,
        accepted=int(is_accepted.sum()),
        judged=int((is_accepted & has_votes).sum()),
        judged_twice=twice,
        gold=gold,
        caution=_caution(is_accepted, has_votes, stratum, names, twice, gold),
        by_stratum={
            name: (int(chosen.sum()), float(posterior[chosen].mean()))
            for k, name in enumerate(names)
            if (chosen := is_accepted & (stratum == k)).any()
        },
    )


def _caution(
    is_accepted: np.ndarray,
    has_votes: np.ndarray,
    stratum: np.ndarray,
    names: Sequence[str],
    twice: int,
    gold: int,
) -> str:
    for k, name in enumerate(names):
        chosen = is_accepted & (stratum == k)
        unseen = int((chosen & ~has_votes).sum())
        # Judged in the stratum, accepted or not: they share what is known of it.
        judged = int(((stratum == k) & has_votes).sum())
        if unseen and judged < _FEW:
            return (
                f"{unseen} accepted items of stratum {name} were judged by nobody, and only "
                f"{judged} of it were audited; let the audit stream run on"
            )
    if not twice and not gold:
        return (
            "no item was judged twice and none is gold, so nobody knows how often the annotators "
            "err; raise the overlap, or add gold"
        )
    if twice < _FEW and gold < _FEW:
        return (
            f"only {twice} items were judged twice and {gold} are gold: the annotators' errors "
            "are assumed, not measured; raise the overlap, or add gold"
        )
    return ""
