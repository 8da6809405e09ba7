"""Anatomical limits of all 55 joints as one-sided residuals on axis-angle components.

Ranges are goniometry norms of healthy adults (AAOS 1965; Norkin & White, *Measurement of Joint
Motion*), as far as the T-pose and a box on axis-angle components can state them, widened where
components mix (shoulder, forearm) and where one anatomical motion has several joints in SMPL-X
(spine, neck, pronation by elbow and wrist). A box is coarse for the shoulder: it forbids nothing
that people do, not everything that they cannot. What is likely is the pose prior's business.

Signs, for the person's left side in the T-pose (x to the person's left, y up, z out of the chest;
the right side mirrors: y and z negated):

- hip: flexion -x, abduction +z, toes out +y. Knee: flexion +x. Ankle: toes down +x.
- spine, neck, head: bend forward +x, turn left +y, tilt right +z.
- collar, shoulder: raise +z, forward -y. Elbow: flexion -y, pronation +x.
- wrist and fingers: towards the palm -z; towards the thumb's side -y.
- jaw: opens +x. Eyes: down +x, left +y.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bodymodel.spec import SMPLX_JOINTS, mirror_name

__all__ = ["LIMITS_DEG", "SUGGESTED_WEIGHT", "JointLimits", "joint_limits"]

SUGGESTED_WEIGHT = 32.0
"""Per radian, beside PosePrior at weight 1: 10 degrees outside cost an energy of 16."""

Range = tuple[float, float]

_FREE: Range = (-np.inf, np.inf)

_BODY: dict[str, tuple[Range, Range, Range]] = {
    # name: (x, y, z), degrees; midline and left
    "pelvis": (_FREE, _FREE, _FREE),
    "left_hip": ((-140, 40), (-50, 65), (-40, 65)),
    "left_knee": ((-3, 155), (-20, 25), (-12, 12)),
    "left_ankle": ((-45, 60), (-40, 50), (-30, 35)),
    "left_foot": ((-70, 45), (-12, 12), (-12, 12)),
    # Thoracolumbar flexion 80-90, extension 30, side 40, rotation 45, spread over three.
    "spine1": ((-25, 45), (-20, 20), (-25, 25)),
    "spine2": ((-18, 35), (-20, 20), (-20, 20)),
    "spine3": ((-25, 30), (-25, 25), (-20, 20)),
    # Cervical flexion 50, extension 70, rotation 80, side 45, spread over two; each may exceed
    # its half.
    "neck": ((-45, 40), (-50, 50), (-30, 30)),
    "head": ((-45, 40), (-50, 50), (-30, 30)),
    "left_collar": ((-25, 25), (-35, 25), (-20, 45)),
    "left_shoulder": ((-150, 120), (-135, 75), (-110, 100)),
    # Hyperextension 5; pronation and supination 80-90, half of them here. z is not an own motion
    # of the elbow: it is what flexion with pronation has in axis-angles.
    "left_elbow": ((-60, 85), (-160, 5), (-45, 45)),
    "left_wrist": ((-60, 75), (-35, 45), (-85, 75)),
    "jaw": ((0, 35), (-12, 12), (-8, 8)),
    "left_eye_smplhf": ((-35, 40), (-45, 45), (-8, 8)),
}

_PALM = np.array([0.0, -1.0, 0.0])
_FAN_DEG = {"index": 8.0, "middle": 1.0, "ring": -5.0, "pinky": -13.0}
_FINGER: tuple[tuple[Range, Range, Range], ...] = (
    # joint 1, 2, 3: (flexion, towards the thumb, twist), degrees. Fingers do not twist; the 15
    # degrees are for body models whose finger axes are not quite those of their bones.
    ((-40, 95), (-25, 25), (-15, 15)),  # metacarpophalangeal
    ((-10, 115), (-10, 10), (-15, 15)),  # proximal interphalangeal
    ((-15, 90), (-10, 10), (-15, 15)),  # distal interphalangeal
)
# The pad of the relaxed thumb looks partly down, partly at the index finger. How much differs
# between body models (open body: down by 20 degrees), hence wide ranges across.
_THUMB_BONE = np.array([0.70, -0.16, 0.70])
_THUMB_PAD = np.array([0.50, -0.70, -0.50])
_THUMB: tuple[tuple[Range, Range, Range], ...] = (
    ((-40, 50), (-40, 40), (-40, 40)),  # carpometacarpal, a saddle
    ((-25, 70), (-25, 25), (-20, 20)),  # metacarpophalangeal
    ((-30, 95), (-15, 15), (-15, 15)),  # interphalangeal
)


def _box(bone: np.ndarray, pad: np.ndarray, ranges: tuple[Range, Range, Range]) -> np.ndarray:
    """Return the (3, 2) hull, on x, y, z, of rotation vectors given on a finger's own axes.

    The own axes come from geometry: flexion brings the bone towards the pad, so its axis is
    bone x pad; the side axis is the pad's direction; the twist axis is the bone.
    """
    bone = bone / np.linalg.norm(bone)
    pad = pad - bone * (pad @ bone)
    pad /= np.linalg.norm(pad)
    # About the pad's direction (down), a positive turn takes the left hand's fingers (+x) towards
    # the thumb (+z).
    axes = np.stack([np.cross(bone, pad), pad, bone])
    ends = axes[:, :, None] * np.asarray(ranges, float)[:, None, :]
    return np.stack([ends.min(-1).sum(0), ends.max(-1).sum(0)], axis=-1)


def _left_table() -> dict[str, np.ndarray]:
    table = {name: np.asarray(ranges, float) for name, ranges in _BODY.items()}
    for k in range(3):
        for finger, fan in _FAN_DEG.items():
            angle = np.radians(fan)
            bone = np.array([np.cos(angle), 0.0, np.sin(angle)])
            table[f"left_{finger}{k + 1}"] = _box(bone, _PALM, _FINGER[k])
        table[f"left_thumb{k + 1}"] = _box(_THUMB_BONE, _THUMB_PAD, _THUMB[k])
    return table


def _all_joints() -> dict[str, np.ndarray]:
    left = _left_table()
    out = {}
    for name in SMPLX_JOINTS:
        if name in left:
            out[name] = left[name]
        else:  # mirrored: y and z change sign, and with it low and high their places
            x, y, z = left[mirror_name(name)]
            out[name] = np.stack([x, -y[::-1], -z[::-1]])
    return out


LIMITS_DEG: dict[str, np.ndarray] = _all_joints()
"""Joint name to (3, 2): low and high of x, y, z in degrees; SMPL-X's 55 joints in order."""


