"""What rows hold of a fit's uncertainty: how covariances are packed and summed up. Torch-free."""

from dataclasses import dataclass

import numpy as np

from bodymodel.spec import BODY_JOINTS

__all__ = ["JOINT_GROUPS", "UncertaintyConfig", "joint_std_mm", "pack_mm2", "unpack_mm2"]

JOINT_GROUPS: dict[str, tuple[str, ...]] = {
    "place": ("pelvis",),
    "trunk": tuple(
        n for n in BODY_JOINTS if n in ("neck", "head") or n.startswith("spine") or "collar" in n
    ),
    "arms": tuple(n for n in BODY_JOINTS if any(w in n for w in ("shoulder", "elbow", "wrist"))),
    "legs": tuple(n for n in BODY_JOINTS if any(w in n for w in ("hip", "knee", "ankle", "foot"))),
}
"""Joints that are summed up together; "place" is where the body stands, the others are relative."""

_ENTRIES = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


@dataclass(frozen=True)
class UncertaintyConfig:
    """What the covariance is calibrated by. Variances are in units of the energy."""

    data_variance: float = 7.0
    """Usual mean square of the weighted residuals in the image."""
    data_strength: float = 20.0
    """How many points the usual value counts as, beside those of the person."""
    data_factor: float = 1.0
    """Of the measured variance: points err together, and residuals are smaller than errors."""
    prior_variance: float = 50.0
    """Square of sigma_p; the pose prior's weight, 22.8, if people were drawn from it."""
    shape_variance: float = 40.0
    """The same of the betas alone: their weight, if shapes are as the body's file says."""
    joint_mm: float = 12.5
    """Error on each axis of any joint beside the pelvis that nothing above foresees: hips and spine
    are so near it that little else is left to them, and err by more."""
    rival_temperature: float = 200.0
    """A loser by the energy e has the odds exp(-e / this) against the winner."""


def pack_mm2(covariance_m2: np.ndarray) -> np.ndarray:
    """(..., 3, 3) square metres -> (..., 6) float32 square millimetres: xx xy xz yy yz zz."""
    return np.stack([1e6 * covariance_m2[..., i, j] for i, j in _ENTRIES], -1).astype(np.float32)


def unpack_mm2(packed: np.ndarray) -> np.ndarray:
    """(..., 6) -> (..., 3, 3) float64, in the units that it came in; undoes pack_mm2."""
    packed = np.asarray(packed, np.float64)
    out = np.empty((*packed.shape[:-1], 3, 3))
    for k, (i, j) in enumerate(_ENTRIES):
        out[..., i, j] = out[..., j, i] = packed[..., k]
    return out


def joint_std_mm(packed: np.ndarray) -> dict[str, float]:
    """Sum up one person's covariances.

    Args:
        packed: (22, 6) square millimetres, of BODY_JOINTS.

    Returns:
        By JOINT_GROUPS: the root mean square distance, mm, that joints of the group are expected
        to be off.
    """
    square = np.asarray(packed, np.float64)[:, [0, 3, 5]].sum(1)
    index = {name: k for k, name in enumerate(BODY_JOINTS)}
    return {
        group: float(np.sqrt(square[[index[name] for name in names]].mean()))
        for group, names in JOINT_GROUPS.items()
    }
