"""How good a fit is, in numbers that curation can sort and filter by. Torch-free.

All columns of a row under "how well it fits" that are not the solver's own account come from here.
"""

import math
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import PARTS
from curation.oks import object_keypoint_similarity
from curation.reproject import trunk_lean_deg
from curation.samples import KeypointSource, PersonObservation
from fitting.records import FitResult

__all__ = ["NO_QUALITY", "quality_columns"]

NO_QUALITY: dict[str, Any] = {
    **{f"residual_{part}_px": math.nan for part in PARTS},
    "person_height_px": math.nan,
    "residual_body_pct": math.nan,
    "trunk_lean_deg": math.nan,
    "start_margin": math.nan,
    "prior_energy": math.nan,
    "betas_abs_max": math.nan,
    "self_penetration_mm": math.nan,
    "self_penetration_cm2": math.nan,
    "self_penetration_parts": [],
    "oks_fit": math.nan,
}
"""The columns of a row without a fit."""


def quality_columns(
    body: BodyData, observation: PersonObservation, result: FitResult, joints: np.ndarray
) -> dict[str, Any]:
    """Return the quality columns of a row, by the names of NO_QUALITY.

    Args:
        body: The body that was fitted.
        observation: What was seen.
        result: The fit; finite.
        joints: (J, 3) of the fit, metres, camera frame.
    """
    height_px = float(result.person_height_px)
    betas = np.asarray(result.params["betas"])
    is_label = observation.keypoint_source == KeypointSource.ANNOTATION
    labels = np.where(is_label[:, None], observation.keypoints_2d, 0)
    return {
        **{f"residual_{part}_px": float(result.residual_part_px[part]) for part in PARTS},
        "person_height_px": height_px,
        "residual_body_pct": 100 * float(result.residual_part_px["body"]) / max(height_px, 1e-6),
        "trunk_lean_deg": trunk_lean_deg(joints, body),
        "start_margin": float(result.start_margin),
        "prior_energy": float(result.energy.get("pose", math.nan)),
        "betas_abs_max": float(np.abs(betas).max()) if betas.size else 0.0,
        "self_penetration_mm": float(result.self_penetration.depth_mm),
        "self_penetration_cm2": float(result.self_penetration.area_cm2),
        "self_penetration_parts": list(result.self_penetration.parts),
        "oks_fit": object_keypoint_similarity(
            result.projected_2d, labels, observation.bbox_xyxy_px
        ),
    }