@dataclass(frozen=True, eq=False)
class JointLimits:
    """The limits as a residual term; zero inside, linear outside. Energy 0.5 |r|^2.

    Attributes:
        lower: (165,) radians, the root's are -inf.
        upper: (165,) radians, the root's are +inf.
    """

    lower: Tensor
    upper: Tensor

    def residual(self, full_pose: Tensor, weight: float | Tensor = 1.0) -> Tensor:
        """Return weight times how far each component is outside.

        Args:
            full_pose: (..., 165) axis-angle of the 55 joints, radians.
            weight: Per radian; a number or anything that broadcasts to (..., 165).

        Returns:
            (..., 165), positive above the upper limit and below the lower one.

        Raises:
            ValueError: If the last axis is not 165.
        """
        self._check(full_pose)
        return weight * ((full_pose - self.upper).relu() + (self.lower - full_pose).relu())

    def residual_and_jacobian(
        self, full_pose: Tensor, weight: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the residual and the diagonal of its Jacobian, both (..., 165)."""
        residual = self.residual(full_pose, weight)
        above = (full_pose > self.upper).to(full_pose.dtype)
        below = (full_pose < self.lower).to(full_pose.dtype)
        return residual, weight * (above - below)

    def _check(self, full_pose: Tensor) -> None:
        if full_pose.shape[-1] != self.lower.shape[-1]:
            raise ValueError(
                f"full_pose must be (..., 165), got {tuple(full_pose.shape)}; "
                "flatten BodyParams.full_pose (..., 55, 3) with .flatten(-2)"
            )


@lru_cache(maxsize=8)
def joint_limits(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> JointLimits:
    """Return the limits of LIMITS_DEG."""
    limits = np.radians(np.stack(list(LIMITS_DEG.values()))).reshape(-1, 2)
    lower, upper = torch.as_tensor(limits).to(device, dtype).unbind(-1)
    return JointLimits(lower.contiguous(), upper.contiguous())
