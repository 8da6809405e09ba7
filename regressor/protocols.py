"""What the field measures, as pure functions: which root, which part, which alignment.

MPJPE, PVE and Procrustes are ``bodymodel.metrics``; here is what protocols make of them. Metres in,
millimetres out. Figures are of one item each, NaN where something is not finite; means are the
caller's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bodymodel.keypoints import CONVENTIONS
from bodymodel.metrics import mpjpe_mm, pa_mpjpe_mm, pa_pve_mm, procrustes_align, pve_mm

__all__ = [
    "H36M_LEFT_FIRST",
    "H36M_TO_J14",
    "J14",
    "J14_HIPS",
    "PELVIS_ROW",
    "Alignment",
    "Root",
    "VertexPart",
    "auc",
    "f_score",
    "face_region",
    "joint_errors",
    "part_errors",
    "pck",
    "rigid_alignment",
    "scan_to_mesh",
    "surface_distances",
]

J14 = CONVENTIONS["lsp14"]
"""The 14 joints of SMPLX_to_J14.pkl, right ankle to head top: LSP's order."""

H36M_LEFT_FIRST: tuple[str, ...] = (
    "pelvis", "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee", "right_ankle",
    "torso_h36m", "neck", "head_h36m", "head_top", "left_shoulder", "left_elbow", "left_wrist",
    "right_shoulder", "right_elbow", "right_wrist",
)  # fmt: skip
"""Rows of J_regressor_h36m.npy (17 x 6890); Hand4Whole's SMPL-X one has the right leg first."""

H36M_TO_J14: tuple[int, ...] = tuple(H36M_LEFT_FIRST.index(name) for name in J14)
"""[6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]: SPIN's table, here from the names."""

_MM = 1000.0


@dataclass(frozen=True)
class Root:
    """Where two skeletons are put together: protocols differ, so it has a name.

    Attributes:
        name: For the table.
        indices: Joints whose middle it is.
    """

    name: str
    indices: tuple[int, ...]


J14_HIPS = Root("middle of the hips", (J14.index("right_hip"), J14.index("left_hip")))
"""ExPose's, with joints J14."""
PELVIS_ROW = Root("row 0 of the regressor", (0,))
"""SPIN's and PyMAF's, with the 17 joints of Human3.6M."""


