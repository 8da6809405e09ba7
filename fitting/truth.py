"""How far a fit is from the truth, where the dataset has it (rendered people)."""

import logging
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import BODY_JOINTS
from curation.reproject import posed_joints, trunk_lean_deg
from curation.schema import POSE_SHAPES

__all__ = ["NO_TRUTH", "errors_against_truth"]

_log = logging.getLogger(__name__)

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
    made_with = str(truth.get("body_sha256", ""))
    if made_with != body.sha256:
        _say_once(made_with, body.name)
        return NO_TRUTH
    if not {*POSE_SHAPES, "transl"} <= {*truth}:
        return NO_TRUTH
    try:
        expected = posed_joints(body, truth)
    except ValueError:
        return NO_TRUTH
    import torch

    from bodymodel.metrics import mpjpe_mm, pa_mpjpe_mm

    order = [body.joints.index(name) for name in BODY_JOINTS]
    pair = torch.from_numpy(joints[order]), torch.from_numpy(expected[order])
    return {
        "has_truth": True,
        "mpjpe_mm": float(mpjpe_mm(*pair)),
        "pa_mpjpe_mm": float(pa_mpjpe_mm(*pair)),
        "trunk_lean_error_deg": trunk_lean_deg(joints, body) - trunk_lean_deg(expected, body),
    }


@cache
def _say_once(made_with: str, name: str) -> None:
    _log.warning(
        "the dataset's truth was made with body %s, not with %s: errors are not measured",
        made_with[:12] or "(unnamed)",
        name,
    )
