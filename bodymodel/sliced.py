"""The body model reduced to the points that carry keypoints, with its exact Jacobian.

A point is ``sum_v w_v x_v`` over vertices, and a skinned vertex is
``x_v = sum_k W_vk (R_k (r_v - J_k) + o_k)`` with R_k, o_k the world rotation and place of joint k,
r_v the shaped and corrected rest vertex and J_k the rest joint. Exchanging the sums,

    p = sum_k [ R_k Y_k + m_k o_k ],   Y_k = sum_v w_v W_vk (r_v - J_k),   m_k = sum_v w_v W_vk,

so a point needs no vertices at all: only, for each bone that moves it (a *pair*), a mass m_k and a
moment Y_k that is linear in shape and in the pose correctives. A joint is the pair Y = 0, m = 1.
This is exact, and about two hundred times cheaper than the mesh.

Derivatives. Turning joint j by a small world rotation w moves the point by ``w x L_pj`` with the
lever ``L_pj = sum over pairs below j of (R_k Y_k + m_k (o_k - o_j))``, plus the change of the
correctives. World and axis-angle increments are related by ``w = R_parent(j) J_l(theta_j) dtheta``
with the left Jacobian J_l of SO(3).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.fit_points import FitPoints, fit_points
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.rotations import left_jacobian, rotvec_to_rotmat, skew


@dataclass(frozen=True, eq=False)
class SlicedBody:
    """One body, reduced to P points. Build it with :func:`slice_body`.

    Active joints are those that move any of the points, ordered by their depth in the tree.

    Attributes:
        points: Names of the P points.
        joint_ids: (A,) joints of the model, in the order used here.
        parents: (A,) parent of each, as a position in ``joint_ids``; the root's is 0.
        levels: First and last position of each depth of the tree.
        joints_rest: (A, 3) metres. joints_dirs: (S, A * 3), metres per unit of shape.
        pair_point: (N,), pair_bone: (N,), pair_mass: (N,).
        pair_rest: (N, 3), pair_dirs: (S, N * 3): the moments Y and how shape changes them.
        correctives: (A * 9, N * 3): how R - I of each joint changes the moments.
        block_pair, block_joint, block: (M,), (M,), (M, 3, 9): the same matrix, its non-zero
            blocks only.
        lever_point, lever_joint: (L,): the joints that move each point.
        lever_pairs: (L, K) pairs below each lever's joint, N where there are fewer.
        lever_mass: (L,) their mass.
        block_lever: (M,) the lever of each block.
        num_columns: One more than the last active joint of the model.
    """

    points: tuple[str, ...]
    joint_ids: Tensor
    parents: Tensor
    levels: tuple[tuple[int, int], ...]
    joints_rest: Tensor
    joints_dirs: Tensor
    pair_point: Tensor
    pair_bone: Tensor
    pair_mass: Tensor
    pair_rest: Tensor
    pair_dirs: Tensor
    correctives: Tensor
    block_pair: Tensor
    block_joint: Tensor
    block: Tensor
    lever_point: Tensor
    lever_joint: Tensor
    lever_pairs: Tensor
    lever_mass: Tensor
    block_lever: Tensor

    num_columns: int

    @property
    def num_shape(self) -> int:
        """S, the number of shape and expression components."""
        return self.joints_dirs.shape[0]


@dataclass(frozen=True, eq=False)
class SlicedState:
    """What the forward pass found, kept for the Jacobian.

    Attributes:
        points: (B, P, 3) metres, ``transl`` included.
        rotations: (B, A, 3, 3) world rotations, joints: (B, A, 3) places without ``transl``.
        local: (B, A, 3, 3) rotations relative to the parent, rotvecs: (B, A, 3).
        moved: (B, N, 3), R_k Y_k + m_k o_k of each pair.
    """

    points: Tensor
    rotations: Tensor
    joints: Tensor
    local: Tensor
    rotvecs: Tensor
    moved: Tensor


def slice_body(
    body: BodyData,
    points: tuple[str, ...] | None = None,
    *,
    places: FitPoints | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    corrective_tolerance: float = 0.0,
) -> SlicedBody:
    """Reduce a body to the points wanted.

    Args:
        body: A SMPL-X body.
        points: Names out of FIT_KEYPOINTS; all that have a fixed place on the body if None.
        places: Where they lie; :func:`fit_points` of the body if None.
        dtype: Of all floating point tensors.
        device: Of all tensors.
        corrective_tolerance: Corrective blocks whose largest entry is at most this (metres per
            unit of R - I) are dropped; 0 keeps the forward pass exact.

    Raises:
        ValueError: If a point is unknown or has no fixed place on the body.
    """
    places = places or fit_points(body)
    fixed = places.joint_weights.any(1) | places.vertex_weights.any(1)
    if points is None:
        points = tuple(name for name, ok in zip(FIT_KEYPOINTS, fixed, strict=True) if ok)
    for name in points:
        if name not in FIT_KEYPOINTS or not fixed[FIT_KEYPOINTS.index(name)]:
            raise ValueError(f"{name!r} is not a point with a fixed place on the body")
    rows = [FIT_KEYPOINTS.index(name) for name in points]

    num_joints = len(body.parents)
    vertex_ids = places.vertex_ids
    # float64 throughout: moments are small differences of large sums.
    template = body.v_template[vertex_ids].astype(np.float64)
    dirs = np.concatenate([body.shapedirs[vertex_ids], body.exprdirs[vertex_ids]], -1)
    dirs = dirs.astype(np.float64)
    skin = body.weights[vertex_ids].astype(np.float64)
    posedirs = body.posedirs[vertex_ids].astype(np.float64).reshape(-1, 3, num_joints - 1, 9)
    regressor = body.joint_regressor.astype(np.float64)
    joints_rest = regressor @ body.v_template.astype(np.float64)
    all_dirs = np.concatenate([body.shapedirs, body.exprdirs], -1).astype(np.float64)
    joints_dirs = np.einsum("jv,vcs->jcs", regressor, all_dirs)

    pair_point, pair_bone, mass, rest, shape, pose = [], [], [], [], [], []
    for p, row in enumerate(rows):
        by_bone = places.vertex_weights[row][:, None] * skin  # (n, J)
        for k in range(num_joints):
            vertices = np.flatnonzero(by_bone[:, k])
            w = by_bone[vertices, k]
            m = w.sum()
            joint_mass = places.joint_weights[row, k]
            if not len(vertices) and not joint_mass:
                continue
            pair_point.append(p)
            pair_bone.append(k)
            mass.append(m + joint_mass)
            rest.append(w @ template[vertices] - m * joints_rest[k])
            shape.append(np.einsum("v,vcs->cs", w, dirs[vertices]) - m * joints_dirs[k])
            pose.append(np.einsum("v,vcjf->cjf", w, posedirs[vertices]))
    corrective = np.zeros((len(mass), num_joints, 3, 9))
    corrective[:, 1:] = np.moveaxis(np.stack(pose), 2, 1)
    corrective[np.abs(corrective).max((2, 3)) <= corrective_tolerance] = 0
    is_block = corrective.any((2, 3))

    # The active joints: bones of the points, joints that correct them, and all their ancestors.
    active = np.zeros(num_joints, bool)
    active[0] = True
    active[pair_bone] = True
    active |= is_block.any(0)
    depth = np.zeros(num_joints, int)
    for j in range(1, num_joints):
        depth[j] = depth[body.parents[j]] + 1
    for j in range(num_joints - 1, 0, -1):
        active[body.parents[j]] |= active[j]
    order = sorted(np.flatnonzero(active), key=lambda j: (depth[j], j))
    position = {j: a for a, j in enumerate(order)}
    parents = [max(0, position.get(body.parents[j], 0)) if j else 0 for j in order]
    starts = [a for a, j in enumerate(order) if a == 0 or depth[j] != depth[order[a - 1]]]
    levels = tuple(zip(starts, [*starts[1:], len(order)], strict=True))

    def path(j: int) -> list[int]:
        return [j] if j == 0 else [j, *path(body.parents[j])]

    below: dict[tuple[int, int], list[int]] = {}
    for n, (p, k) in enumerate(zip(pair_point, pair_bone, strict=True)):
        for j in path(k):
            below.setdefault((p, position[j]), []).append(n)
    block_pair, block_joint_id = np.nonzero(is_block)
    for n, j in zip(block_pair, block_joint_id, strict=True):
        below.setdefault((pair_point[n], position[j]), [])
    levers = sorted(below)
    lever_of = {key: i for i, key in enumerate(levers)}
    widest = max(len(below[key]) for key in levers)
    none = len(mass)  # the zero row that is appended to the pairs
    lever_pairs = np.full((len(levers), widest), none)
    for i, key in enumerate(levers):
        lever_pairs[i, : len(below[key])] = below[key]

    def real(x) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(x), dtype=dtype, device=device)

    def whole(x) -> Tensor:
        return torch.as_tensor(np.asarray(x, dtype=np.int64), device=device)

    rest, shape = np.stack(rest), np.stack(shape)
    active_corrective = corrective[:, order]  # (N, A, 3, 9)
    num_shape = shape.shape[-1]
    return SlicedBody(
        points=tuple(points),
        joint_ids=whole(order),
        parents=whole(parents),
        levels=levels,
        joints_rest=real(joints_rest[order]),
        joints_dirs=real(np.moveaxis(joints_dirs[order], -1, 0).reshape(num_shape, -1)),
        pair_point=whole(pair_point),
        pair_bone=whole([position[k] for k in pair_bone]),
        pair_mass=real(mass),
        pair_rest=real(rest),
        pair_dirs=real(np.moveaxis(shape, -1, 0).reshape(num_shape, -1)),
        correctives=real(
            active_corrective.transpose(1, 3, 0, 2).reshape(len(order) * 9, len(mass) * 3)
        ),
        block_pair=whole(block_pair),
        block_joint=whole([position[j] for j in block_joint_id]),
        block=real(corrective[block_pair, block_joint_id]),
        lever_point=whole([p for p, _ in levers]),
        lever_joint=whole([j for _, j in levers]),
        lever_pairs=whole(lever_pairs),
        lever_mass=real([sum(mass[n] for n in below[key]) for key in levers]),
        num_columns=int(max(order)) + 1,
        block_lever=whole(
            [
                lever_of[pair_point[n], position[j]]
                for n, j in zip(block_pair, block_joint_id, strict=True)
            ]
        ),
    )


def sliced_forward(
    sliced: SlicedBody, full_pose: Tensor, shape: Tensor, transl: Tensor
) -> SlicedState:
    """Place the points. Differentiable.

    Args:
        sliced: The reduced body.
        full_pose: (B, 55, 3) axis-angle of all joints of the model, SMPL-X order, hand means
            included.
        shape: (B, S) betas and expression, one after the other.
        transl: (B, 3) metres.
    """
    rotvecs = full_pose[:, sliced.joint_ids]
    return _place(sliced, rotvecs, rotvec_to_rotmat(rotvecs), shape, transl)


def sliced_points(sliced: SlicedBody, rotmats: Tensor, shape: Tensor, transl: Tensor) -> Tensor:
    """Place the points from rotation matrices. Differentiable.

    Args:
        sliced: The reduced body.
        rotmats: (B, 55, 3, 3) of all joints of the model, each relative to its parent.
        shape: (B, S) betas and expression, one after the other.
        transl: (B, 3) metres.

    Returns:
        (B, P, 3) metres.
    """
    local = rotmats[:, sliced.joint_ids]
    return _place(sliced, local[..., 0], local, shape, transl).points


def _place(
    sliced: SlicedBody, rotvecs: Tensor, local: Tensor, shape: Tensor, transl: Tensor
) -> SlicedState:
    batch = local.shape[0]
    rest = sliced.joints_rest + (shape @ sliced.joints_dirs).view(batch, -1, 3)
    bones = rest - rest[:, sliced.parents]
    rotations, joints = [local[:, :1]], [rest[:, :1]]
    for first, last in sliced.levels[1:]:
        parent = sliced.parents[first:last]
        above = torch.cat(rotations, 1)[:, parent]
        places = torch.cat(joints, 1)[:, parent]
        rotations.append(above @ local[:, first:last])
        joints.append(places + (above @ bones[:, first:last, :, None])[..., 0])
    rotation, joint = torch.cat(rotations, 1), torch.cat(joints, 1)

    eye = torch.eye(3, dtype=local.dtype, device=local.device)
    feature = (local - eye).reshape(batch, -1)
    moment = shape @ sliced.pair_dirs + feature @ sliced.correctives
    moment = sliced.pair_rest + moment.view(batch, -1, 3)
    moved = (rotation[:, sliced.pair_bone] @ moment[..., None])[..., 0]
    moved = moved + sliced.pair_mass[:, None] * joint[:, sliced.pair_bone]
    points = transl[:, None].expand(-1, len(sliced.points), -1)
    points = points.index_add(1, sliced.pair_point, moved)
    return SlicedState(points, rotation, joint, local, rotvecs, moved)


def sliced_jacobian(
    sliced: SlicedBody, state: SlicedState, rows: Tensor, *, root_on_manifold: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate ``rows @ points`` analytically. Not itself differentiable.

    Args:
        sliced: The reduced body.
        state: Of :func:`sliced_forward`.
        rows: (B, P, R, 3), the R directions in which each point is looked at: the projection's
            derivative for pixels, the identity for the points themselves.
        root_on_manifold: If true the root's columns are for a small rotation applied on the left,
            ``exp(d) R``; else for its axis-angle.

    Returns:
        pose: (B, P R, C, 3) by axis-angle of the model's first C joints, C =
            ``sliced.num_columns``; zero for joints that move none of the points.
        shape: (B, P R, S).
        transl: (B, P R, 3).
    """
    batch, num_points, num_rows, _ = rows.shape
    rotations, joints = state.rotations, state.joints
    num_active = joints.shape[1]

    # increments of axis-angle -> world rotation, per joint
    tangent = left_jacobian(state.rotvecs)
    to_world = rotations[:, sliced.parents] @ tangent
    to_world[:, 0] = (
        torch.eye(3, dtype=rows.dtype, device=rows.device) if root_on_manifold else tangent[:, 0]
    )

    moved = torch.cat([state.moved, state.moved.new_zeros(batch, 1, 3)], 1)
    lever = moved[:, sliced.lever_pairs].sum(2)
    lever = lever - sliced.lever_mass[:, None] * joints[:, sliced.lever_joint]
    seen = rows[:, sliced.lever_point]
    turned = torch.linalg.cross(lever[:, :, None], seen)  # g . (w x L) = w . (L x g)
    columns = turned @ to_world[:, sliced.lever_joint]

    if len(sliced.block_pair):
        # d vec(R_local) = vec([J_l dtheta]x R_local), row by row as in the files
        change = skew(tangent.mT) @ state.local[:, :, None]  # (B, A, 3 columns, 3, 3)
        change = change.reshape(batch, num_active, 3, 9).mT
        looked = rows[:, sliced.pair_point] @ rotations[:, sliced.pair_bone]
        corrected = looked[:, sliced.block_pair] @ sliced.block @ change[:, sliced.block_joint]
        columns = columns.index_add(1, sliced.block_lever, corrected)

    num_columns = sliced.num_columns
    pose = rows.new_zeros(batch, num_points * num_rows * num_columns, 3)
    row_ids = torch.arange(num_rows, device=rows.device)
    where = (sliced.lever_point[:, None] * num_rows + row_ids) * num_columns
    where = where + sliced.joint_ids[sliced.lever_joint, None]
    pose = pose.index_copy_(1, where.flatten(), columns.reshape(batch, -1, 3))
    pose = pose.view(batch, num_points * num_rows, num_columns, 3)

    # shape: moments turn with their bones, and the joints move down the tree
    num_shape = sliced.num_shape
    dirs = sliced.joints_dirs.view(num_shape, num_active, 3).permute(1, 2, 0)  # (A, 3, S)
    bone_dirs = dirs - dirs[sliced.parents]
    placed = [dirs[:1].expand(batch, -1, -1, -1)]
    for first, last in sliced.levels[1:]:
        parent = sliced.parents[first:last]
        above = torch.cat(placed, 1)[:, parent]
        placed.append(above + rotations[:, parent] @ bone_dirs[first:last])
    joint_dirs = torch.cat(placed, 1)
    pair_dirs = sliced.pair_dirs.view(num_shape, -1, 3).permute(1, 2, 0)  # (N, 3, S)
    moved_dirs = rotations[:, sliced.pair_bone] @ pair_dirs
    moved_dirs = moved_dirs + sliced.pair_mass[:, None, None] * joint_dirs[:, sliced.pair_bone]
    point_dirs = rows.new_zeros(batch, num_points, 3, num_shape)
    point_dirs = point_dirs.index_add_(1, sliced.pair_point, moved_dirs)
    shape = (rows @ point_dirs).reshape(batch, -1, num_shape)
    return pose, shape, rows.reshape(batch, -1, 3)
