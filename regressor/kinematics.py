"""Rotations down the tree, mirroring, and points of the body from rotation matrices."""

import torch
from torch import Tensor, nn

from bodymodel.body import BodyData
from bodymodel.lbs import tree_levels
from bodymodel.sliced import slice_body, sliced_points
from bodymodel.spec import BODY_JOINTS, mirror_name

ROTATIONS: tuple[str, ...] = (
    "global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose",
    "left_hand_pose", "right_hand_pose",
)  # fmt: skip
"""Names of rotations in the order of SMPL-X's joints."""


def all_rotations(params: dict[str, Tensor]) -> Tensor:
    """Names -> (B, 55, 3, 3); what is absent is at rest."""
    counts = {"body_pose": 21, "left_hand_pose": 15, "right_hand_pose": 15}
    like = next(iter(params.values()))
    eye = torch.eye(3, dtype=like.dtype, device=like.device)
    parts = [
        params.get(name, eye.expand(like.shape[0], counts.get(name, 1), 3, 3)) for name in ROTATIONS
    ]
    return torch.cat(parts, 1)


def absolute_rotations(rotmats: Tensor, parents: tuple[int, ...]) -> Tensor:
    """(..., J, 3, 3) relative to the parents -> (..., J, 3, 3) from rest to posed."""
    levels = [rotmats[..., :1, :, :]]
    order = [0]
    for joints, above in tree_levels(parents):
        levels.append(levels[-1][..., above, :, :] @ rotmats[..., joints, :, :])
        order += joints
    back = sorted(range(len(parents)), key=order.__getitem__)
    return torch.cat(levels, -3)[..., back, :, :]


def mirror_rotations(rotmats: Tensor) -> Tensor:
    """Return the rotations of the mirror image: M R M with M = diag(-1, 1, 1)."""
    sign = rotmats.new_tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    return rotmats * sign


BODY_MIRROR: tuple[int, ...] = tuple(
    BODY_JOINTS.index(mirror_name(name)) - 1 for name in BODY_JOINTS[1:]
)
"""Which joint of body_pose each becomes in the mirror."""


class BodyPoints(nn.Module):
    """SMPL-X's keypoints from rotation matrices, without a mesh. The jaw line has no fixed place.

    Args:
        body: A SMPL-X body.
        names: The points wanted; all that have a fixed place if None.
    """

    def __init__(self, body: BodyData, names: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self._sliced = slice_body(body, names)
        self.names = self._sliced.points
        self.num_betas = body.num_betas
        self.num_expression = body.num_expression
        self.parents = body.parents

    def _apply(self, fn, recurse=True):  # the sliced body goes where the module goes
        from dataclasses import fields, replace

        moved = {
            f.name: fn(value)
            for f in fields(self._sliced)
            if isinstance(value := getattr(self._sliced, f.name), Tensor)
        }
        self._sliced = replace(self._sliced, **moved)
        return super()._apply(fn, recurse)

    def forward(self, rotmats: Tensor, betas: Tensor, expression: Tensor | None = None) -> Tensor:
        """(B, 55, 3, 3), (B, <= betas), (B, <= expressions) -> (B, P, 3) metres, pelvis at 0."""
        shape = betas.new_zeros(betas.shape[0], self.num_betas + self.num_expression)
        count = min(betas.shape[-1], self.num_betas)
        shape[:, :count] = betas[:, :count]
        if expression is not None:
            count = min(expression.shape[-1], self.num_expression)
            shape[:, self.num_betas : self.num_betas + count] = expression[:, :count]
        points = sliced_points(self._sliced, rotmats, shape, betas.new_zeros(betas.shape[0], 3))
        return points - points[:, self.names.index("pelvis"), None]
