"""How far annotators agree: raw, specific, Krippendorff's alpha, Gwet's AC1. Torch-free.

Kappa and alpha alone mislead where nearly everything is accepted: two people who each err on 5 %
of items agree on 91 % of them, and alpha falls from 0.81 to 0.45 as acceptance goes from 50 to
95 %. So every coefficient is reported beside the shares that it is made of, and the agreement on
each label ("when one rejects, how often does another?") comes first.

All of them are functions of per-item counts. Items with equal counts are put together, so that a
bootstrap over 40,000 items is a few matrix products.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation.intervals import Interval, percentile_interval
from curation.votes import Votes

__all__ = [
    "AgreementReport",
    "agreement_report",
    "gwet_ac1",
    "krippendorff_alpha",
    "prevalence",
    "raw_agreement",
    "specific_agreement",
]


def raw_agreement(counts: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray | float:
    """Return the share of pairs of votes that agree, mean over the items with two votes or more.

    The observed agreement of Fleiss (1971) and of Gwet (2008).

    Args:
        counts: (N, L) votes by item and label.
        weights: (..., N) how often each item counts; 1 by default. Leading dimensions are kept:
            rows of a bootstrap.
    """
    counts, weights = _inputs(counts, weights)
    total = counts.sum(1)
    pairs = total >= 2
    agreed = (counts * (counts - 1)).sum(1)[pairs] / (total * (total - 1))[pairs]
    return _ratio(weights[..., pairs] @ agreed, weights[..., pairs].sum(-1))


def specific_agreement(counts: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return for each label how often another agrees with someone who gave it.

    ``sum n (n - 1) / sum n (N - 1)`` over the items, n votes for the label out of N: positive and
    negative agreement (Cicchetti and Feinstein 1990) for any number of annotators.

    Args:
        counts: (N, L).
        weights: (..., N), as in raw_agreement.

    Returns:
        (..., L); NaN for a label that nobody gave to an item with two votes.
    """
    counts, weights = _inputs(counts, weights)
    total = counts.sum(1, keepdims=True)
    return _ratio(weights @ (counts * (counts - 1)), weights @ (counts * (total - 1)))


def prevalence(counts: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the share of each label, every item with a vote counting once.

    Args:
        counts: (N, L).
        weights: (..., N), as in raw_agreement.

    Returns:
        (..., L).
    """
    counts, weights = _inputs(counts, weights)
    total = counts.sum(1, keepdims=True)
    seen = total[:, 0] > 0
    shares = counts[seen] / total[seen]
    return _ratio(weights[..., seen] @ shares, weights[..., seen].sum(-1)[..., None])


def krippendorff_alpha(counts: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray | float:
    """Return Krippendorff's alpha for nominal labels, missing votes allowed.

    One less the disagreement observed within items over the one expected between all votes, from
    the coincidences of Krippendorff (2011), "Computing Krippendorff's alpha-reliability".

    Args:
        counts: (N, L).
        weights: (..., N), as in raw_agreement.

    Returns:
        NaN where it is not defined: no pairs of votes, or only one label was ever given.
    """
    counts, weights = _inputs(counts, weights)
    total = counts.sum(1)
    pairs = total >= 2
    counts, total, weights = counts[pairs], total[pairs], weights[..., pairs]
    observed = weights @ ((total**2 - (counts**2).sum(1)) / np.maximum(total - 1, 1))
    values = weights @ counts  # (..., L)
    size = values.sum(-1)
    expected = (size**2 - (values**2).sum(-1)) / np.maximum(size - 1, 1)
    return 1 - _ratio(observed, expected)


def gwet_ac1(counts: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray | float:
    """Return Gwet's first-order agreement coefficient (Gwet 2008), missing votes allowed.

    Chance agreement is ``sum p (1 - p) / (L - 1)``: it falls, instead of rising, as one label gets
    to be all there is, so the coefficient keeps its meaning there.

    Args:
        counts: (N, L) with every label that could be given, L of 2 or more.
        weights: (..., N), as in raw_agreement.
    """
    counts, weights = _inputs(counts, weights)
    if counts.shape[1] < 2:
        raise ValueError(f"AC1 needs two labels or more, got counts of shape {counts.shape}")
    shares = prevalence(counts, weights)
    chance = (shares * (1 - shares)).sum(-1) / (counts.shape[1] - 1)
    return _ratio(raw_agreement(counts, weights) - chance, 1 - chance)


def _inputs(counts: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 2:
        raise ValueError(f"counts must be (N, L), votes by item and label, got {counts.shape}")
    return counts, np.ones(len(counts)) if weights is None else np.asarray(weights, np.float64)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    top, bottom = np.broadcast_arrays(top, bottom)
    return np.divide(top, bottom, out=np.full(top.shape, math.nan), where=bottom > 0)[()]


@dataclass(frozen=True)
class AgreementReport:
    """Agreement of the annotators, each figure with its interval.

    Attributes:
        items: Items with a vote.
        items_twice: Of those, items with two votes or more: what agreement is measured on.
        votes: All votes.
        annotators: Who voted.
        specific: By label: when one gives it, how often does another? Print this first.
        raw: Share of pairs that agree.
        prevalence: By label.
        alpha: Krippendorff's.
        ac1: Gwet's.
    """

    items: int
    items_twice: int
    votes: int
    annotators: int
    specific: dict[str, Interval]
    raw: Interval
    prevalence: dict[str, Interval]
    alpha: Interval
    ac1: Interval

    def rows(self) -> list[tuple[str, Interval]]:
        """Return the lines of a table, the most useful first."""
        return [
            *((f"agreement on {label}", found) for label, found in self.specific.items()),
            ("raw agreement", self.raw),
            *((f"prevalence of {label}", found) for label, found in self.prevalence.items()),
            ("Krippendorff's alpha", self.alpha),
            ("Gwet's AC1", self.ac1),
        ]


def agreement_report(
    votes: Votes,
    labels: Sequence[str] = ("accept", "reject"),
    *,
    level: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> AgreementReport:
    """Measure the agreement, with bootstrap intervals by item.

    Items are drawn anew, not votes: the votes of one item belong together.

    Args:
        votes: Of the annotators; rules do not belong in here.
        labels: To be counted; votes for others (unsure) are as good as none.
        level: Of the intervals.
        replicates: Of the bootstrap.
        seed: Of its random numbers.
    """
    counts = votes.only(*labels).counts()
    counts = counts[counts.sum(1) > 0]
    # The bootstrap of N items is multinomial in the few kinds of items that there are.
    if len(counts):
        kinds, number = np.unique(counts, axis=0, return_counts=True)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(counts), number / len(counts), replicates).astype(np.float64)
    else:
        kinds, number, drawn = counts, np.zeros(0), np.zeros((replicates, 0))

    def interval(statistic, index=None) -> Interval:
        value, again = statistic(kinds, number), statistic(kinds, drawn)
        if index is not None:
            value, again = value[index], again[:, index]
        return percentile_interval(value, again, level)

    return AgreementReport(
        items=len(counts),
        items_twice=int((counts.sum(1) >= 2).sum()),
        votes=int(counts.sum()),
        annotators=int((votes.only(*labels).matrix >= 0).any(0).sum()),
        specific={name: interval(specific_agreement, k) for k, name in enumerate(labels)},
        raw=interval(raw_agreement),
        prevalence={name: interval(prevalence, k) for k, name in enumerate(labels)},
        alpha=interval(krippendorff_alpha),
        ac1=interval(gwet_ac1),
    )
