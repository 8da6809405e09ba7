"""COCO's keypoint AP of projected joints, from the public annotations and a list of results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from regressor.datasets.labels import LabelError, read_json
from regressor.datasets.wholebody import photo_root
from regressor.evaluation.inputs import EvaluationError, Person, Predictions, Report
from regressor.keypoint_ap import Labelled, detections_of, keypoint_ap

__all__ = ["evaluate_coco", "people_of_coco", "read_results", "results_of"]

_PERSON = 1
_HALF = 0.5  # COCO counts from the first pixel's centre
_ROWS = [FIT_KEYPOINTS.index(name) for name in CONVENTIONS["coco17"]]


def _labels(data: Path) -> Mapping[str, Any]:
    try:
        labels = read_json(data)
        labels["images"], labels["annotations"]
    except LabelError as error:
        raise EvaluationError(str(error)) from None
    except (KeyError, TypeError):
        raise EvaluationError(
            f"{data} must be COCO's person_keypoints_*.json, with images and annotations"
        ) from None
    return labels


def people_of_coco(data: Path) -> list[Person]:
    """Return everybody with labelled points, in the true box (as PyMAF's protocol has it).

    Raises:
        EvaluationError: If the photos are not found near the annotations.
    """
    labels = _labels(data)
    names = {image["id"]: image["file_name"] for image in labels["images"]}
    try:
        root = photo_root(data, next(iter(names.values()), ""))
    except LabelError as error:
        raise EvaluationError(str(error)) from None
    people = []
    for a in labels["annotations"]:
        x, y, width, height = (float(v) for v in a["bbox"])
        if not a.get("iscrowd") and a.get("num_keypoints") and width > 0 and height > 0:
            key = f"{a['image_id']}/{a['id']}"
            box = np.array([x, y, x + width, y + height])
            people.append(Person(key, root / names[a["image_id"]], box))
    return people


def results_of(predictions: Predictions) -> list[dict[str, Any]]:
    """Return COCO's results of projected keypoints (N, 145, 2), keys ``<image id>/<any>``.

    All scores are 1: the boxes are the truth's. Hips and shoulders are SMPL-X's joints, which lie
    inside of COCO's; a regressor of COCO's own would say more.
    """
    points = predictions.need("keypoints_2d")[:, _ROWS, :2] - _HALF
    return [
        {"image_id": int(key.partition("/")[0]), "category_id": _PERSON, "score": 1.0,
         "keypoints": np.column_stack([row, np.ones(len(_ROWS))]).reshape(-1).tolist()}
        for key, row in zip(predictions.keys, points, strict=True)
    ]  # fmt: skip


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read a list of results.

    Raises:
        EvaluationError: If it is none.
    """
    try:
        results = read_json(path)
    except LabelError as error:
        raise EvaluationError(str(error)) from None
    if not isinstance(results, list) or not all(isinstance(r, Mapping) for r in results):
        raise EvaluationError(f"{path} must be a list of results, as COCO's evaluation takes it")
    return results


def evaluate_coco(data: Path, results: Sequence[Mapping[str, Any]]) -> Report:
    """Measure results against ``person_keypoints_*.json``.

    Pixels are COCO's own, which count from the first pixel's centre: take half a pixel off points
    of this project. Pictures without a person of the truth count, too.

    Raises:
        EvaluationError: If a file is another thing.
    """
    labels = _labels(data)
    try:
        images = [int(image["id"]) for image in labels["images"]]
        truth: dict[int, list[Labelled]] = {image: [] for image in images}
        for a in labels["annotations"]:
            if a.get("category_id", _PERSON) == _PERSON:
                points = np.asarray(a["keypoints"], float).reshape(17, 3)
                box = np.asarray(a["bbox"], float)
                one = Labelled(points, float(a["area"]), box, bool(a.get("iscrowd")))
                truth[int(a["image_id"])].append(one)
        found = detections_of([r for r in results if r.get("category_id", _PERSON) == _PERSON])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvaluationError(
            f"{data} must be COCO's person_keypoints_*.json, to be measured with a list of results "
            f"({type(error).__name__}: {error})"
        ) from None
    figures = keypoint_ap([(found.get(image, []), truth[image]) for image in images])
    people = sum(len(t) for t in truth.values())
    empty = sum(bool(truth[image]) and image not in found for image in images)
    return Report(
        title="COCO keypoints, OKS",
        head=("", *figures),
        rows=(("%", *(f"{100 * v:.1f}" if v >= 0 else "-" for v in figures.values())),),
        figures=figures,
        count=len(images),
        missing=empty,
        notes=(f"{people} people; missing: pictures with people and no result",),
    )
