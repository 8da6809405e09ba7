"""The parameters of SMPL-X bodies, named as in the field."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class BodyParams:
    """SMPL-X parameters with any leading batch dimensions.

    Rotations are axis-angle in radians, each relative to the parent joint. Hand poses are whole
    rotations: the mean pose is in them (what ``smplx`` calls ``flat_hand_mean=True`` without PCA).

    Attributes:
        global_orient: (..., 3), model to camera (or world).
        body_pose: (..., 21, 3).
        jaw_pose: (..., 3).
        leye_pose: (..., 3).
        reye_pose: (..., 3).
        left_hand_pose: (..., 15, 3).
        right_hand_pose: (..., 15, 3).
        betas: (..., B), standard units.
        expression: (..., E).
        transl: (..., 3), metres, added after posing.
    """

    global_orient: Tensor
    body_pose: Tensor
    jaw_pose: Tensor
    leye_pose: Tensor
    reye_pose: Tensor
    left_hand_pose: Tensor
    right_hand_pose: Tensor
    betas: Tensor
    expression: Tensor
    transl: Tensor

    @classmethod
    def zeros(
        cls,
        *batch: int,
        num_betas: int = 10,
        num_expression: int = 10,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "BodyParams":
        """Return the T-pose with flat hands and the mean shape, ``batch`` times."""
        shapes = {
            "global_orient": (3,), "body_pose": (21, 3), "jaw_pose": (3,), "leye_pose": (3,),
            "reye_pose": (3,), "left_hand_pose": (15, 3), "right_hand_pose": (15, 3),
            "betas": (num_betas,), "expression": (num_expression,), "transl": (3,),
        }  # fmt: skip
        return cls(
            **{k: torch.zeros(*batch, *s, dtype=dtype, device=device) for k, s in shapes.items()}
        )

    @property
    def full_pose(self) -> Tensor:
        """(..., 55, 3): root, 21 body, jaw, left eye, right eye, 15 left hand, 15 right hand."""
        return torch.cat(
            [
                self.global_orient[..., None, :],
                self.body_pose,
                self.jaw_pose[..., None, :],
                self.leye_pose[..., None, :],
                self.reye_pose[..., None, :],
                self.left_hand_pose,
                self.right_hand_pose,
            ],
            dim=-2,
        )

    def with_full_pose(self, full_pose: Tensor) -> "BodyParams":
        """Return a copy whose rotations are those of ``full_pose``, (..., 55, 3)."""
        if full_pose.shape[-2:] != (55, 3):
            raise ValueError(f"full_pose must be (..., 55, 3), got {tuple(full_pose.shape)}")
        return replace(
            self,
            global_orient=full_pose[..., 0, :],
            body_pose=full_pose[..., 1:22, :],
            jaw_pose=full_pose[..., 22, :],
            leye_pose=full_pose[..., 23, :],
            reye_pose=full_pose[..., 24, :],
            left_hand_pose=full_pose[..., 25:40, :],
            right_hand_pose=full_pose[..., 40:55, :],
        )

    def map(self, function) -> "BodyParams":
        """Apply a function to every tensor: ``params.map(lambda x: x.double())``."""
        return BodyParams(**{f.name: function(getattr(self, f.name)) for f in fields(self)})

    def numpy(self) -> dict[str, np.ndarray]:
        """Return the tensors as a dict of arrays on the CPU."""
        return {f.name: getattr(self, f.name).detach().cpu().numpy() for f in fields(self)}
