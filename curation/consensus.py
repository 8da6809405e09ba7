"""One verdict an item from several annotators: majority, and Dawid and Skene's model. Torch-free."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curation.votes import Votes

__all__ = ["DawidSkene", "Majority", "VoteModel", "dawid_skene", "majority"]


@dataclass(frozen=True, eq=False)
class Majority:
    """What most annotators say of each item.

    Attributes:
        label: (N,) int8, index of the label; -1 for a tie or no vote.
        share: (N,) float64, of the votes that the most frequent label has; NaN without votes.
        votes: (N,) int64, votes counted.
    """

    label: np.ndarray
    share: np.ndarray
    votes: np.ndarray


def majority(votes: Votes, labels: Sequence[str] = ("accept", "reject")) -> Majority:
    """Return the majority of each item; votes for labels other than these do not count.

    Args:
        votes: Of the annotators.
        labels: Whose index the result holds.
    """
    counts = votes.only(*labels).counts()
    total, top = counts.sum(1), counts.max(1)
    is_tie = (counts == top[:, None]).sum(1) > 1
    label = np.where((total == 0) | is_tie, -1, counts.argmax(1)).astype(np.int8)
    share = np.divide(top, total, out=np.full(len(total), math.nan), where=total > 0)
    return Majority(label, share, total)


@dataclass(frozen=True, eq=False)
class DawidSkene:
    """The fitted model: C true classes, S strata, A annotators, L labels.

    Attributes:
        posterior: (N, C), probability of each class given the votes; without votes, its stratum's
            share.
        confusion: (A, C, L), how each annotator labels each class; rows sum to 1.
        class_share: (S, C), share of each class in each stratum.
        log_likelihood: Of the votes, at the end.
        iterations: Of expectation-maximisation.
        converged: Whether it settled before the limit.
    """

    posterior: np.ndarray
    confusion: np.ndarray
    class_share: np.ndarray
    log_likelihood: float
    iterations: int
    converged: bool

    def accuracy(self, votes: Votes) -> dict[str, dict[str, float]]:
        """Return by annotator the share of each class that is labelled right.

        For accept and reject these are the sensitivity and the specificity.
        """
        classes = votes.labels[: self.confusion.shape[1]]
        return {
            name: {label: float(self.confusion[a, c, c]) for c, label in enumerate(classes)}
            for a, name in enumerate(votes.annotators)
        }


def dawid_skene(
    votes: Votes,
    num_classes: int = 2,
    *,
    truth: np.ndarray | None = None,
    stratum: np.ndarray | None = None,
    pooling: float = 4.0,
    weak: float = 0.5,
    max_iterations: int = 500,
    tolerance: float = 1e-6,
) -> DawidSkene:
    """Estimate true classes and each annotator's errors together (Dawid and Skene 1979).

    Given the class, annotators are taken to err independently, each with a confusion matrix of
    their own. Expectation-maximisation, started from the shares of the votes. An annotator with
    few votes leans on all annotators' common matrix (``pooling``), and that on "right more often
    than not" (``weak``); without such priors the classes may swap their names.

    Args:
        votes: The first ``num_classes`` labels are the true classes; further labels (unsure) may
            be voted for and are evidence like any other.
        num_classes: C.
        truth: (N,) int, class of items where it is known (gold), -1 elsewhere.
        stratum: (N,) int in 0..S-1; the share of each class is estimated in each by itself. Within
            a stratum, which items have votes must not depend on their class.
        pooling: Votes that the common matrix is worth to each annotator.
        weak: Votes that "right more often than not" is worth to the common matrix, per cell; twice
            that on the diagonal.
        max_iterations: Limit.
        tolerance: Largest change of a posterior at which it is settled.

    Raises:
        ValueError: If there are fewer labels than classes.
    """
    model = VoteModel(votes, num_classes, truth, stratum, pooling=pooling, weak=weak)
    state = model.fit(model.weights, model.start(), max_iterations, tolerance)
    return DawidSkene(
        posterior=state.posterior[model.kind_of],
        confusion=state.confusion,
        class_share=state.class_share,
        log_likelihood=state.log_likelihood,
        iterations=state.iterations,
        converged=state.converged,
    )


@dataclass(frozen=True, eq=False)
class FittedKinds:
    """DawidSkene by kinds of items instead of items; see VoteModel."""

    posterior: np.ndarray  # (P, C)
    confusion: np.ndarray  # (A, C, L)
    class_share: np.ndarray  # (S, C)
    log_likelihood: float
    iterations: int
    converged: bool


class VoteModel:
    """The sums of the algorithm, over P kinds of items that are alike in all it looks at.

    Two annotators out of twenty give at most some thousand kinds, however many items there are.

    Attributes:
        kind_of: (N,) the kind of each item.
        weights: (P,) items of each kind.
        group: (P,) of each kind, as given: items of different groups are of different kinds.
    """

    def __init__(
        self,
        votes: Votes,
        num_classes: int,
        truth: np.ndarray | None,
        stratum: np.ndarray | None,
        group: np.ndarray | None = None,
        *,
        pooling: float = 4.0,
        weak: float = 0.5,
    ) -> None:
        from scipy.sparse import csr_matrix

        count, self.num_annotators = votes.matrix.shape
        self.num_labels, self.num_classes = len(votes.labels), num_classes
        if self.num_labels < num_classes:
            raise ValueError(f"{num_classes} classes need as many labels, got {votes.labels}")
        truth = np.full(count, -1) if truth is None else np.asarray(truth)
        stratum = np.zeros(count, np.int64) if stratum is None else np.asarray(stratum)
        group = np.zeros(count, np.int64) if group is None else np.asarray(group)
        for name, array, high in (
            ("truth", truth, num_classes), ("stratum", stratum, 2**15), ("group", group, 2**15),
        ):  # fmt: skip
            low = -1 if name == "truth" else 0
            if array.shape != (count,) or (
                count and not (low <= array.min() <= array.max() < high)
            ):
                raise ValueError(f"{name} must be ({count},) integers in {low}..{high - 1}")
        self.num_strata = int(stratum.max(initial=0)) + 1
        extra = [array.astype(np.int16) for array in (group, truth, stratum)]
        keys = np.column_stack([votes.matrix, *extra])
        kinds, self.kind_of, number = np.unique(
            keys, axis=0, return_inverse=True, return_counts=True
        )
        self.kind_of = self.kind_of.reshape(-1)
        self.weights = number.astype(np.float64)
        self.stratum = kinds[:, -1].astype(np.int64)
        self.truth = kinds[:, -2].astype(np.int64)
        self.group = kinds[:, -3].astype(np.int64)
        row, annotator = np.nonzero(kinds[:, :-3] >= 0)
        column = annotator * self.num_labels + kinds[row, annotator]
        shape = (len(kinds), self.num_annotators * self.num_labels)
        self.votes = csr_matrix((np.ones(len(row)), (row, column)), shape)
        self.in_stratum = csr_matrix(
            (np.ones(len(kinds)), (self.stratum, np.arange(len(kinds)))),
            (self.num_strata, len(kinds)),
        )
        # What has neither votes nor a known class says nothing of its stratum.
        self.is_seen = (np.diff(self.votes.indptr) > 0) | (self.truth >= 0)
        self.pooling, self.weak = pooling, weak

    def start(self) -> np.ndarray:
        """Return the (P, C) shares of the votes."""
        by_label = self.votes @ np.tile(np.eye(self.num_labels), (self.num_annotators, 1))
        shares = by_label[:, : self.num_classes] + 0.5
        return self._known(shares / shares.sum(1, keepdims=True))

    def _known(self, posterior: np.ndarray) -> np.ndarray:
        gold = self.truth >= 0
        posterior[gold] = np.eye(self.num_classes)[self.truth[gold]]
        return posterior

    def fit(
        self, weights: np.ndarray, posterior: np.ndarray, max_iterations: int, tolerance: float
    ) -> FittedKinds:
        """Run the algorithm.

        Args:
            weights: (P,) items of each kind; a bootstrap draws others.
            posterior: (P, C) to begin with.
            max_iterations: Limit.
            tolerance: Largest change of a posterior at which it is settled.
        """
        for iteration in range(1, max_iterations + 1):
            confusion, share = self._maximise(weights, posterior)
            after, log_likelihood = self._expect(weights, confusion, share)
            change = np.abs(after - posterior).max(initial=0.0)
            posterior = after
            if change < tolerance:
                break
        return FittedKinds(
            posterior, confusion, share, log_likelihood, iteration, bool(change < tolerance)
        )

    def _maximise(self, weights: np.ndarray, posterior: np.ndarray) -> tuple[Any, Any]:
        mass = weights[:, None] * posterior
        counts = (self.votes.T @ mass).reshape(
            self.num_annotators, self.num_labels, self.num_classes
        )
        counts = counts.transpose(0, 2, 1)  # (A, C, L)
        common = counts.sum(0) + self.weak
        common[:, : self.num_classes] += self.weak * np.eye(self.num_classes)
        common /= common.sum(1, keepdims=True)
        confusion = counts + self.pooling * common
        confusion /= np.maximum(confusion.sum(2, keepdims=True), 1e-300)
        # Half a vote to each class: a stratum in which all were right may still hold a wrong one.
        share = self.in_stratum @ (mass * self.is_seen[:, None]) + 0.5
        return confusion, share / share.sum(1, keepdims=True)

    def _expect(
        self, weights: np.ndarray, confusion: np.ndarray, share: np.ndarray
    ) -> tuple[np.ndarray, float]:
        table = np.log(np.maximum(confusion, 1e-300)).transpose(0, 2, 1)
        log_joint = self.votes @ table.reshape(-1, self.num_classes)
        log_joint = log_joint + np.log(share)[self.stratum]
        gold = self.truth >= 0
        log_joint[gold] = np.where(
            np.arange(self.num_classes) == self.truth[gold, None], log_joint[gold], -np.inf
        )
        top = log_joint.max(1, keepdims=True, initial=-1e300)
        joint = np.exp(log_joint - top)
        total = joint.sum(1, keepdims=True)
        seen = weights * self.is_seen
        log_likelihood = float(seen @ (np.log(total) + top)[:, 0])
        return joint / total, log_likelihood
