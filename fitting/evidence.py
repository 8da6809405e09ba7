"""From what is known of persons to the energies of the stages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bodymodel.keypoints import FIT_KEYPOINTS, LOOSE_POINTS
from bodymodel.sliced import SlicedBody
from bodymodel.spec import keypoint_part
from fitting.config import FitConfig, StageConfig
from fitting.data_term import Evidence
from fitting.energy import Energy, Term
from fitting.extra import (
    SeenTerm,
    at_stage,
    depth_terms,
    find_extra_problem,
    has_2d,
    has_extra,
    seen_terms,
    weighted,
)
from fitting.focal_term import FocalTerm, focal_start
from fitting.prepared import PreparedBody
from fitting.records import FitTarget
from fitting.reference_energy import IGNORED, OPENPOSE_POINTS
from fitting.starts import COARSE_POINTS, pixels_per_metre
from fitting.target_check import find_problem, seen_points

__all__ = [
    "Gathered",
    "fine_slice",
    "further_terms",
    "gather",
    "gather_points",
    "in_units",
    "refusal",
    "stage_energy",
    "unknown_focal",
]

_USUAL_STATURE_M = 1.7
_PICTURE_PER_PERSON = 1.25  # the picture height of SMPLify-X's units, in heights of the person
_ANY_FOCAL_PX = 1000.0  # of persons who are not seen in a photo
_WRISTS = ("left_wrist", "right_wrist")


def refusal(target: FitTarget, config: FitConfig) -> str:
    """Say why a person cannot be fitted, or nothing."""
    limits = COARSE_POINTS, config.min_points, config.min_confidence
    if has_extra(target):
        return find_extra_problem(target, *limits)
    if problem := find_problem(target, *limits):
        return problem
    if config.residuals == "published" and not target.picture_height_px > 0:
        return f"the photo's height is {target.picture_height_px} px; residuals count by it"
    spread = np.ptp(seen_points(target, COARSE_POINTS, config.min_confidence), axis=0).max()
    if spread < 2:
        return f"the points of the body lie within {spread:.1f} px of each other"
    return ""


@dataclass(frozen=True, eq=False)
class Gathered:
    """All that is known of a batch, in the units of the energy.

    Attributes:
        coarse: The points of the coarse stages.
        coarse_terms: What else is known, for the same points.
        points: The points of the last stages.
        fine: What is seen of them.
        fine_terms: What else is known, for the same points.
        lens: The term of the focal lengths, if any is unknown.
    """

    coarse: Evidence
    coarse_terms: tuple[SeenTerm, ...]
    points: SlicedBody
    fine: Evidence
    fine_terms: tuple[SeenTerm, ...]
    lens: tuple[FocalTerm, ...]


def gather(prepared: PreparedBody, targets: Sequence[FitTarget]) -> Gathered:
    """Gather what is known of a batch."""
    config = prepared.config
    coarse = gather_points(prepared, targets, prepared.coarse)
    scale = pixels_per_metre(prepared.coarse, coarse, prepared.rest)
    focal, focal_px = unknown_focal(prepared, targets, scale)
    coarse = replace(in_units(coarse, targets, scale, config), focal_px=focal_px)
    points = fine_slice(prepared, targets)
    fine = in_units(gather_points(prepared, targets, points), targets, scale, config)
    fine = replace(fine, focal_px=focal_px, focal_free=focal.free)
    return Gathered(
        coarse=coarse,
        coarse_terms=further_terms(prepared, targets, prepared.coarse, coarse, coarse.unit),
        points=points,
        fine=fine,
        fine_terms=further_terms(prepared, targets, points, coarse, coarse.unit),
        lens=(focal,) if bool(focal.free.any()) else (),
    )


def gather_points(
    prepared: PreparedBody, targets: Sequence[FitTarget], sliced: SlicedBody
) -> Evidence:
    """Gather the points of a slice; the unit is set once the person's size is known (in_units)."""
    config = prepared.config
    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    points = np.stack([t.keypoints_2d for t in targets]).astype(np.float64)[:, rows]
    seen = np.isfinite(points).all(-1) & (points[..., 2] >= config.min_confidence)
    points = np.where(seen[..., None], points, 0)
    own = np.array([_point_weight(name, config) for name in sliced.points])
    return Evidence(
        points_px=prepared.real(points[..., :2]),
        weights=prepared.real(points[..., 2] ** 2 * own),
        focal_px=prepared.real([_expected_focal_px(t) for t in targets]),
        center_px=prepared.real(np.nan_to_num(np.stack([t.center_px for t in targets]))),
        unit=prepared.real(np.ones(len(targets))),
        robust_unit=prepared.real(np.ones(len(targets))),
    )


