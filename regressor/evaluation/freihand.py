"""FreiHAND's evaluation: PA-MPJPE, PA-V2V, F at 5 and 15 mm, areas under the curve."""

from pathlib import Path

import numpy as np

from regressor.datasets.labels import LabelError, read_json
from regressor.evaluation.inputs import (
    EvaluationError,
    Files,
    Predictions,
    Report,
    cell,
    read_predictions,
)
from regressor.protocols import aligned, auc, f_score

__all__ = ["evaluate_freihand", "read_freihand_predictions"]

_POINTS = {"xyz": 21, "verts": 778}


def read_freihand_predictions(path: Path) -> Predictions:
    """Read ``pred.json`` ([xyz, verts], all photos in order), or an npz with keys 0, 1, 2 ...

    Raises:
        EvaluationError: If it is neither.
    """
    if path.suffix != ".json":
        return read_predictions(path)
    try:
        xyz, verts = read_json(path)
        arrays = {"xyz": np.asarray(xyz, float), "verts": np.asarray(verts, float)}
    except (LabelError, ValueError, TypeError) as error:
        raise EvaluationError(f"{path} must be [xyz list, verts list]: {error}") from None
    return Predictions(tuple(str(k) for k in range(len(arrays["xyz"]))), arrays, str(path))


def evaluate_freihand(data: Path, predictions: Predictions, files: Files) -> Report:
    """Measure ``xyz`` (N, 21, 3) and ``verts`` (N, 778, 3) in metres, each aligned by itself.

    Raises:
        EvaluationError: If the truth (public since the challenge) is not there.
    """
    figures: dict[str, float] = {}
    count = missing = 0
    for name, size in _POINTS.items():
        if name not in predictions.arrays:
            continue
        try:
            truth = np.asarray(read_json(data / f"evaluation_{name}.json"), float)
        except (LabelError, ValueError) as error:
            raise EvaluationError(
                f"{error}; the truth of FreiHAND's evaluation part is a download of its own"
            ) from None
        truth = truth.reshape(len(truth), -1, 3)
        keys = [str(k) for k in range(len(truth))]
        wanted, given = predictions.rows(keys)
        count, missing = len(given), len(keys) - len(given)
        predicted = np.asarray(predictions.arrays[name][given], float)
        if predicted.shape[1:] != (size, 3) or truth.shape[1] != size:
            raise EvaluationError(
                f"{name} must be (N, {size}, 3), got {predicted.shape}, truth {truth.shape}"
            )
        moved = aligned(predicted, truth[wanted])
        away = np.linalg.norm(moved - truth[wanted], axis=-1)
        short = "pa_mpjpe" if name == "xyz" else "pa_v2v"
        figures[short], figures[f"auc_{name}"] = 1000 * float(away.mean()), auc(away)
        if name == "verts":
            for limit in (5, 15):
                scores = [f_score(p, t, limit / 1000)
                          for p, t in zip(moved, truth[wanted], strict=True)]  # fmt: skip
                figures[f"f{limit}"] = float(np.mean(scores))
    if not count:
        raise EvaluationError(f"{predictions.source} must hold xyz (N, 21, 3), verts (N, 778, 3)")
    head = ("", "PA-V2V", "PA-MPJPE", "F@5", "F@15", "AUC verts", "AUC joints")
    row = ("hand, mm", cell(figures, "pa_v2v"), cell(figures, "pa_mpjpe"),
           *(cell(figures, n, 3) for n in ("f5", "f15", "auc_verts", "auc_xyz")))  # fmt: skip
    return Report("FreiHAND evaluation", head, (row,), figures, count, missing)
