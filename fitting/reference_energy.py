"""The energy of SMPLify-X, term by term, by which any solver's answer can be judged.

Pavlakos et al. 2019, equation 1, with the joints, weights and units of the settings released with
it. The interpenetration term is there if asked for: it is off where its authors' CUDA extension is
missing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from bodymodel.params import BodyParams
from bodymodel.penetration import Surface
from bodymodel.spec import FACE_LANDMARKS, SMPLX_KEYPOINTS, keypoint_part
from fitting.conic_field import penetration_energy
from fitting.records import FitTarget
from fitting.reference_config import ReferenceConfig, ReferenceStage
from fitting.reference_mesh import Mesh

__all__ = [
    "IGNORED",
    "MODEL_JOINTS",
    "OPENPOSE_POINTS",
    "POSE_PENALTIES",
    "REFERENCE_TERMS",
    "ReferenceEvidence",
    "find_problem",
    "point_weights",
    "reference_energy",
    "reference_evidence",
    "squared_axis_angles",
]

REFERENCE_TERMS = (
    "data", "pose", "bend", "shape", "expression", "hands", "jaw", "penetration",
)  # fmt: skip

_BODY = CONVENTIONS["openpose_body25"]
_HANDS = CONVENTIONS["openpose_hand21_left"] + CONVENTIONS["openpose_hand21_right"]

OPENPOSE_POINTS: tuple[str, ...] = (*_BODY, *_HANDS, *FACE_LANDMARKS)
"""The 118 points in OpenPose's order. Both wrists come twice, as body and as root of the hand."""

MODEL_JOINTS: tuple[int, ...] = tuple(SMPLX_KEYPOINTS.index(name) for name in OPENPOSE_POINTS)
"""Their places among SMPL-X's keypoints."""

IGNORED = ("neck", "left_hip", "right_hip")
"""Points of the body that do not count, since annotators place them elsewhere than SMPL-X."""

TORSO_EDGES = (("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"))
"""What the camera stage takes the depth from."""

_BENDS = ((52, 1.0), (55, -1.0), (9, -1.0), (12, -1.0))  # of body_pose: elbows' y, knees' x
_W_BEND = 3.17
_UNITS = 1000.0  # residuals count in thousandths of the picture's height

PosePenalty = Callable[[Tensor], Tensor]
"""(..., 63) axis-angles -> (...) the prior's energy at weight 1."""


def squared_axis_angles(body_pose: Tensor) -> Tensor:
    """The prior ``l2``: (..., 63) -> (...)."""
    return body_pose.square().sum(-1)


POSE_PENALTIES: dict[str, PosePenalty] = {"l2": squared_axis_angles}
"""By ReferenceConfig.body_prior."""


@dataclass(frozen=True, eq=False)
class ReferenceEvidence:
    """What one person is fitted to.

    Attributes:
        points_px: (118, 2) in the order of OPENPOSE_POINTS; (0, 0) where unseen.
        confidence: (118,), 0 where unseen.
        focal_px: Focal length.
        center_px: (2,) principal point.
        height_px: Of the photo.
    """

    points_px: Tensor
    confidence: Tensor
    focal_px: float
    center_px: Tensor
    height_px: float

    def of(self, name: str) -> int:
        """Return the place of a point of the body."""
        return _BODY.index(name)


