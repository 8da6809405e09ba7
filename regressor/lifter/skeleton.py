"""The body's 22 joints from rotations and shape, differentiable and without a mesh."""

import numpy as np
import torch
from torch import Tensor, nn

from bodymodel.body import BodyData
from bodymodel.lbs import joint_transforms, tree_levels
from regressor.lifter.network import NUM_BODY_ROTATIONS


class Skeleton(nn.Module):
    """Rest joints, linear in betas, and forward kinematics.

    Args:
        body: A SMPL-X body.
        num_betas: Leading shape components in use.
    """

    def __init__(self, body: BodyData, num_betas: int) -> None:
        super().__init__()
        regressor = body.joint_regressor[:NUM_BODY_ROTATIONS].astype(np.float64)
        rest = regressor @ body.v_template
        dirs = np.einsum("jv,vcb->jcb", regressor, body.shapedirs[..., :num_betas])
        self.register_buffer("rest", torch.as_tensor(rest).float(), persistent=False)
        self.register_buffer("dirs", torch.as_tensor(dirs).float(), persistent=False)
        parents = body.parents[:NUM_BODY_ROTATIONS]
        levels = tree_levels(parents)
        by_level = [0] + [joint for joints, _ in levels for joint in joints]
        order = sorted(range(NUM_BODY_ROTATIONS), key=by_level.__getitem__)
        self.register_buffer("_order", torch.tensor(order), persistent=False)
        parents = [max(p, 0) for p in parents]
        self.register_buffer("_parents", torch.tensor(parents), persistent=False)
        self._num_levels = len(levels)
        for k, (joints, above) in enumerate(levels):
            self.register_buffer(f"_joints{k}", torch.tensor(joints), persistent=False)
            self.register_buffer(f"_above{k}", torch.tensor(above), persistent=False)

    def rest_joints(self, betas: Tensor) -> Tensor:
        """(..., num_betas) -> (..., 22, 3) metres, T-pose."""
        return self.rest + (self.dirs @ betas[..., None, :, None])[..., 0]

    def forward(self, rotations: Tensor, betas: Tensor) -> Tensor:
        """(..., 22, 3, 3), (..., num_betas) -> (..., 22, 3) joints, the pelvis at the origin."""
        levels = [
            (getattr(self, f"_joints{k}"), getattr(self, f"_above{k}"))
            for k in range(self._num_levels)
        ]
        rest = self.rest_joints(betas)
        _, joints = joint_transforms(rotations, rest, self._parents, levels, self._order)
        return joints - rest[..., :1, :]
