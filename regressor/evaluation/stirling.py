"""Faces against scans, as Stirling's and NoW's challenges: 7 landmarks, then scan to mesh.

Truth: ``<id>.obj`` scans, at any depth, and ``<id>.lnd`` (seven rows ``name x y z``) beside them or
in ``annotations/``, names in any case. Predictions: npz with ``key`` = id, ``vertices`` (N, V, 3),
``landmarks`` (N, 7, 3), ``faces`` (F, 3).
"""

from pathlib import Path

import numpy as np

from regressor.evaluation.inputs import EvaluationError, Files, Predictions, Report, cell
from regressor.protocols import scan_to_mesh

__all__ = ["evaluate_stirling", "read_landmarks"]


def read_landmarks(path: Path) -> np.ndarray:
    """Return (7, 3) of a ``.lnd`` file.

    Raises:
        EvaluationError: If it has other rows.
    """
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.replace(",", " ").split()
        try:
            rows.append([float(word) for word in words[-3:]])
        except ValueError:
            continue
    points = np.array([row for row in rows if len(row) == 3], float).reshape(-1, 3)
    if len(points) != 7:
        raise EvaluationError(f"{path} must have seven rows 'name x y z', it has {len(points)}")
    return points


def evaluate_stirling(
    data: Path, predictions: Predictions, files: Files, with_scale: bool = False
) -> Report:
    """Measure the distances of the scans' faces to predicted meshes, in the scans' unit.

    Raises:
        EvaluationError: If there are no scans with landmarks.
    """
    import trimesh

    scans = {p.stem.lower(): p for p in sorted(data.rglob("*.obj"))}
    marks = {p.stem.lower(): p for p in sorted(data.rglob("*")) if p.suffix.lower() == ".lnd"}
    keys = [key for key in scans if key in marks]
    if not keys:
        raise EvaluationError(
            f"{data} has {len(scans)} scans (*.obj) and {len(marks)} landmark files (*.lnd), but "
            "no scan with landmarks of the same name"
        )
    lower = Predictions(tuple(k.lower() for k in predictions.keys), predictions.arrays,
                        predictions.source)  # fmt: skip
    wanted, given = lower.rows(keys)
    arrays = {name: predictions.need(name) for name in ("vertices", "landmarks", "faces")}
    away = []
    for k, row in zip(wanted, given, strict=True):
        scan = trimesh.load(scans[keys[k]], process=False, maintain_order=True, force="mesh")
        mesh = {name: np.asarray(array[row]) for name, array in arrays.items()}
        found = scan_to_mesh(np.asarray(scan.vertices, float), read_landmarks(marks[keys[k]]),
                             mesh, with_scale)  # fmt: skip
        if not len(found):
            raise EvaluationError(f"{keys[k]}: no point of the scan is near its landmarks")
        away.append(found)
    everything = np.concatenate(away)
    figures = {
        "mean": float(everything.mean()),
        "median": float(np.median(everything)),
        "std": float(everything.std()),
        "mean_of_scans": float(np.mean([a.mean() for a in away])),
    }
    return Report(
        title="Scan to mesh, the scans' unit (mm)",
        head=("", "mean", "median", "std"),
        rows=(("face", *(cell(figures, name, 2) for name in ("mean", "median", "std"))),),
        figures=figures,
        count=len(given),
        missing=len(keys) - len(given),
        notes=(f"seven landmarks, {'similarity' if with_scale else 'rigid'} alignment",),
    )
