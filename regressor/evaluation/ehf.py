"""EHF from its public folder alone: ``NN_img.jpg``, ``NN_align.ply``, ``NN_2Djnt.json``.

The camera is fixed (``regressors.md`` 3.8 collects it): world points go to ``R v + t``. Figures are
those of SMPLify-X's line: PA-V2V by part, PVE at the part's root, 14 body joints, 21 hand joints,
distance of the truth's points to the predicted surface.
"""

from pathlib import Path

import numpy as np

from regressor.evaluation.inputs import (
    EvaluationError,
    Files,
    Person,
    Predictions,
    Report,
    cell,
    hand_points,
    means,
    mesh_parts,
)
from regressor.protocols import J14_HIPS, aligned, joint_errors, part_errors, surface_distances

__all__ = [
    "CENTER_PX",
    "FOCAL_PX",
    "evaluate_ehf",
    "people_of_ehf",
    "read_truth",
    "world_to_camera",
]

FOCAL_PX = 1498.22426237
CENTER_PX = (790.263706, 578.90334)
_ROTVEC = (-2.98747896, 0.01172457, -0.05704687)
_TRANSL = (-0.03609917, 0.43416458, 2.37101226)


def world_to_camera(points: np.ndarray) -> np.ndarray:
    """Return points (..., 3) of EHF's scans in the camera's frame."""
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_rotvec(_ROTVEC).as_matrix()
    return np.asarray(points, np.float64) @ rotation.T + np.array(_TRANSL)


def truth_files(data: Path) -> list[Path]:
    """Return the meshes of the truth.

    Raises:
        EvaluationError: If there are none.
    """
    files = sorted(data.glob("*_align.ply"))
    if not files:
        raise EvaluationError(f"{data} has no NN_align.ply; is it the folder of EHF?")
    return files


def read_truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices (V, 3) in the camera's frame and faces (F, 3) of one mesh.

    Raises:
        EvaluationError: If it cannot be read.
    """
    import trimesh

    try:
        mesh = trimesh.load(path, process=False, maintain_order=True, force="mesh")
        vertices, faces = np.asarray(mesh.vertices, float), np.asarray(mesh.faces)
    except Exception as error:  # a damaged mesh can raise nearly anything
        raise EvaluationError(f"{path} cannot be read as a mesh: {error}") from None
    return world_to_camera(vertices), faces


def _key(path: Path) -> str:
    return path.name.partition("_")[0]


def people_of_ehf(data: Path) -> list[Person]:
    """Return the photos with boxes of the published (detected) keypoints."""
    from curation.openpose import OpenPoseError, read_openpose
    from regressor.examples import box_of_keypoints

    people = []
    for path in truth_files(data):
        key = _key(path)
        photo = next((p for p in (data / f"{key}_img.jpg", data / f"{key}_img.png")
                      if p.exists()), None)  # fmt: skip
        if photo is None:
            continue
        try:
            found = read_openpose(data / f"{key}_2Djnt.json")[0]
            points = np.concatenate([points.points for _, points in found.keypoints])
            center, side = box_of_keypoints(points, 0.2)
        except (OpenPoseError, IndexError, ValueError):
            continue
        box = np.concatenate([center - side / 2, center + side / 2])
        people.append(Person(key, photo, box, FOCAL_PX, np.array(CENTER_PX)))
    return people


def evaluate_ehf(data: Path, predictions: Predictions, files: Files) -> Report:
    """Measure meshes of SMPL-X's topology, ``vertices`` (N, V, 3).

    Raises:
        EvaluationError: If truth or predictions are not there, or not of one topology.
    """
    meshes = truth_files(data)
    keys = [_key(path) for path in meshes]
    wanted, given = predictions.rows(keys)
    vertices = predictions.need("vertices")
    truth = [read_truth(meshes[k]) for k in wanted]
    if {len(v) for v, _ in truth} != {vertices.shape[1]}:
        raise EvaluationError(
            f"the truth's meshes have {len(truth[0][0])} vertices, the predictions "
            f"{vertices.shape[1]}: EHF measures bodies of SMPL-X's topology, vertex by vertex"
        )
    predicted = np.asarray(vertices[given], np.float64)
    target = np.stack([v for v, _ in truth])
    body = files.body if len(files.body.v_template) == target.shape[1] else None
    parts, note = mesh_parts(files, target.shape[1])
    errors = part_errors(predicted, target, parts, None if body is None else body.joint_regressor)
    notes = [note] if note else []
    notes += _joints(errors, predicted, target, files, body)
    moved = aligned(predicted, target)
    away = [surface_distances(t, p, f) for p, (t, f) in zip(moved, truth, strict=True)]
    figures = means(errors)
    figures["p2s_mean"] = 1000 * float(np.mean([a.mean() for a in away]))
    figures["p2s_median"] = 1000 * float(np.median(np.concatenate(away)))
    names = ("all", "body", "hands", "face")
    return Report(
        title="EHF, mm. PVE at pelvis, wrists, neck; PA by each part's own fit",
        head=("", *names, "joints: body", "hands", "P2S mean", "median"),
        rows=(
            ("PVE / MPJPE", *(cell(figures, f"pve_{n}") for n in names), cell(figures, "mpjpe"),
             cell(figures, "mpjpe_hands"), "", ""),
            ("PA", *(cell(figures, f"pa_pve_{n}") for n in names), cell(figures, "pa_mpjpe"),
             cell(figures, "pa_mpjpe_hands"), cell(figures, "p2s_mean"),
             cell(figures, "p2s_median")),
        ),
        figures=figures,
        count=len(given),
        missing=len(keys) - len(given),
        notes=tuple(notes),
    )  # fmt: skip


def _joints(errors, predicted, target, files: Files, body) -> list[str]:
    """Add the joints' errors; return what is missing for them."""
    notes = []
    if files.has("SMPLX_to_J14.pkl"):
        shape = (14, target.shape[1])
        rows = files.regressor("SMPLX_to_J14.pkl", shape, "the 14 joints")
        errors |= joint_errors(rows @ predicted, rows @ target, J14_HIPS)
        notes.append(f"body joints: 14, root: {J14_HIPS.name}")
    else:
        notes.append("no body joints: they need SMPLX_to_J14.pkl, your own (--files)")
    if body is None:
        notes.append("no PVE and hand joints: their roots need your SMPL-X model (--body)")
        return notes
    from regressor.protocols import Root

    sides = []
    for side in ("left", "right"):
        pair = (hand_points(body, v, side) for v in (predicted, target))
        sides.append(joint_errors(*pair, Root("wrist", (0,))))
    for name in ("mpjpe", "pa_mpjpe"):
        errors[f"{name}_hands"] = (sides[0][name] + sides[1][name]) / 2
    return notes
