"""Who said what of which item, as one small matrix. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["LABELS", "Votes"]

LABELS: tuple[str, ...] = ("accept", "reject", "unsure")
"""The verdicts of the annotation page, in the order in which statistics count them."""


@dataclass(frozen=True, eq=False)
class Votes:
    """One vote an item and annotator at most: what a decision superseded is not in here.

    Attributes:
        matrix: (N, A) int8, index of the label, -1 for no vote.
        items: The N names.
        annotators: The A names.
        labels: The L labels that could be given.
    """

    matrix: np.ndarray
    items: tuple[str, ...]
    annotators: tuple[str, ...]
    labels: tuple[str, ...] = LABELS

    def __post_init__(self) -> None:
        expected = (len(self.items), len(self.annotators))
        if self.matrix.shape != expected:
            raise ValueError(f"votes must be {expected}, items by annotators, got "
                             f"{self.matrix.shape}")  # fmt: skip
        if self.matrix.size and not -1 <= self.matrix.min() <= self.matrix.max() < len(self.labels):
            raise ValueError(f"votes must be -1 or an index of {self.labels}")

    @classmethod
    def from_records(
        cls,
        items: Sequence[str],
        annotators: Sequence[str],
        labels: Sequence[str],
        names: Sequence[str] = LABELS,
    ) -> "Votes":
        """Return the votes of a table with one row a vote; items in the order of first appearance.

        Args:
            items: (n,) of the rows.
            annotators: Likewise.
            labels: Likewise, out of ``names``.
            names: The labels that could be given.

        Raises:
            ValueError: If a label is unknown, or somebody voted twice on an item.
        """
        if not len(items) == len(annotators) == len(labels):
            raise ValueError(
                f"want as many items, annotators and labels, got {len(items)}, "
                f"{len(annotators)}, {len(labels)}"
            )
        rows, columns = _codes(items), _codes(sorted(set(annotators)))
        known = {name: k for k, name in enumerate(names)}
        unknown = sorted(set(labels) - set(known))
        if unknown:
            raise ValueError(f"unknown labels {unknown}; known: {list(names)}")
        matrix = np.full((len(rows), len(columns)), -1, np.int8)
        where = (
            np.array([rows[i] for i in items], np.int64),
            np.array([columns[a] for a in annotators], np.int64),
        )
        matrix[where] = [known[label] for label in labels]
        if (matrix >= 0).sum() != len(items):
            keys, counts = np.unique(np.stack(where), axis=1, return_counts=True)
            row, column = keys[:, counts.argmax()]
            raise ValueError(
                f"{[*columns][column]} voted {counts.max()} times on {[*rows][row]}; give the "
                "current decisions only, without those that were superseded"
            )
        return cls(matrix, tuple(rows), tuple(columns), tuple(names))

    def counts(self) -> np.ndarray:
        """Return (N, L) int64: how many gave each item each label."""
        return np.stack([(self.matrix == k).sum(1) for k in range(len(self.labels))], 1)

    def only(self, *labels: str) -> "Votes":
        """Return the votes for these labels; others count as not given."""
        kept = [self.labels.index(label) for label in labels]
        table = np.full(len(self.labels) + 1, -1, np.int8)
        table[kept] = np.arange(len(kept))
        return replace(self, matrix=table[self.matrix], labels=tuple(labels))

    def select(self, rows: np.ndarray) -> "Votes":
        """Return some of the items, by index or mask."""
        names = np.array(self.items, object)[rows]
        return replace(self, matrix=self.matrix[rows], items=tuple(names))


def _codes(names: Sequence[str]) -> dict[str, int]:
    codes: dict[str, int] = {}
    for name in names:
        codes.setdefault(name, len(codes))
    return codes
