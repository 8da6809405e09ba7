"""COCO's keypoint AP of projected joints, from the public annotations and a list of results."""

from pathlib import Path

import numpy as np

from regressor.datasets.labels import LabelError, read_json
from regressor.evaluation.inputs import EvaluationError, Files, Report
from regressor.keypoint_ap import Labelled, detections_of, keypoint_ap

__all__ = ["evaluate_coco"]

_PERSON = 1


def evaluate_coco(data: Path, predictions: Path, files: Files) -> Report:
    """Measure COCO's results JSON against ``person_keypoints_*.json``.

    Pixels are COCO's own, which count from the first pixel's centre: take half a pixel off points
    of this project. Pictures without a person of the truth count, too.

    Raises:
        EvaluationError: If a file is another thing.
    """
    try:
        labels = read_json(data)
        results = read_json(predictions)
        images = [int(image["id"]) for image in labels["images"]]
        truth: dict[int, list[Labelled]] = {image: [] for image in images}
        for a in labels["annotations"]:
            if a.get("category_id", _PERSON) == _PERSON:
                points = np.asarray(a["keypoints"], float).reshape(17, 3)
                box = np.asarray(a["bbox"], float)
                one = Labelled(points, float(a["area"]), box, bool(a.get("iscrowd")))
                truth[int(a["image_id"])].append(one)
        found = detections_of([r for r in results if r.get("category_id", _PERSON) == _PERSON])
    except LabelError as error:
        raise EvaluationError(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvaluationError(
            f"{data} must be COCO's person_keypoints_*.json and {predictions} a list of results "
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
