"""How far a fit is from the truth, where the dataset has it (rendered people). Torch-free."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import BODY_JOINTS
from curation.reproject import posed_joints, trunk_lean_deg
from curation.schema import POSE_SHAPES

__all__ = ["NO_TRUTH", "errors_against_truth", "mpjpe_mm", "pa_mpjpe_mm"]

NO_TRUTH: dict[str, Any] = {
    "has_truth": False,
    "mpjpe_mm": math.nan,
    "pa_mpjpe_mm": math.nan,
    "trunk_lean_error_deg": math.nan,
}
"""The columns of a row without truth."""


def errors_against_truth(
    body: BodyData, joints: np.ndarray, truth: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the error columns of a row.

    The truth counts only if it was made with this very body: parameters of another body do not
    say where this one's joints are.

    Args:
        body: The body that was fitted.
        joints: (J, 3) of the fit, metres, camera frame.
        truth: The fields of BodyParams, and ``body_sha256`` of the body they belong to.
    """
    if str(truth.get("body_sha256", "")) != body.sha256 or not {*POSE_SHAPES, "transl"} <= {*truth}:
        return NO_TRUTH
    try:
        expected = posed_joints(body, truth)
    except ValueError:
        return NO_TRUTH
    order = [body.joints.index(name) for name in BODY_JOINTS]
    return {
        "has_truth": True,
        "mpjpe_mm": mpjpe_mm(joints[order], expected[order]),
        "pa_mpjpe_mm": pa_mpjpe_mm(joints[order], expected[order]),
        "trunk_lean_error_deg": trunk_lean_deg(joints, body) - trunk_lean_deg(expected, body),
    }


def mpjpe_mm(joints: np.ndarray, expected: np.ndarray) -> float:
    """Return the mean distance of the joints, millimetres, with the first joints laid together.

    Args:
        joints: (J, 3) metres, the pelvis first.
        expected: (J, 3) likewise.
    """
    moved = joints - joints[:1] + expected[:1]
    return float(1000 * np.linalg.norm(moved - expected, axis=-1).mean())


def pa_mpjpe_mm(joints: np.ndarray, expected: np.ndarray) -> float:
    """Return the mean distance after the best similarity transform (Umeyama 1991), millimetres.

    Args:
        joints: (J, 3) metres.
        expected: (J, 3) likewise.
    """
    x, y = joints - joints.mean(0), expected - expected.mean(0)
    u, s, vt = np.linalg.svd(x.T @ y)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = (s * sign).sum() / max((x**2).sum(), 1e-12)
    aligned = scale * x @ (u * sign) @ vt
    return float(1000 * np.linalg.norm(aligned - y, axis=-1).mean())