def reference_evidence(
    target: FitTarget,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ReferenceEvidence:
    """Return a person's evidence in OpenPose's order.

    Where the photo's height is not told, the principal point is taken for its middle.
    """
    rows = [FIT_KEYPOINTS.index(name) for name in OPENPOSE_POINTS]
    points = np.asarray(target.keypoints_2d, np.float64)[rows]
    seen = np.isfinite(points).all(-1) & (points[:, 2] > 0)
    points = torch.as_tensor(np.where(seen[:, None], points, 0), dtype=dtype, device=device)
    height = float(target.height_px)
    return ReferenceEvidence(
        points_px=points[:, :2],
        confidence=points[:, 2],
        focal_px=float(target.focal_px),
        center_px=torch.as_tensor(np.asarray(target.center_px), dtype=dtype, device=device),
        height_px=height if np.isfinite(height) else 2 * float(target.center_px[1]),
    )


def find_problem(target: FitTarget, min_points: int) -> str:
    """Say why a person cannot be fitted, or nothing.

    Raises:
        ValueError: If the keypoints are not of the ``fit`` convention.
    """
    points = np.asarray(target.keypoints_2d)
    if points.shape != (len(FIT_KEYPOINTS), 3):
        raise ValueError(
            f"keypoints_2d must be ({len(FIT_KEYPOINTS)}, 3) in the 'fit' convention, "
            f"got {points.shape}"
        )
    if not (np.isfinite(target.focal_px) and target.focal_px > 0):
        return f"the focal length is {target.focal_px} px; it must be positive"
    if not np.isfinite(target.center_px).all():
        return "the principal point is not a number"
    height = target.height_px if np.isfinite(target.height_px) else 2 * target.center_px[1]
    if not height > 0:
        return f"the photo's height is {height} px; residuals are weighed by it"
    used = {
        name
        for name in OPENPOSE_POINTS
        if keypoint_part(name) == "body"
        and np.isfinite(points[FIT_KEYPOINTS.index(name)]).all()
        and points[FIT_KEYPOINTS.index(name), 2] > 0
    }
    if len(used) < min_points:
        return f"{len(used)} points of the body are seen, at least {min_points} are needed"
    return ""


def point_weights(stage: ReferenceStage) -> np.ndarray:
    """Return the (118,) weights of the points in a stage; the energy squares them."""
    body = [0.0 if name in IGNORED else 1.0 for name in _BODY]
    hands, face = [stage.hand_points] * len(_HANDS), [stage.face_points] * len(FACE_LANDMARKS)
    return np.array([*body, *hands, *face])


def project(keypoints: Tensor, evidence: ReferenceEvidence) -> Tensor:
    """(..., K >= 127, 3) SMPL-X keypoints -> (..., 118, 2) pixels."""
    points = keypoints[..., list(MODEL_JOINTS), :]
    return evidence.focal_px * points[..., :2] / points[..., 2:] + evidence.center_px


def reference_energy(
    mesh: Mesh,
    params: BodyParams,
    evidence: ReferenceEvidence,
    stage: ReferenceStage,
    config: ReferenceConfig,
    hand_means: Tensor,
    pose_penalty: PosePenalty = squared_axis_angles,
    surface: Surface | None = None,
) -> dict[str, Tensor]:
    """Return the energy of one stage by term, (B) each. Differentiable.

    Args:
        mesh: Poses the body.
        params: (B) of one person, BodyParams's conventions.
        evidence: What the person is fitted to.
        stage: The weights.
        config: Of the robust function.
        hand_means: (2, 45) what a hand at rest is, left and right.
        pose_penalty: The prior on the body's pose.
        surface: Of the body, for interpenetration; without it that is 0.
    """
    body_pose = params.body_pose.flatten(-2)
    own = torch.as_tensor(point_weights(stage), dtype=body_pose.dtype, device=body_pose.device)
    weight = (own * evidence.confidence * _UNITS / evidence.height_px).square()
    posed = mesh(params)
    square = (project(posed.keypoints, evidence) - evidence.points_px).square()
    rho2 = config.robust_px**2
    data = (weight[:, None] * rho2 * square / (square + rho2)).sum((-2, -1))

    index = [i for i, _ in _BENDS]
    sign = body_pose.new_tensor([s for _, s in _BENDS])
    bend = torch.exp(sign * body_pose[..., index]).square().sum(-1)
    hands = sum(
        (pose.flatten(-2) - mean).square().sum(-1)
        for pose, mean in zip(
            (params.left_hand_pose, params.right_hand_pose), hand_means, strict=True
        )
    )
    jaw = body_pose.new_tensor(stage.jaw)
    penetration = torch.zeros_like(data)
    if surface is not None and stage.collision:
        field = penetration_energy(surface, posed.vertices, config.cone_height_m)
        penetration = stage.collision * field
    return {
        "data": data,
        "pose": stage.pose**2 * pose_penalty(body_pose),
        "bend": _W_BEND * stage.pose * bend,
        "shape": stage.shape**2 * params.betas.square().sum(-1),
        "expression": stage.expression**2 * params.expression.square().sum(-1),
        "hands": stage.hands**2 * hands,
        "jaw": (jaw * params.jaw_pose).square().sum(-1),
        "penetration": penetration,
    }
