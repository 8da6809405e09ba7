"""Faces against scans, as Stirling's and NoW's challenges: 7 landmarks, then scan to mesh.

Truth: ``<id>.obj`` scans, at any depth, and ``<id>.lnd`` (seven rows ``name x y z``) beside them or
in ``annotations/``, names in any case. Predictions: npz with ``key`` = photo, ``scan`` (N,) = id
of its scan (the key, if there is none), ``vertices`` (N, V, 3), ``landmarks`` (N, 7, 3), ``faces``
(F, 3). Of a scan there are several photos; LQ and HQ are two files of predictions.
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
    names = [str(n).lower() for n in predictions.arrays.get("scan", predictions.keys)]
    given = [row for row, name in enumerate(names) if name in keys]
    if not given:
        raise EvaluationError(
            f"{predictions.source}: no scan ({', '.join(names[:3])} ...) is one of those in {data} "
            f"({', '.join(keys[:3])} ...)"
        )
    arrays = {name: predictions.need(name) for name in ("vertices", "landmarks", "faces")}
    away = []
    loaded: tuple[str, np.ndarray] = ("", np.zeros((0, 3)))
    for row in sorted(given, key=lambda row: names[row]):
        name = names[row]
        if loaded[0] != name:
            scan = trimesh.load(scans[name], process=False, maintain_order=True, force="mesh")
            loaded = (name, np.asarray(scan.vertices, float))
        mesh = {what: np.asarray(array[row]) for what, array in arrays.items()}
        found = scan_to_mesh(loaded[1], read_landmarks(marks[name]), mesh, with_scale)
        if not len(found):
            raise EvaluationError(f"{name}: no point of the scan is near its landmarks")
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
        missing=len(set(keys) - set(names)),
        notes=(
            f"seven landmarks, {'similarity' if with_scale else 'rigid'} alignment; n counts "
            "photos, missing scans",
        ),
    )
