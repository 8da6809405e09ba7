"""How probably a fit would be accepted, learnt from the decisions so far. Torch-free.

The model looks at the quality columns only (``curation.quality``), is trained anew whenever it is
wanted (a second for some thousand decisions; nothing is stored, so nothing stale is used and no
file can carry code), and its probabilities are calibrated on decisions that it was not trained on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.quality import Quality

if TYPE_CHECKING:
    from curation.votes import Votes

__all__ = [
    "NotEnoughDecisionsError",
    "TriageModel",
    "confident_set",
    "order_by_usefulness",
    "train_triage",
]

MIN_OF_EACH = 8
"""Accepted and rejected fits that a model needs; below, fits go by their residual."""

_ISOTONIC_FROM = 1000
_ISOTONIC_MINORITY = 100
_FOLDS = 5


class NotEnoughDecisionsError(ValueError):
    """Too few decisions to learn from. The message says how many there are and are needed."""


@dataclass(frozen=True, eq=False)
class TriageModel:
    """A trained model, and how it did on decisions that it had not seen.

    Attributes:
        kind: "logistic" or "trees".
        names: The features.
        held_out: (n,) calibrated probabilities of the training fits, each by a model and a
            calibration that had seen neither the fit nor others of its group.
        is_accepted: (n,) bool, what was decided on them.
        weights: (n,) how much each counted.
        importance: By feature, how much the log loss (nats) grows when the feature is shuffled.
    """

    kind: str
    names: tuple[str, ...]
    held_out: np.ndarray
    is_accepted: np.ndarray
    weights: np.ndarray
    importance: dict[str, float]
    _model: Any
    _calibration: Any

    def score(self, quality: Quality) -> np.ndarray:
        """Return (n,) probabilities of acceptance.

        Args:
            quality: Of the fits; features that the model does not know are left aside, and those
                that it knows and are not here count as missing.
        """
        if not len(quality.fit_id):
            return np.zeros(0)
        return self._calibration(self._model(_aligned(quality, self.names)))

    @property
    def log_loss(self) -> float:
        """Mean of -log of the probability given to what was decided, held out."""
        return _log_loss(self.is_accepted, self.held_out, self.weights)

    @property
    def brier(self) -> float:
        """Mean squared error of the probabilities, held out."""
        return float(np.average((self.held_out - self.is_accepted) ** 2, weights=self.weights))

    def precision_recall(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return thresholds (falling), precision and recall of "accept at or above", held out."""
        order = np.argsort(-self.held_out, kind="stable")
        weights, good = self.weights[order], self.is_accepted[order]
        hits, taken = np.cumsum(weights * good), np.cumsum(weights)
        ends = np.flatnonzero(np.append(np.diff(self.held_out[order]) != 0, True))
        total = max(hits[-1], 1e-300)
        return self.held_out[order][ends], hits[ends] / taken[ends], hits[ends] / total

    def threshold_for(self, precision: float, confidence: float = 0.9) -> float:
        """Return the lowest threshold above which that share of fits would be accepted, surely.

        The held-out precision's lower bound (Wilson, one-sided) has to reach it: a high precision
        of few fits proves nothing. Infinity if no threshold does.

        Args:
            precision: Wanted, in (0, 1).
            confidence: That it is reached.
        """
        from scipy.stats import norm

        thresholds, found, _ = self.precision_recall()
        count = np.array([self.weights[self.held_out >= t].sum() for t in thresholds])
        z = norm.ppf(confidence)
        middle = (found + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(found * (1 - found) / count + (z / 2 / count) ** 2)
        enough = np.flatnonzero(middle - half >= precision)
        return float(thresholds[enough[-1]]) if len(enough) else math.inf


def train_triage(
    quality: Quality,
    is_accepted: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    importance: bool = True,
) -> TriageModel:
    """Train a model on decided fits.

    A logistic regression and gradient-boosted trees are tried; the one with the smaller held-out
    log loss is kept. Calibrated by Platt's method, from 1000 decisions on by isotonic regression.

    Args:
        quality: Of the n decided fits.
        is_accepted: (n,) bool, their consensus.
        weights: (n,) how sure each is, such as ``|2 p - 1|`` of a posterior; 1 by default.
        groups: (n,) fits of one group (one photo, its duplicates) are held out together.
        seed: Of the folds and the trees.
        importance: Whether to measure the features' importance, which takes a moment.

    Raises:
        NotEnoughDecisionsError: If there are fewer than MIN_OF_EACH accepted or rejected fits.
    """
    is_accepted = np.asarray(is_accepted, bool)
    weights = np.ones(len(is_accepted)) if weights is None else np.asarray(weights, np.float64)
    kept = weights > 0
    accepted, rejected = int((is_accepted & kept).sum()), int((~is_accepted & kept).sum())
    if min(accepted, rejected) < MIN_OF_EACH:
        raise NotEnoughDecisionsError(
            f"{accepted} fits are accepted and {rejected} rejected; {MIN_OF_EACH} of each are "
            "needed to learn from"
        )
    groups = list(quality.fit_id) if groups is None else list(groups)
    names, values = _informative(quality)
    folds = _folds(is_accepted, groups, seed)
    tried = {}
    for kind in _FITTERS:
        raw = np.zeros(len(is_accepted))
        for fold in np.unique(folds):
            train = (folds != fold) & kept
            model = _FITTERS[kind](values[train], is_accepted[train], weights[train], seed)
            raw[folds == fold] = model(values[folds == fold])
        held_out = np.zeros(len(raw))
        for fold in np.unique(folds):
            train = (folds != fold) & kept
            calibration = _calibrate(raw[train], is_accepted[train], weights[train])
            held_out[folds == fold] = calibration(raw[folds == fold])
        tried[kind] = (_log_loss(is_accepted, held_out, weights), kind, raw, held_out)
    _, kind, raw, held_out = min(tried.values())[:4]
    model = _FITTERS[kind](values[kept], is_accepted[kept], weights[kept], seed)
    calibration = _calibrate(raw[kept], is_accepted[kept], weights[kept])
    return TriageModel(
        kind=kind,
        names=names,
        held_out=held_out,
        is_accepted=is_accepted,
        weights=weights,
        importance=_importance(model, calibration, values, is_accepted, weights, names, seed)
        if importance
        else {},
        _model=model,
        _calibration=calibration,
    )


def confident_set(
    scores: np.ndarray, votes: "Votes", *, precision: float = 0.95, per_bin: int = 25
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest set of fits that is good by the wanted share, looked at or not.

    What the model says of a fit and what people say of it are put together: fits are put into bins
    of equal score, Dawid and Skene's model (``consensus.dawid_skene``) estimates the share of good
    fits in each bin, annotators' errors undone, and that share is what votes start from. One
    person's "accept" is enough where the model agrees, and not where it is sure of the opposite.
    The set takes the most probable fits as long as their mean probability reaches the precision.

    Args:
        scores: (N,) of all fits: held out for those that the model was trained on.
        votes: Of humans, N rows.
        precision: Wanted mean probability of being good.
        per_bin: Judged fits a bin.

    Returns:
        (N,) bool, the set, and (N,) the probability of each fit.
    """
    from curation.consensus import dawid_skene

    is_judged = (votes.matrix >= 0).any(1)
    if not is_judged.any():
        return np.zeros(len(scores), bool), np.full(len(scores), math.nan)
    count = max(1, int(is_judged.sum()) // per_bin)
    edges = np.unique(np.quantile(scores[is_judged], np.arange(1, count) / count))
    bins = np.searchsorted(edges, scores, side="right")
    probability = dawid_skene(votes, stratum=bins, tolerance=1e-4).posterior[:, 0]
    order = np.lexsort((-scores, -probability))
    mean = np.cumsum(probability[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(mean >= precision)
    chosen = np.zeros(len(scores), bool)
    chosen[order[: enough[-1] + 1] if len(enough) else []] = True
    return chosen, probability


def order_by_usefulness(
    probability: np.ndarray, *, explore: float = 0.4, border: float = 0.7, seed: int = 0
) -> np.ndarray:
    """Return the order in which to ask people about fits, the most useful first.

    Where the model is unsure whether a fit may go in, a decision teaches most. A share is taken at
    random instead: a model never learns of mistakes that it is sure of, unless somebody looks.

    Args:
        probability: (n,) of acceptance; NaN counts as unsure.
        explore: Share of the order that is taken at random.
        border: The probability at which a decision teaches most.
        seed: Of it.

    Returns:
        (n,) indices, each once.
    """
    probability = np.nan_to_num(np.asarray(probability, np.float64), nan=0.5)
    rng = np.random.default_rng(seed)
    # Ties in random order, so that a model with one answer for all is as good as none.
    shuffled = rng.permutation(len(probability))
    useful = shuffled[np.argsort(np.abs(probability[shuffled] - border), kind="stable")]
    is_random = rng.random(len(probability)) < explore
    order, taken = np.empty(len(probability), np.int64), np.zeros(len(probability), bool)
    sources = {False: iter(useful), True: iter(rng.permutation(len(probability)))}
    for place, random in enumerate(is_random):
        order[place] = next(i for i in sources[bool(random)] if not taken[i])
        taken[order[place]] = True
    return order


def _aligned(quality: Quality, names: Sequence[str]) -> np.ndarray:
    where = {name: k for k, name in enumerate(quality.names)}
    missing = np.full(len(quality.fit_id), np.nan)
    columns = [quality.values[:, where[n]] if n in where else missing for n in names]
    return np.column_stack(columns) if columns else np.zeros((len(missing), 0))


def _informative(quality: Quality) -> tuple[tuple[str, ...], np.ndarray]:
    """Leave out columns without two different numbers."""
    kept = []
    for k in range(len(quality.names)):
        known = quality.values[np.isfinite(quality.values[:, k]), k]
        if len(known) > 1 and known.min() < known.max():
            kept.append(k)
    return tuple(quality.names[k] for k in kept), quality.values[:, kept]


def _folds(is_accepted: np.ndarray, groups: list[str], seed: int) -> np.ndarray:
    """Return the fold of each fit: whole groups, both verdicts spread evenly."""
    names, codes = np.unique(np.array(groups, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    rejects = np.bincount(codes, ~is_accepted, len(names))
    sizes = np.bincount(codes, minlength=len(names))
    fold_of = np.zeros(len(names), np.int64)
    load = np.zeros((2, _FOLDS))
    # Groups with rejects first, the largest first, each to the fold that has fewest.
    for group in np.lexsort((rng.random(len(names)), -sizes, -rejects)):
        fold = int(np.lexsort((load[1], load[0]))[0]) if rejects[group] else int(load[1].argmin())
        fold_of[group] = fold
        load[:, fold] += rejects[group], sizes[group]
    return fold_of[codes]


def _logistic(values: np.ndarray, good: np.ndarray, weights: np.ndarray, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import QuantileTransformer

    # Ranks: residuals have long tails, and a threshold is a threshold in any unit.
    model = make_pipeline(
        _FillMissing(),
        QuantileTransformer(
            n_quantiles=min(100, len(values)), output_distribution="normal", random_state=seed
        ),
        LogisticRegression(C=0.3, max_iter=2000),
    )
    model.fit(values, good, logisticregression__sample_weight=weights)
    return model.decision_function


class _FillMissing:
    """Put the median where a number is missing, and say so in a column of its own."""

    def fit(self, values: np.ndarray, _: Any = None) -> "_FillMissing":
        known = np.where(np.isfinite(values).any(0), values, 0.0)
        self.medians = np.nanmedian(known, 0)
        missing = np.isnan(values)
        self.flagged = np.flatnonzero(missing.any(0) & ~missing.all(0))
        return self

    def transform(self, values: np.ndarray) -> np.ndarray:
        missing = np.isnan(values)
        filled = np.where(missing, self.medians, values)
        return np.column_stack([filled, missing[:, self.flagged]])

    def fit_transform(self, values: np.ndarray, _: Any = None) -> np.ndarray:
        return self.fit(values).transform(values)


def _trees(values: np.ndarray, good: np.ndarray, weights: np.ndarray, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=80,
        learning_rate=0.08,
        max_leaf_nodes=8,
        min_samples_leaf=max(5, len(values) // 100),
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    model.fit(values, good, weights)
    return model.decision_function


_FITTERS = {"logistic": _logistic, "trees": _trees}


def _calibrate(raw: np.ndarray, good: np.ndarray, weights: np.ndarray) -> Any:
    """Return the function from raw scores (log-odds) to probabilities."""
    if len(raw) >= _ISOTONIC_FROM and min(good.sum(), (~good).sum()) >= _ISOTONIC_MINORITY:
        from sklearn.isotonic import IsotonicRegression

        floor = 1 / (len(raw) + 2)  # nothing is certain that was seen n times
        isotonic = IsotonicRegression(
            y_min=floor, y_max=1 - floor, out_of_bounds="clip", increasing=True
        )
        isotonic.fit(raw, good.astype(np.float64), weights)
        return isotonic.predict
    from scipy.optimize import minimize
    from scipy.special import expit

    # Platt's targets: as if one more of each had been seen, so that nothing is certain.
    high = (weights @ good + 1) / (weights @ good + 2)
    low = 1 / (weights @ ~good + 2)
    target = np.where(good, high, low)
    center, scale = float(raw.mean()), float(raw.std()) or 1.0

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        z = line[0] * (raw - center) / scale + line[1]
        value = weights @ (np.logaddexp(0, z) - target * z)
        slope = weights * (expit(z) - target)
        return value, np.array([slope @ ((raw - center) / scale), slope.sum()])

    start = [1.0, math.log(max(target.mean(), 1e-6) / max(1 - target.mean(), 1e-6))]
    # A falling line would call the worst fits the best; then the scores are worth nothing.
    bounds = [(0, None), (None, None)]
    line = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    return lambda x: expit(line[0] * (x - center) / scale + line[1])


def _log_loss(good: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> float:
    right = np.where(good, probability, 1 - probability)
    return float(np.average(-np.log(np.maximum(right, 1e-12)), weights=weights))


def _importance(
    model: Any,
    calibration: Any,
    values: np.ndarray,
    good: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str],
    seed: int,
) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    before = _log_loss(good, calibration(model(values)), weights)
    found = {}
    for k, name in enumerate(names):
        shuffled = values.copy()
        shuffled[:, k] = rng.permutation(shuffled[:, k])
        found[name] = _log_loss(good, calibration(model(shuffled)), weights) - before
    return dict(sorted(found.items(), key=lambda item: -item[1]))
