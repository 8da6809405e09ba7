"""What the solver takes and gives, one person at a time, as plain arrays."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import PARTS
from curation.samples import View
from fitting.masks import MaskField


@dataclass(frozen=True, eq=False)
class FitTarget:
    """One person's evidence.

    Attributes:
        keypoints_2d: (145, 3) float32, ``fit`` convention: x px, y px, confidence 0-1.
        focal_px: Focal length in pixels of the full image.
        center_px: (2,) principal point.
        height_px: Of the full image; the reference solver weighs residuals by it. NaN if unknown.
        focal_sd: Standard deviation of the focal length's natural logarithm: 0 if it is known, else
            it is an unknown of the fit, and ``focal_px`` what is expected (fitting.focal).
        views: Further photos. All must be calibrated, this one too.
        keypoints_3d: (145, 4) x y z in metres and confidence 0-1, or None. They may stand alone,
            with ``keypoints_2d`` all zero; then the camera does not matter.
        frame_3d: "camera": in this camera's frame. "free": known up to a rigid motion.
        clip: Targets of one person and camera share a name; they are solved together, with one
            shape, one focal length and smooth motion. Empty for a photo by itself.
        frame: Which frame of the clip; gaps are bridged.
        starts: Where to start from, at most four guesses: fields of BodyParams without batch
            dimension, as in FitResult; none for the solver's own starts. What is missing or not
            finite starts at its mean, the place as the keypoints tell.
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
    focal_sd: float = 0.0
    views: tuple[View, ...] = ()
    keypoints_3d: np.ndarray | None = None
    frame_3d: Literal["camera", "free"] = "camera"
    clip: str = ""
    frame: int = 0
    starts: tuple[Mapping[str, np.ndarray], ...] = ()
    world_points: np.ndarray | None = None
    conventions: tuple[str, ...] = ()
    silhouette: MaskField | None = None

    @property
    def picture_height_px(self) -> float:
        """``height_px``, or where it is unknown twice what the principal point says."""
        known = math.isfinite(self.height_px)
        return float(self.height_px) if known else 2 * float(self.center_px[1])


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
        focal_px: With which the body is seen as projected_2d; NaN if it is the target's.
        joint_covariance_mm2: (22, 6) float32, xx xy xz yy yz zz in camera axes for BODY_JOINTS: of
            the pelvis's place, and of every other joint's relative to the pelvis. None if unknown.
        residual_3d_mm: (145,) float32, distance to the 3D keypoints, after the rigid motion if
            their frame is free; NaN where there is none, None if there are none at all.
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
    focal_px: float = math.nan
    joint_covariance_mm2: np.ndarray | None = None
    residual_3d_mm: np.ndarray | None = None

    @classmethod
    def refused(
        cls, params: Mapping[str, np.ndarray], terms: Iterable[str], status: str, reason: str
    ) -> "FitResult":
        """Return what is said of a person who was not fitted.

        Args:
            params: As FitResult's, all NaN.
            terms: Of the solver's energy.
            status: As FitResult's.
            reason: Likewise.
        """
        nothing = np.full(len(FIT_KEYPOINTS), np.nan, np.float32)
        return cls(
            params={name: value.astype(np.float32) for name, value in params.items()},
            projected_2d=np.stack([nothing, nothing], 1),
            residual_px=nothing,
            residual_part_px=dict.fromkeys(PARTS, math.nan),
            person_height_px=math.nan,
            energy=dict.fromkeys(terms, math.nan),
            energy_total=math.nan,
            starts=(),
            start_energies=np.zeros(0, np.float32),
            start_margin=math.nan,
            winner="",
            iterations=0,
            status=status,
            reason=reason,
        )