def in_units(
    evidence: Evidence, targets: Sequence[FitTarget], scale: Tensor, config: FitConfig
) -> Evidence:
    """Set the unit of the residuals; ``scale`` (B,) is in pixels per metre."""
    if config.residuals == "person":
        return replace(evidence, unit=1000 / (_PICTURE_PER_PERSON * _USUAL_STATURE_M * scale))
    heights = [t.picture_height_px for t in targets]
    unit = 1000 / torch.tensor(heights, dtype=scale.dtype, device=scale.device)
    return replace(evidence, unit=unit, robust_unit=unit)


def unknown_focal(
    prepared: PreparedBody, targets: Sequence[FitTarget], scale: Tensor
) -> tuple[FocalTerm, Tensor]:
    """Return the term of the focal lengths, and where they start; ``scale`` in px per metre."""
    config = prepared.config.focal
    sd = prepared.real([t.focal_sd if has_2d(t) and not t.views else 0 for t in targets])
    expected = prepared.real([_expected_focal_px(t) for t in targets])
    start = focal_start(expected, sd, scale, config)
    free = (sd > 0).to(prepared.dtype)
    known_sd = torch.where(sd > 0, sd, 1.0)
    return FocalTerm((start / expected).log(), known_sd, free, config), start


def further_terms(
    prepared: PreparedBody,
    targets: Sequence[FitTarget],
    sliced: SlicedBody,
    coarse: Evidence,
    unit: Tensor,
) -> tuple[SeenTerm, ...]:
    """Return the terms of what is known beside the points of one photo.

    Args:
        prepared: The body.
        targets: B persons.
        sliced: The points that are fitted.
        coarse: The points of the coarse stages, focal lengths set.
        unit: (B,) residual units per pixel.
    """
    if any(has_extra(target) for target in targets):
        return seen_terms(targets, sliced, prepared.config, unit)
    return depth_terms(targets, prepared.depth, prepared.trunk, prepared.coarse, coarse)


def fine_slice(prepared: PreparedBody, targets: Sequence[FitTarget]) -> SlicedBody:
    """Return the points of the last stages: all if any are in space, else what photos have."""
    has_3d = any(target.keypoints_3d is not None for target in targets)
    return prepared.all_points if has_3d else prepared.fine


def stage_energy(
    prepared: PreparedBody,
    sliced: SlicedBody,
    stage: StageConfig,
    evidence: Evidence,
    seen: tuple[SeenTerm, ...] = (),
    extra: tuple[Term, ...] = (),
) -> Energy:
    """Return a stage's energy.

    Args:
        prepared: The body.
        sliced: The points.
        stage: The weights.
        evidence: The photo.
        seen: Further evidence; the weights of points and parts are the photo's.
        extra: Other terms.
    """
    layout = prepared.layout
    size = layout.coarse_size
    if stage.w_hand_points or stage.w_face_points:
        size = layout.size
        weight = [_stage_weight(name, stage, prepared.config) for name in sliced.points]
        weight = torch.tensor(weight, dtype=prepared.dtype, device=prepared.device)
        evidence = replace(evidence, weights=evidence.weights * weight)
        seen = weighted(seen, weight)
    extra = (*at_stage(seen, stage), *extra)
    return Energy(
        sliced, layout, prepared.prior, prepared.limits, stage, evidence, size, extra=extra
    )


def _expected_focal_px(target: FitTarget) -> float:
    return target.focal_px if has_2d(target) or target.views else _ANY_FOCAL_PX


def _point_weight(name: str, config: FitConfig) -> float:
    """Weight of a point's squared residuals in every stage."""
    if config.residuals == "published":
        return float(name in OPENPOSE_POINTS and name not in IGNORED)
    return config.loose_weight if name in LOOSE_POINTS else 1.0


def _stage_weight(name: str, stage: StageConfig, config: FitConfig) -> float:
    """What a stage makes of a point's weight."""
    part = keypoint_part(name)
    if part == "body":
        # OpenPose has the wrists twice: as ends of the arms and as roots of the hands
        is_twice = config.residuals == "published" and name in _WRISTS
        return 1.0 + stage.w_hand_points * is_twice
    return stage.w_face_points if part == "face" else stage.w_hand_points
