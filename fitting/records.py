"""What the solver takes and gives, one person at a time, as plain arrays."""

import math
from dataclasses import dataclass

import numpy as np

from fitting.masks import MaskField


@dataclass(frozen=True, eq=False)
class FitTarget:
    """One person's evidence.

    Attributes:
        keypoints_2d: (145, 3) float32, ``fit`` convention: x px, y px, confidence 0-1.
        focal_px: Focal length in pixels of the full image.
        center_px: (2,) principal point.
        height_px: Of the full image; the reference solver weighs residuals by it. NaN if unknown.
        world_points: (145, 3) float32, a detector's guess of the points in metres, axes of the
            camera, any origin; NaN where it has none. None for no guess.
        conventions: Where the points come from: keys of keypoints.CONVENTIONS. Each point is where
            the first of them that has it puts it. Empty: all are SMPL-X's own.
        silhouette: The person's mask, of fitting.masks.mask_field; None for none.
    """

    keypoints_2d: np.ndarray
    focal_px: float
    center_px: np.ndarray
    height_px: float = math.nan
    world_points: np.ndarray | None = None
    conventions: tuple[str, ...] = ()
    silhouette: MaskField | None = None


@dataclass(frozen=True)
class SelfPenetration:
    """How far a body goes through itself, neighbouring parts not counted.

    Attributes:
        depth_mm: Of the vertex that is deepest inside another part, 0 if none is; NaN if not
            measured.
        area_cm2: Of the surface that is inside other parts.
        parts: Pairs of bodymodel.parts.REGIONS, ``left_hand+trunk``; the deepest first.
    """

    depth_mm: float = math.nan
    area_cm2: float = math.nan
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FitResult:
    """One person's fit, in the camera frame (OpenCV axes: x right, y down, z forward).

    Attributes:
        params: The fields of bodymodel.params.BodyParams as float32 arrays without batch dimension.
        projected_2d: (145, 2) float32, the model's keypoints in pixels of the full image.
        residual_px: (145,) float32, distance to the detected point, NaN where there is none.
        residual_part_px: Median of residual_px by part (spec.PARTS), NaN where a part is unseen.
        person_height_px: The scale that residuals are judged by: the height in pixels that the
            fitted body has when it stands upright at its depth.
        energy: Final energy by term, without "total".
        energy_total: Their sum.
        starts: Names of the starts that were tried.
        start_energies: (len(starts),) float32, of the body's points alone, by the same weights for
            all.
        start_margin: How much worse the best other answer is that faces another way, in parts of
            the best's energy; NaN if there was none.
        winner: Name of the start that won.
        iterations: Solver iterations of the winner.
        status: "ok", "not_converged", "too_few_keypoints" or "solver_error".
        reason: One plain sentence when status is not "ok".
        self_penetration: Measured on the whole mesh.
    """

    params: dict[str, np.ndarray]
    projected_2d: np.ndarray
    residual_px: np.ndarray
    residual_part_px: dict[str, float]
    person_height_px: float
    energy: dict[str, float]
    energy_total: float
    starts: tuple[str, ...]
    start_energies: np.ndarray
    start_margin: float
    winner: str
    iterations: int
    status: str
    reason: str
    self_penetration: SelfPenetration = SelfPenetration()
