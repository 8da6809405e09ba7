"""Linear blend skinning as pure functions on tensors with any leading batch dimensions.

The model is that of Loper et al. 2015 (SMPL): a template, moved by linear shape and pose
corrections, then carried by the joints' rigid motions in fixed proportions.
"""

import math

import torch
from torch import Tensor


def tree_levels(parents: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Group the joints by their distance to the root, so that a level is one batched product.

    Args:
        parents: Parent of each joint, -1 for the one root.

    Returns:
        For each level below the root, the joints in it and the place of each one's parent in the
        level above.

    Raises:
        ValueError: If a joint comes before its parent, or there is not exactly one root.
    """
    if parents[0] != -1 or any(not 0 <= p < j for j, p in enumerate(parents) if j):
        raise ValueError(
            f"parents must start with the root (-1) and come before their children, got {parents}"
        )
    levels: list[tuple[list[int], list[int]]] = []
    above = [0]
    while True:
        here = [j for j, p in enumerate(parents) if p in above]
        if not here:
            return levels
        levels.append((here, [above.index(parents[j]) for j in here]))
        above = here


def joint_transforms(
    rotmats: Tensor,
    rest_joints: Tensor,
    parents: Tensor,
    levels: list[tuple[Tensor, Tensor]],
    order: Tensor,
) -> tuple[Tensor, Tensor]:
    """Chain the joints' rotations from the root outwards.

    Args:
        rotmats: (..., J, 3, 3), each relative to the parent.
        rest_joints: (..., J, 3) metres, in the rest pose.
        parents: (J,) int64; the root's entry is not used but must be a valid index.
        levels: ``tree_levels`` as index tensors.
        order: (J,) int64, where joint j stands among the joints listed level by level.

    Returns:
        (..., J, 3, 3) rotations from rest to posed in the model's frame, and (..., J, 3) posed
        joints in metres.
    """
    offsets = rest_joints - rest_joints.index_select(-2, parents)
    rotation, position = rotmats[..., :1, :, :], rest_joints[..., :1, :]
    rotations, positions = [rotation], [position]
    for joints, above in levels:
        parent_rotation = rotation.index_select(-3, above)
        offset = offsets.index_select(-2, joints)
        position = position.index_select(-2, above) + _rotate(parent_rotation, offset)
        rotation = parent_rotation @ rotmats.index_select(-3, joints)
        rotations.append(rotation)
        positions.append(position)
    batch = torch.broadcast_shapes(rotmats.shape[:-3], rest_joints.shape[:-2])
    return (
        torch.cat(rotations, dim=-3).index_select(-3, order),
        torch.cat([p.expand(*batch, -1, 3) for p in positions], dim=-2).index_select(-2, order),
    )


def _rotate(rotmat: Tensor, points: Tensor) -> Tensor:
    return (rotmat * points[..., None, :]).sum(-1)


def pose_feature(rotmats: Tensor) -> Tensor:
    """Return what pose corrections are linear in: R - I of all joints but the root, row by row.

    Args:
        rotmats: (..., J, 3, 3).

    Returns:
        (..., 9 (J - 1)).
    """
    identity = torch.eye(3, dtype=rotmats.dtype, device=rotmats.device)
    return (rotmats[..., 1:, :, :] - identity).flatten(-3)


def skin(
    vertices: Tensor, weights: Tensor, rotations: Tensor, joints: Tensor, rest_joints: Tensor
) -> Tensor:
    """Carry rest-pose vertices by the joints' motions, v' = sum_j w_j (R_j (v - r_j) + p_j).

    Vertices are stored coordinate by coordinate: this step is bound by memory, and long rows make
    it several times faster than triples.

    Args:
        vertices: (..., 3, V) metres, rest pose with corrections.
        weights: (J, V), columns sum to 1.
        rotations: (..., J, 3, 3) from ``joint_transforms``.
        joints: (..., J, 3) posed joints p.
        rest_joints: (..., J, 3) rest joints r.

    Returns:
        (..., 3, V) metres.
    """
    translations = joints - _rotate(rotations, rest_joints)
    columns = rotations.mT.flatten(-2).expand(*translations.shape[:-1], 9)
    rigid = torch.cat((columns, translations), dim=-1)  # (..., J, 12)
    blended = (rigid.mT @ weights).unflatten(-2, (4, 3))  # (..., 4, 3, V)
    moved = blended[..., 3, :, :]
    for axis in range(3):
        moved = torch.addcmul(moved, blended[..., axis, :, :], vertices[..., axis : axis + 1, :])
    return moved


def surface_points(vertices: Tensor, corners: Tensor, bary: Tensor) -> Tensor:
    """Interpolate points on the surface.

    Args:
        vertices: (..., V, 3).
        corners: (L, 3) int64 vertex ids of the triangle that each point lies on.
        bary: (L, 3) barycentric coordinates.

    Returns:
        (..., L, 3).
    """
    triangles = vertices.index_select(-2, corners.flatten()).unflatten(-2, (-1, 3))
    return (triangles * bary[..., None]).sum(-2)


def contour_row(neck_rotation: Tensor) -> Tensor:
    """Return which row of the jaw line's table belongs to a head turned so.

    The jaw line seen in a photo depends on the view: the table lists its points for every degree
    of yaw to 39, rows 0..39 for 0 to +39 and 40..78 for -1 to -39, larger yaws use the last. Yaw
    is minus the angle about the vertical axis of the whole chain from the model's frame to the
    neck, ``global_orient`` included, as the published loader takes it. Not differentiable.

    Args:
        neck_rotation: (..., 3, 3) from ``joint_transforms``.

    Returns:
        (...) int64.
    """
    r = neck_rotation.detach()
    sine, cosine = -r[..., 2, 0], torch.hypot(r[..., 0, 0], r[..., 1, 0])
    degrees = torch.atan2(-sine, cosine).nan_to_num() * (180 / math.pi)
    yaw = degrees.round().clamp(-39, 39).to(torch.int64)
    return torch.where(yaw < 0, 39 - yaw, yaw)
