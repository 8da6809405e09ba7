"""What is wrong with a mesh or with parameters, in one sentence. Torch-free."""

from collections.abc import Sequence

import numpy as np

from bodymodel.body import BodyData

__all__ = ["check_meshes", "pose_reasons"]

_UNITS = {1000.0: "millimetres", 100.0: "centimetres", 39.37: "inches", 3.281: "feet"}
_SPREAD = 5.0  # of the edges' ratios to the template's, from the 10th to the 90th percentile
_MOST_TURN = 4 * np.pi  # radians; optimisers may leave a joint one turn too far
_LEAST, _MOST = 0.25, 2.5  # a toddler's edges are half as long as an adult's


def check_meshes(
    vertices: np.ndarray | Sequence[np.ndarray], body: BodyData
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Check meshes one by one.

    Args:
        vertices: (B, V, 3), or a sequence of arrays.
        body: Whose topology they should have.

    Returns:
        (B, V, 3) float64 about their middles, metres; the middles (B, 3); and what is wrong with
        each, empty if nothing. Meshes that are wrong are replaced by the template.
    """
    template = body.v_template.astype(np.float64)
    edges = body.faces[:, [0, 1]]
    usual = _lengths(template, edges)
    long = usual > np.median(usual) / 4
    volume = _volume(template, body.faces)
    out = np.empty((len(vertices), *template.shape))
    middles = np.zeros((len(vertices), 3))
    reasons = []
    for k, mesh in enumerate(vertices):
        mesh = np.asarray(mesh)
        reason = _shape_reason(mesh, body)
        if not reason:
            mesh = mesh.astype(np.float64)
            middles[k] = mesh.mean(0)
            mesh = mesh - middles[k]
            ratio = np.sort(_lengths(mesh, edges)[long] / usual[long])
            tenth = len(ratio) // 10
            if ratio[-1 - tenth] > _SPREAD * max(ratio[tenth], 1e-12):
                reason = f"the mesh's vertices are not in the order of {body.family}"
            reason = reason or _scale_reason(float(np.median(ratio)))
            if not reason and _volume(mesh, body.faces) * volume < 0:
                reason = (
                    "the mesh is inside out: it was mirrored, or its axes are left-handed; mirror "
                    "it back"
                )
        reasons.append(reason)
        out[k] = template if reason else mesh
    return out, middles, reasons


def pose_reasons(full_pose: np.ndarray, finite: np.ndarray) -> list[str]:
    """Check parameters one by one.

    Args:
        full_pose: (B, J, 3) axis-angle, the root first.
        finite: (B,) bool, whether all of a row's numbers are finite.

    Returns:
        What is wrong with each, empty if nothing.
    """
    turn = np.linalg.norm(full_pose[:, 1:], axis=-1).max(1, initial=0)
    out = []
    for angle, is_finite in zip(turn, finite, strict=True):
        reason = "" if is_finite else "the parameters are not finite"
        if is_finite and angle > _MOST_TURN:
            reason = f"a joint turns by {angle:.0f} rad; are the poses in degrees?"
        out.append(reason)
    return out


def _shape_reason(mesh: np.ndarray, body: BodyData) -> str:
    count = len(body.v_template)
    if mesh.ndim != 2 or mesh.shape[-1] != 3:
        return f"vertices must be ({count}, 3), got {mesh.shape}"
    if len(mesh) != count:
        return f"{body.family} has {count} vertices, the mesh has {len(mesh)}"
    if mesh.dtype.kind not in "fiu" or not np.isfinite(mesh).all():
        return "the mesh has vertices that are not finite"
    return ""


def _scale_reason(scale: float) -> str:
    if _LEAST <= scale <= _MOST:
        return ""
    for factor, name in _UNITS.items():
        if _LEAST <= scale / factor <= _MOST:
            return f"the mesh is {scale:.3g} times too large: is it in {name}? Give the unit"
    return f"the mesh has {scale:.3g} times the size of a body; metres are needed"


def _lengths(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)


def _volume(points: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (points[faces[:, k]] for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)
