"""AGORA's evaluation: who is whom, what counts, and its rounding, so that last digits agree.

The evaluator's behaviour, some of which one would not guess: boxes are those of the 2D joints, one
pixel wider than they are; a prediction that falls on somebody invalid is a false positive if it
finds nobody else; the mean over a hand's joints counts the wrist (whose error is 0), over the
face's the neck; misses are left out of the body's mean but count as 0 in those of hands and face
(unless their picture has no prediction at all); every figure is rounded before the next is made of
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["IOU", "AgoraParts", "Matching", "Person", "agora_figures", "match_people", "person_mm"]

IOU = 0.1
"""Least overlap of the boxes of two people that may be the same."""

_MATCHED_JOINTS = 24
_PELVIS = (1, 2)  # the middle of the hips
_BODY = slice(0, 22)
_SKELETON = {
    "left_hand": (20, slice(25, 40)), "right_hand": (21, slice(40, 55)),
    "face": (12, slice(76, 127)),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Person:
    """A body in a picture.

    Attributes:
        joints_2d: (>= 24, 2) pixels of the 3840 x 2160 picture.
        joints_3d: (127, 3) metres, camera axes.
        vertices: (V, 3) metres.
        is_valid: Of the truth: declared valid, and 0 to 90 % hidden.
    """

    joints_2d: np.ndarray
    joints_3d: np.ndarray = field(default_factory=lambda: np.zeros((127, 3)))
    vertices: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    is_valid: bool = True


@dataclass(frozen=True)
class Matching:
    """Of one picture.

    Attributes:
        pairs: (prediction, truth) that are the same person.
        missed: Valid people that nobody found.
        false_positives: How many predictions are nobody.
    """

    pairs: tuple[tuple[int, int], ...]
    missed: tuple[int, ...]
    false_positives: int


@dataclass(frozen=True, eq=False)
class AgoraParts:
    """Vertices that are measured: body, left_hand, right_hand, face; indices each."""

    body: np.ndarray
    left_hand: np.ndarray
    right_hand: np.ndarray
    face: np.ndarray


def match_people(predicted: Sequence[Person], truth: Sequence[Person]) -> Matching:
    """Match greedily by the error of the first 24 joints, where boxes overlap by IOU.

    A pair whose boxes do not overlap uses up one of as many tries as there are predictions, as in
    the evaluator.
    """
    error = np.full((len(predicted), len(truth)), np.inf)
    for i, p in enumerate(predicted):
        for j, t in enumerate(truth):
            off = p.joints_2d[:_MATCHED_JOINTS, :2] - t.joints_2d[:_MATCHED_JOINTS, :2]
            error[i, j] = np.linalg.norm(off, axis=1).mean()
    is_used, is_found = np.zeros(len(predicted), bool), np.zeros(len(truth), bool)
    pairs: list[tuple[int, int]] = []
    far = 0
    while not is_found.all() and is_used.sum() + far < len(predicted):
        if not np.isfinite(error).any():
            break
        i, j = (int(k) for k in np.unravel_index(np.argmin(error), error.shape))
        error[i, j] = np.inf
        is_near = _overlap(predicted[i].joints_2d, truth[j].joints_2d) >= IOU
        if is_near and (is_used[i] or is_found[j]):
            continue
        far += not is_near
        if not truth[j].is_valid:
            is_found[j] = True
        elif is_near:
            is_used[i] = is_found[j] = True
            pairs.append((i, j))
    matched = {j for _, j in pairs}
    missed = tuple(j for j, t in enumerate(truth) if t.is_valid and j not in matched)
    return Matching(tuple(pairs), missed, len(predicted) - len(pairs))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of the joints' boxes, ends included."""
    low_a, high_a, low_b, high_b = a.min(0), a.max(0), b.min(0), b.max(0)
    sides = np.minimum(high_a, high_b)[:2] - np.maximum(low_a, low_b)[:2] + 1
    common = float(np.prod(np.maximum(sides, 0)))
    areas = [
        float(np.prod((high - low)[:2] + 1)) for low, high in ((low_a, high_a), (low_b, high_b))
    ]
    return common / (sum(areas) - common)


def person_mm(predicted: Person, truth: Person, parts: AgoraParts) -> dict[str, float]:
    """Return ``mpjpe_`` and ``mve_`` of body, left_hand, right_hand and face, millimetres.

    Each part is moved to its root first: the middle of the hips, the wrist, the neck.
    """
    out = {}

    def measure(name: str, joints: list[np.ndarray], roots: list[np.ndarray]) -> None:
        rows = getattr(parts, name)
        apart = (joints[0] - roots[0]) - (joints[1] - roots[1])
        out[f"mpjpe_{name}"] = 1000 * float(np.linalg.norm(apart, axis=1).mean())
        apart = (predicted.vertices[rows] - roots[0]) - (truth.vertices[rows] - roots[1])
        out[f"mve_{name}"] = 1000 * float(np.linalg.norm(apart, axis=1).mean())

    both = [np.asarray(p.joints_3d, float) for p in (predicted, truth)]
    measure("body", [j[_BODY] for j in both], [j[list(_PELVIS)].mean(0) for j in both])
    for name, (root, rows) in _SKELETON.items():
        measure(name, [np.concatenate([j[root : root + 1], j[rows]]) for j in both],
                [j[root] for j in both])  # fmt: skip
    return out


def agora_figures(
    persons: Sequence[dict[str, float]],
    missed: int,
    false_positives: int,
    missed_in_empty: int = 0,
) -> dict[str, float]:
    """Return AGORA's figures of all pictures, rounded as published.

    Args:
        persons: What ``person_mm`` returned of each matched person.
        missed: Valid people that were not found.
        false_positives: Predictions that are nobody.
        missed_in_empty: How many of those missed are in pictures without any prediction.

    Returns:
        ``f1``, ``precision``, ``recall`` to two decimals; ``mpjpe_`` and ``mve_`` by part and
        ``full`` = body + (left hand + right hand + face) / 3, ``nmje_`` and ``nmve_`` of body and
        full = error / F1, to one; NaN where there is nothing.
    """
    found = len(persons)
    nan = float("nan")
    if found + missed == 0:
        return {"f1": nan, "precision": nan, "recall": nan}
    total = found + 0.5 * (missed + false_positives)
    out = {
        "f1": round(found / total, 2),
        "precision": round(found / (found + false_positives), 2) if found else 0.0,
        "recall": round(found / (found + missed), 2),
    }
    for kind, normal in (("mpjpe", "nmje"), ("mve", "nmve")):
        mean = {}
        for name in ("body", *_SKELETON):
            total = sum(person[f"{kind}_{name}"] for person in persons)
            count = found if name == "body" else found + missed - missed_in_empty
            mean[name] = round(total / count, 1) if found else nan
        third = sum(mean[name] for name in _SKELETON) / 3
        mean["full"] = round(mean["body"] + third, 1)
        out |= {f"{kind}_{name}": value for name, value in mean.items()}
        for name in ("body", "full"):
            f1 = out["f1"]
            out[f"{normal}_{name}"] = round(mean[name] / f1, 1) if f1 else nan
    return out