def joint_errors(
    predicted: np.ndarray, truth: np.ndarray, root: Root, measured: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """Return ``mpjpe`` after alignment at a root, ``pa_mpjpe`` after Procrustes.

    Args:
        predicted: (..., K, 3) metres.
        truth: (..., K, 3) metres.
        root: Of both; aligned before joints are left out.
        measured: Joints that count (Procrustes is fitted on them alone); all if None.

    Returns:
        (...) millimetres each.
    """
    a, b = _tensors(predicted, truth)
    indices = list(root.indices)
    a = a - a[..., indices, :].mean(-2, keepdim=True)
    b = b - b[..., indices, :].mean(-2, keepdim=True)
    if measured is not None:
        a, b = a[..., list(measured), :], b[..., list(measured), :]
    return {"mpjpe": mpjpe_mm(a, b, None).numpy(), "pa_mpjpe": pa_mpjpe_mm(a, b).numpy()}


@dataclass(frozen=True, eq=False)
class VertexPart:
    """A part of a mesh that is measured by itself.

    Attributes:
        name: all, body, left_hand, right_hand, face.
        vertices: Their indices; None for all.
        root: The joint of the body that it is aligned at: pelvis 0, wrists 20 and 21, neck 12.
    """

    name: str
    vertices: np.ndarray | None
    root: int


def part_errors(
    predicted: np.ndarray,
    truth: np.ndarray,
    parts: Sequence[VertexPart],
    joint_regressor: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Return per part ``pve_<part>`` at the part's root and ``pa_pve_<part>`` by its own fit.

    So a hand's Procrustes error holds none of the wrist's.

    Args:
        predicted: (..., V, 3) metres.
        truth: (..., V, 3) metres, vertex by vertex the same.
        parts: What is measured.
        joint_regressor: (J, V), which gives both meshes' roots; None leaves ``pve_`` out.

    Returns:
        (...) millimetres each; hands' mean too, as ``pve_hands`` and ``pa_pve_hands``.
    """
    a, b = _tensors(predicted, truth)
    out: dict[str, np.ndarray] = {}
    for part in parts:
        rows = slice(None) if part.vertices is None else torch.as_tensor(part.vertices)
        own_a, own_b = a[..., rows, :], b[..., rows, :]
        out[f"pa_pve_{part.name}"] = pa_pve_mm(own_a, own_b).numpy()
        if joint_regressor is not None:
            row = torch.as_tensor(joint_regressor[part.root], dtype=a.dtype)
            roots = (row @ a, row @ b)
            out[f"pve_{part.name}"] = pve_mm(own_a, own_b, *roots).numpy()
    for kind in ("pve", "pa_pve"):
        hands = [out[n] for n in (f"{kind}_left_hand", f"{kind}_right_hand") if n in out]
        if len(hands) == 2:
            out[f"{kind}_hands"] = (hands[0] + hands[1]) / 2
    return out


def aligned(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return ``predicted`` (..., K, 3) after the similarity that brings it closest to ``truth``."""
    return procrustes_align(*_tensors(predicted, truth)).numpy()


def _tensors(a: np.ndarray, b: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = np.ascontiguousarray(a, np.float64), np.ascontiguousarray(b, np.float64)
    if a.shape[-2:] != b.shape[-2:]:
        raise ValueError(f"points must match one by one, got {a.shape} and {b.shape}")
    return torch.as_tensor(a), torch.as_tensor(b)


def surface_distances(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the distance (P,) from points to the closest point of a mesh's surface.

    Args:
        points: (P, 3).
        vertices: (V, 3), the same unit.
        faces: (F, 3).
    """
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    middle = np.asarray(vertices, np.float64).mean(0)  # float32 there: keep numbers small
    scene.add_triangles(
        np.ascontiguousarray(vertices - middle, np.float32),
        np.ascontiguousarray(faces, np.uint32),
    )
    return scene.compute_distance(
        np.ascontiguousarray(points - middle, np.float32), nthreads=1
    ).numpy()


def f_score(predicted: np.ndarray, truth: np.ndarray, threshold_m: float) -> float:
    """Return the harmonic mean of precision and recall of points within a distance (0..1).

    Point to nearest point, as FreiHAND's server and ExPose count it.

    Args:
        predicted: (P, 3) metres.
        truth: (T, 3) metres.
        threshold_m: 0.005 for F@5.
    """
    from scipy.spatial import cKDTree

    precision = float((cKDTree(truth).query(predicted)[0] < threshold_m).mean())
    recall = float((cKDTree(predicted).query(truth)[0] < threshold_m).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def pck(
    distances: np.ndarray, threshold: float | np.ndarray, axis: int | None = None
) -> float | np.ndarray:
    """Return the share of distances that are at most a threshold (0..1); NaN if there are none.

    Args:
        distances: Of any shape; those not finite are not counted.
        threshold: The same unit; a number, or one that broadcasts (a share of each person's box).
        axis: Along which shares are taken (1 for one a person); over all if None.
    """
    distances = np.asarray(distances, float)
    known = np.isfinite(distances)
    count = known.sum(axis)
    right = ((distances <= threshold) & known).sum(axis)
    share = np.where(count > 0, right / np.maximum(count, 1), np.nan)
    return float(share) if axis is None else share


def auc(distances: np.ndarray, low: float = 0.0, high: float = 0.05, steps: int = 100) -> float:
    """Return the area under the curve of PCK over thresholds, 1 if all are right at once.

    FreiHAND: 0 to 50 mm in 100 steps, trapezoids, over the width; a point's curve each, then the
    mean over points.

    Args:
        distances: (N, K).
        low: First threshold.
        high: Last threshold.
        steps: How many.
    """
    thresholds = np.linspace(low, high, steps)
    distances = np.asarray(distances, float).reshape(len(distances), -1)
    right = (distances[None] <= thresholds[:, None, None]).mean(1)  # (steps, K)
    area = ((right[1:] + right[:-1]) / 2 * np.diff(thresholds)[:, None]).sum(0)
    return float((area / (high - low)).mean())


# --- faces against scans ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Alignment:
    """``scale * points @ rotation.T + transl``."""

    scale: float
    rotation: np.ndarray
    transl: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Move points (..., 3)."""
        return self.scale * points @ self.rotation.T + self.transl


def rigid_alignment(source: np.ndarray, target: np.ndarray, with_scale: bool = False) -> Alignment:
    """Return the motion that brings landmarks (K, 3) closest to others; no mirror image.

    Args:
        source: Landmarks of the prediction.
        target: Those of the scan.
        with_scale: A similarity, as NoW's non-metrical challenge.

    Raises:
        ValueError: If the shapes differ, or there are less than three points.
    """
    source, target = np.asarray(source, float), np.asarray(target, float)
    if source.shape != target.shape or source.ndim != 2 or len(source) < 3:
        raise ValueError(f"landmarks must be (K >= 3, 3) twice, got {source.shape}, {target.shape}")
    a, b = source - source.mean(0), target - target.mean(0)
    u, singular, vh = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vh))])
    rotation = (u * sign) @ vh
    scale = float((singular * sign).sum() / (a * a).sum()) if with_scale else 1.0
    return Alignment(scale, rotation, target.mean(0) - scale * rotation @ source.mean(0))


def face_region(points: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Return which points of a scan are face: those near the nose, as FG2018's challenge has it.

    The middle is 0.3 of the way from below the nose to its bridge, the radius 0.7 times the sum of
    the distance of the outer eye corners and the length of the nose.

    Args:
        points: (P, 3).
        landmarks: (7, 3): right eye outer, inner, left eye inner, outer, below the nose, mouth's
            corners.

    Returns:
        (P,) bool.
    """
    outer = np.linalg.norm(landmarks[0] - landmarks[3])
    bridge = (landmarks[1] + landmarks[2]) / 2
    nose = bridge - landmarks[4]
    radius = 0.7 * (outer + np.linalg.norm(nose))
    return np.linalg.norm(points - (landmarks[4] + 0.3 * nose), axis=1) <= radius


def scan_to_mesh(
    scan: np.ndarray,
    scan_landmarks: np.ndarray,
    mesh: Mapping[str, np.ndarray],
    with_scale: bool = False,
) -> np.ndarray:
    """Return the distances of a scan's face to a predicted mesh, aligned by seven landmarks.

    Args:
        scan: (P, 3) points of the scan.
        scan_landmarks: (7, 3), in ``face_region``'s order.
        mesh: ``vertices`` (V, 3), ``faces`` (F, 3), ``landmarks`` (7, 3).
        with_scale: Whether the prediction's size is free.

    Returns:
        (points of the face,) in the scan's unit.
    """
    move = rigid_alignment(mesh["landmarks"], scan_landmarks, with_scale)
    face = scan[face_region(scan, scan_landmarks)]
    return surface_distances(face, move(np.asarray(mesh["vertices"], float)), mesh["faces"])
