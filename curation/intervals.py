"""Shares with their uncertainty: Wilson, Clopper-Pearson, and samples of unequal probability. Torch-free."""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Interval", "clopper_pearson", "percentile_interval", "weighted_share", "wilson"]


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it; NaN where nothing is known.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def _check(successes: float, trials: float) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must lie in 0..trials, got {successes} of {trials}")


def wilson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Return a share with Wilson's score interval (Wilson 1927).

    Its coverage is on average the level, also near 0 and 1, where the textbook's interval fails.

    Args:
        successes: May be a fraction, for weighted samples.
        trials: Likewise; 0 gives [0, 1].
        level: Of confidence.
    """
    _check(successes, trials)
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    from scipy.stats import norm

    z = norm.ppf((1 + level) / 2)
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials)
    half *= math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def clopper_pearson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Return a share with the interval that covers at least at its level (Clopper, Pearson 1934).

    Args:
        successes: May be a fraction, for weighted samples (Korn and Graubard 1998).
        trials: Likewise; 0 gives [0, 1].
        level: Of confidence.
    """
    _check(successes, trials)
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    from scipy.stats import beta

    alpha = 1 - level
    low = beta.ppf(alpha / 2, successes, trials - successes + 1) if successes > 0 else 0.0
    high = beta.ppf(1 - alpha / 2, successes + 1, trials - successes) if successes < trials else 1.0
    return Interval(successes / trials, float(low), float(high))


def weighted_share(
    is_success: np.ndarray, probability: np.ndarray, level: float = 0.95
) -> Interval:
    """Return the share in a population of which a sample was drawn with known probabilities.

    Horvitz and Thompson's sums in Hajek's ratio, ``sum(y / p) / sum(1 / p)``. The interval is
    Clopper and Pearson's for the sample size that would have given the same variance with equal
    probabilities (Korn and Graubard 1998); with equal probabilities it is theirs exactly.

    Args:
        is_success: (n,) bool, or shares in 0..1, of the sampled items.
        probability: (n,) with which each was sampled, in (0, 1].
        level: Of confidence.

    Raises:
        ValueError: If a probability is not in (0, 1], or the lengths differ.
    """
    values = np.asarray(is_success, np.float64)
    probability = np.asarray(probability, np.float64)
    if values.shape != probability.shape or values.ndim != 1:
        raise ValueError(f"want two (n,) arrays, got {values.shape} and {probability.shape}")
    if not ((probability > 0) & (probability <= 1)).all():
        raise ValueError(
            "probabilities must lie in (0, 1]; leave out what could not have been sampled"
        )
    if not len(values):
        return Interval(math.nan, 0.0, 1.0)
    weights = 1 / probability
    share = float(np.average(values, weights=weights))
    # Kish's size: what unequal weights leave of n.
    size = float(weights.sum() ** 2 / (weights**2).sum())
    if 0 < share < 1 and len(values) > 1:
        n = len(values)
        variance = n / (n - 1) * float((weights**2 * (values - share) ** 2).sum())
        variance /= float(weights.sum()) ** 2
        if variance > 0:
            # n and not n - 1: the factor above would shrink a simple random sample.
            size = min(share * (1 - share) / variance * n / (n - 1), float(n))
    found = clopper_pearson(share * size, size, level)
    return Interval(share, found.low, found.high)


def percentile_interval(value: float, replicates: np.ndarray, level: float = 0.95) -> Interval:
    """Return the bootstrap's percentile interval; NaN ends if no replicate is a number."""
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return Interval(float(value), math.nan, math.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
