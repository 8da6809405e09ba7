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
from bodymodel.rotations import (
    left_jacobian,
    rotmat_and_left_jacobian,
    rotvec_to_rotmat,
    skew,
)


@dataclass(frozen=True, eq=False)
class SlicedBody:
    """One body, reduced to P points. Build it with :func:`slice_body`.

    Active joints are those that move any of the points, ordered by their depth in the tree.

    Attributes:
        points: Names of the P points.
        joint_ids: (A,) joints of the model, in the order used here.
        parents: (A,) parent of each, as a position in ``joint_ids``; the root's is 0.
        jumps: For the distances 1, 2, 4... up the tree: the first joint that has an ancestor so far
            up (all after it have), and those ancestors.
        paths: (A, A - 1) 1 where a joint other than the root is on the way to a joint, itself
            included.
        bones_rest: (A, 3) metres from the parent's place, the root's from the origin. bones_dirs:
            (S, A * 3), metres per unit of shape.
        pair_point: (N,), pair_bone: (N,), pair_mass: (N,).
        point_sum: (P, N) 1 where a pair is of a point.
        pair_rest: (N, 3), pair_dirs: (S, N * 3): the moments Y and how shape changes them.
        corrected_pairs, correcting_joints: (Nc,), (Jc,) the pairs and joints that any pose
            corrective concerns.
        correctives: (Jc * 9, Nc * 3): how R - I of those joints changes the moments of those pairs.
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
    jumps: tuple[tuple[int, Tensor], ...]
    paths: Tensor
    bones_rest: Tensor
    bones_dirs: Tensor
    pair_point: Tensor
    pair_bone: Tensor
    pair_mass: Tensor
    point_sum: Tensor
    pair_rest: Tensor
    pair_dirs: Tensor
    corrected_pairs: Tensor
    correcting_joints: Tensor
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
        return self.bones_dirs.shape[0]


@dataclass(frozen=True, eq=False)
class SlicedState:
    """What the forward pass found, kept for the Jacobian.

    Attributes:
        points: (B, P, 3) metres, ``transl`` included.
        rotations: (B, A, 3, 3) world rotations, joints: (B, A, 3) places without ``transl``.
        local: (B, A, 3, 3) rotations relative to the parent.
        tangents: (B, A, 3, 3) left Jacobians of the axis-angles.
        moved: (B, N, 3), R_k Y_k + m_k o_k of each pair.
    """

    points: Tensor
    rotations: Tensor
    joints: Tensor
    local: Tensor
    tangents: Tensor
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

    def path(j: int) -> list[int]:
        return [j] if j == 0 else [j, *path(body.parents[j])]

    jumps = []
    for distance in (2**k for k in range(8)):
        far = [a for a, j in enumerate(order) if depth[j] >= distance]
        if far:  # deeper joints come later, so these are all from the first on
            jumps.append((far[0], [position[path(order[a])[distance]] for a in far]))
    on_path = np.zeros((len(order), len(order)))
    for a, j in enumerate(order):
        on_path[a, [position[k] for k in path(j)]] = 1

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
    corrected_pairs = np.flatnonzero(is_block.any(1))
    correcting = [a for a, j in enumerate(order) if is_block[:, j].any()]
    grid = corrective[corrected_pairs][:, [order[a] for a in correcting]]  # (Nc, Jc, 3, 9)
    grid = grid.transpose(1, 3, 0, 2).reshape(len(correcting) * 9, len(corrected_pairs) * 3)
    bones_rest, bones_dirs = joints_rest[order], joints_dirs[order]
    bones_rest[1:] -= joints_rest[order][parents[1:]]
    bones_dirs[1:] -= joints_dirs[order][parents[1:]]
    num_shape = shape.shape[-1]
    return SlicedBody(
        points=tuple(points),
        joint_ids=whole(order),
        parents=whole(parents),
        jumps=tuple((first, whole(ancestors)) for first, ancestors in jumps),
        paths=real(on_path[:, 1:]),
        bones_rest=real(bones_rest),
        bones_dirs=real(np.moveaxis(bones_dirs, -1, 0).reshape(num_shape, -1)),
        pair_point=whole(pair_point),
        pair_bone=whole([position[k] for k in pair_bone]),
        pair_mass=real(mass),
        point_sum=real(np.arange(len(rows))[:, None] == np.array(pair_point)),
        pair_rest=real(rest),
        pair_dirs=real(np.moveaxis(shape, -1, 0).reshape(num_shape, -1)),
        corrected_pairs=whole(corrected_pairs),
        correcting_joints=whole(correcting),
        correctives=real(grid),
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
    batch = full_pose.shape[0]
    rotvecs = full_pose[:, sliced.joint_ids]
    if rotvecs.requires_grad:
        local, tangents = rotvec_to_rotmat(rotvecs), left_jacobian(rotvecs)
    else:
        local, tangents = rotmat_and_left_jacobian(rotvecs)
    # Each round multiplies what two neighbouring stretches of a chain have come to, so that the
    # number of rounds is the logarithm of the tree's depth.
    rotation = local
    for first, ancestors in sliced.jumps:
        longer = rotation[:, ancestors] @ rotation[:, first:]
        rotation = torch.cat([rotation[:, :first], longer], 1)
    bones = sliced.bones_rest + (shape @ sliced.bones_dirs).view(batch, -1, 3)
    turned = (rotation[:, sliced.parents[1:]] @ bones[:, 1:, :, None])[..., 0]
    joint = bones[:, :1] + torch.bmm(sliced.paths.expand(batch, -1, -1), turned)

    moment = sliced.pair_rest + (shape @ sliced.pair_dirs).view(batch, -1, 3)
    if len(sliced.corrected_pairs):
        eye = torch.eye(3, dtype=local.dtype, device=local.device)
        feature = (local[:, sliced.correcting_joints] - eye).reshape(batch, -1)
        change = (feature @ sliced.correctives).view(batch, -1, 3)
        moment = moment.index_add(1, sliced.corrected_pairs, change)
    moved = (rotation[:, sliced.pair_bone] @ moment[..., None])[..., 0]
    moved = moved + sliced.pair_mass[:, None] * joint[:, sliced.pair_bone]
    points = transl[:, None] + torch.bmm(sliced.point_sum.expand(batch, -1, -1), moved)
    return SlicedState(points, rotation, joint, local, tangents, moved)


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
    tangent = state.tangents
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
    bone_dirs = sliced.bones_dirs.view(num_shape, num_active, 3).permute(1, 2, 0)  # (A, 3, S)
    turned_dirs = (rotations[:, sliced.parents[1:]] @ bone_dirs[1:]).flatten(2)
    joint_dirs = torch.bmm(sliced.paths.expand(batch, -1, -1), turned_dirs)
    joint_dirs = bone_dirs[:1] + joint_dirs.view(batch, num_active, 3, num_shape)
    pair_dirs = sliced.pair_dirs.view(num_shape, -1, 3).permute(1, 2, 0)  # (N, 3, S)
    moved_dirs = rotations[:, sliced.pair_bone] @ pair_dirs
    moved_dirs = moved_dirs + sliced.pair_mass[:, None, None] * joint_dirs[:, sliced.pair_bone]
    point_dirs = rows.new_zeros(batch, num_points, 3, num_shape)
    point_dirs = point_dirs.index_add_(1, sliced.pair_point, moved_dirs)
    shape = (rows @ point_dirs).reshape(batch, -1, num_shape)
    return pose, shape, rows.reshape(batch, -1, 3)
