"""COCO's average precision of keypoints, as its evaluator counts it.

Written from COCO's description of the measure; tests compare every figure with ``pycocotools``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from curation.oks import COCO_SIGMAS

__all__ = ["Detection", "Labelled", "keypoint_ap", "oks"]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MOST = 20  # detections of a picture that count
_AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_EPS = np.spacing(1)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A person of the truth.

    Attributes:
        keypoints: (17, 3) x, y, visibility 0, 1, 2.
        area: Of the mask, pixels squared.
        box_xywh: (4,).
        is_crowd: Then it is ignored.
    """

    keypoints: np.ndarray
    area: float
    box_xywh: np.ndarray
    is_crowd: bool = False


@dataclass(frozen=True, eq=False)
class Detection:
    """A person found: keypoints (17, 2 or 3) and the score of all of it."""

    keypoints: np.ndarray
    score: float


def oks(detection: Detection, truth: Labelled) -> float:
    """Return the object keypoint similarity, 0..1.

    Of somebody without labelled points it is the similarity to the box, twice as large.
    """
    given = np.asarray(truth.keypoints, float)
    found = np.asarray(detection.keypoints, float)[:, :2]
    labelled = given[:, 2] > 0
    if labelled.any():
        off = found - given[:, :2]
    else:
        x, y, width, height = (float(v) for v in truth.box_xywh)
        low, high = np.array([x - width, y - height]), np.array([x + 2 * width, y + 2 * height])
        off = np.maximum(0, low - found) + np.maximum(0, found - high)
    exponent = (off**2).sum(1) / (2 * COCO_SIGMAS) ** 2 / (truth.area + _EPS) / 2
    if labelled.any():
        exponent = exponent[labelled]
    return float(np.exp(-exponent).mean())


@dataclass(frozen=True, eq=False)
class _Picture:
    """Of one picture and range of areas; D detections by falling score, T thresholds."""

    scores: np.ndarray  # (D,)
    is_right: np.ndarray  # (T, D)
    is_ignored: np.ndarray  # (T, D)
    count: int  # people that count


def keypoint_ap(
    pictures: Sequence[tuple[Sequence[Detection], Sequence[Labelled]]],
) -> dict[str, float]:
    """Return COCO's ten figures.

    Args:
        pictures: Detections and truth of each.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``APM``, ``APL``, ``AR``, ``AR50``, ``AR75``, ``ARM``, ``ARL``;
        -1 where there is nobody.
    """
    out: dict[str, float] = {}
    for area, limits in _AREAS.items():
        precision, recall = _accumulate([_judge(d, t, limits) for d, t in pictures])
        letter = {"all": "", "medium": "M", "large": "L"}[area]
        for name, values in (("AP", precision), ("AR", recall)):
            out[name + letter] = _mean(values)
            if area == "all":
                out |= {f"{name}{k}": _mean(values[i]) for k, i in ((50, 0), (75, 5))}
    return {name: out[name] for name in _ORDER}


_ORDER = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def _mean(values: np.ndarray) -> float:
    known = np.asarray(values)[np.asarray(values) > -1]
    return float(known.mean()) if known.size else -1.0


def _judge(
    detections: Sequence[Detection], truth: Sequence[Labelled], limits: tuple[float, float]
) -> _Picture:
    """Give each detection, best first, the free person it is most similar to."""
    order = np.argsort([-d.score for d in detections], kind="mergesort")[:_MOST]
    chosen = [detections[k] for k in order]
    outside = [not limits[0] <= t.area <= limits[1] for t in truth]
    ignored = np.array([
        t.is_crowd or not (np.asarray(t.keypoints)[:, 2] > 0).any() or out
        for t, out in zip(truth, outside, strict=True)
    ], bool)  # fmt: skip
    first = np.argsort(ignored, kind="mergesort")  # people that count come first
    people, ignored = [truth[k] for k in first], ignored[first]
    similar = np.array([[oks(d, t) for t in people] for d in chosen]).reshape(
        len(chosen), len(people)
    )
    is_right = np.zeros((len(THRESHOLDS), len(chosen)), bool)
    is_ignored = np.zeros_like(is_right)
    for i, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(people), bool)
        for d in range(len(chosen)):
            best, match = min(threshold, 1 - 1e-10), -1
            for g in range(len(people)):
                if taken[g] and not people[g].is_crowd:
                    continue
                if match > -1 and not ignored[match] and ignored[g]:
                    break
                if similar[d, g] >= best:
                    best, match = similar[d, g], g
            if match > -1:
                taken[match] = True
                is_right[i, d], is_ignored[i, d] = True, ignored[match]
    sizes = np.array([_area(d) for d in chosen])
    far = (sizes < limits[0]) | (sizes > limits[1]) if len(chosen) else np.zeros(0, bool)
    is_ignored |= ~is_right & far[None]
    return _Picture(
        np.array([d.score for d in chosen]), is_right, is_ignored, int((~ignored).sum())
    )


def _area(detection: Detection) -> float:
    points = np.asarray(detection.keypoints, float)[:, :2]
    return float(np.prod(points.max(0) - points.min(0)))


def _accumulate(pictures: Sequence[_Picture]) -> tuple[np.ndarray, np.ndarray]:
    """Return precision (T, 101) at fixed recalls, and the recall reached (T,)."""
    count = sum(p.count for p in pictures)
    precision, recall = (
        np.full((len(THRESHOLDS), len(_RECALLS)), -1.0),
        np.full(len(THRESHOLDS), -1.0),
    )
    if not count:
        return precision, recall
    scores = np.concatenate([p.scores for p in pictures])
    order = np.argsort(-scores, kind="mergesort")
    right = np.concatenate([p.is_right for p in pictures], 1)[:, order]
    ignored = np.concatenate([p.is_ignored for p in pictures], 1)[:, order]
    for i in range(len(THRESHOLDS)):
        good = np.cumsum(right[i] & ~ignored[i]).astype(float)
        bad = np.cumsum(~right[i] & ~ignored[i]).astype(float)
        reached = good / count
        exact = good / (good + bad + _EPS)
        recall[i] = reached[-1] if len(reached) else 0.0
        exact = np.maximum.accumulate(exact[::-1])[::-1]
        at = np.searchsorted(reached, _RECALLS, side="left")
        precision[i] = np.where(at < len(exact), exact[np.minimum(at, len(exact) - 1)], 0) if len(
            exact) else 0.0  # fmt: skip
    return precision, recall


def detections_of(results: Sequence[Mapping]) -> dict[int, list[Detection]]:
    """Return detections by image id of COCO's list of results.

    Raises:
        ValueError: If an entry does not have 17 keypoints and a score.
    """
    out: dict[int, list[Detection]] = {}
    for entry in results:
        try:
            points = np.asarray(entry["keypoints"], float).reshape(-1, 3)
            image, score = int(entry["image_id"]), float(entry["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "results must be a list of {image_id, category_id, keypoints, score} "
                f"({type(error).__name__}: {error})"
            ) from None
        if len(points) != len(COCO_SIGMAS):
            raise ValueError(f"a result has {len(points)} keypoints; COCO has 17")
        out.setdefault(image, []).append(Detection(points, score))
    return out
