"""Single vertices of posed bodies and how they move with every parameter, without the mesh.

With the notation of ``bodymodel.sliced``: a vertex is ``x = sum_k W_k x_k + transl``,
``x_k = R_k (r - J_k) + o_k``. Turning joint j by a small world rotation w moves it by ``w x L_j``,
``L_j = sum over k at or below j of W_k (x_k - o_j)``, plus the change of the pose correctives.
Where ``bodymodel.sliced`` prepares a few points once, this takes other vertices for every person.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bodymodel import lbs
from bodymodel.body import BodyData
from bodymodel.rotations import left_jacobian, rotvec_to_rotmat, skew

__all__ = ["Skin", "VertexState", "make_skin", "place_vertices", "vertex_jacobian"]


@dataclass(frozen=True, eq=False)
class Skin:
    """The arrays of a body, vertex by vertex.

    Attributes:
        template: (V, 3), dirs: (V, 3, S), posedirs: (V, 3, 9 (J - 1)), weights: (V, J).
        joints: (J, 3), joints_dirs: (J, 3, S).
        parents: (J,); the root's is 0. levels and order as lbs.joint_transforms wants them.
        below: (J, J), 1 where the second joint is the first or below it.
    """

    template: Tensor
    dirs: Tensor
    posedirs: Tensor
    weights: Tensor
    joints: Tensor
    joints_dirs: Tensor
    parents: Tensor
    levels: list[tuple[Tensor, Tensor]]
    order: Tensor
    below: Tensor


@dataclass(frozen=True, eq=False)
class VertexState:
    """What :func:`place_vertices` found, kept for the derivatives.

    Attributes:
        points: (B, N, 3) metres, ``transl`` included.
        vertex: (B, N).
        rotvecs: (B, J, 3), local: (B, J, 3, 3), rotations: (B, J, 3, 3) of the world.
        joints: (B, J, 3) posed, without ``transl``.
        carried: (B, N, J, 3), W_k x_k.
    """

    points: Tensor
    vertex: Tensor
    rotvecs: Tensor
    local: Tensor
    rotations: Tensor
    joints: Tensor
    carried: Tensor


def make_skin(
    body: BodyData, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Skin:
    """Return the arrays of a body as tensors; shape components are betas, then expression."""

    def real(array) -> Tensor:
        return torch.as_tensor(array).to(device=device, dtype=dtype)

    def whole(values) -> Tensor:
        return torch.as_tensor(values, dtype=torch.int64, device=device)

    dirs = torch.cat([real(body.shapedirs), real(body.exprdirs)], 2)
    regressor, template = real(body.joint_regressor), real(body.v_template)
    levels = lbs.tree_levels(body.parents)
    by_level = [0] + [joint for joints, _ in levels for joint in joints]
    count = len(body.parents)
    below = torch.eye(count)
    for joint in range(count - 1, 0, -1):
        below[body.parents[joint]] += below[joint]
    return Skin(
        template=template,
        dirs=dirs,
        posedirs=real(body.posedirs),
        weights=real(body.weights),
        joints=regressor @ template,
        joints_dirs=torch.einsum("jv,vcs->jcs", regressor, dirs),
        parents=whole([max(parent, 0) for parent in body.parents]),
        levels=[(whole(joints), whole(above)) for joints, above in levels],
        order=whole(sorted(range(count), key=by_level.__getitem__)),
        below=real(below),
    )


def place_vertices(
    skin: Skin, full_pose: Tensor, shape: Tensor, transl: Tensor, vertex: Tensor
) -> VertexState:
    """Place some vertices of each body.

    Args:
        skin: Of the body.
        full_pose: (B, J, 3) axis-angle.
        shape: (B, S) betas and expression.
        transl: (B, 3) metres.
        vertex: (B, N) int64, other ones for each body.
    """
    local = rotvec_to_rotmat(full_pose)
    rest_joints = skin.joints + torch.einsum("jcs,bs->bjc", skin.joints_dirs, shape)
    rotations, joints = lbs.joint_transforms(
        local, rest_joints, skin.parents, skin.levels, skin.order
    )
    rest = skin.template[vertex] + (skin.dirs[vertex] @ shape[:, None, :, None])[..., 0]
    feature = lbs.pose_feature(local)
    rest = rest + (skin.posedirs[vertex] @ feature[:, None, :, None])[..., 0]
    offset = joints - (rotations @ rest_joints[..., None])[..., 0]
    turned = torch.einsum("bjcd,bnd->bnjc", rotations, rest)
    carried = skin.weights[vertex][..., None] * (turned + offset[:, None])
    points = carried.sum(2) + transl[:, None]
    return VertexState(points, vertex, full_pose, local, rotations, joints, carried)


def vertex_jacobian(
    skin: Skin, state: VertexState, rows: Tensor, *, root_on_manifold: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate ``(rows * points).sum(-1)`` analytically. Not itself differentiable.

    Args:
        skin: Of the body.
        state: Of :func:`place_vertices`.
        rows: (B, N, 3), the direction in which each vertex is looked at.
        root_on_manifold: If true the root's columns are for a small rotation applied on the left,
            ``exp(d) R``; else for its axis-angle.

    Returns:
        pose: (B, N, J, 3) by axis-angle, shape: (B, N, S), transl: (B, N, 3).
    """
    batch, num_points, _ = rows.shape
    tangent = left_jacobian(state.rotvecs)
    to_world = state.rotations[:, skin.parents] @ tangent
    to_world[:, 0] = tangent[:, 0]
    if root_on_manifold:
        to_world[:, 0] = torch.eye(3, dtype=rows.dtype, device=rows.device)
    weights = skin.weights[state.vertex]
    lever = skin.below @ state.carried - (weights @ skin.below.T)[..., None] * state.joints[:, None]
    turned = torch.linalg.cross(lever, rows[:, :, None].expand_as(lever))
    pose = torch.einsum("bnjc,bjcd->bnjd", turned, to_world)

    # correctives: d vec(R_local) = vec([J_l dtheta]x R_local), row by row as in the files
    blended = torch.einsum("bnj,bjcd->bncd", weights, state.rotations)
    looked = (rows[:, :, None] @ blended)[:, :, 0]
    change = skew(tangent.mT) @ state.local[:, :, None]  # (B, J, 3 columns, 3, 3)
    change = change.reshape(batch, -1, 3, 9)[:, 1:]
    entries = (looked[:, :, None] @ skin.posedirs[state.vertex])[:, :, 0]
    entries = entries.view(batch, num_points, -1, 9)
    pose[:, :, 1:] += torch.einsum("bnjf,bjdf->bnjd", entries, change)

    bones = skin.joints_dirs - skin.joints_dirs[skin.parents]
    level = skin.joints_dirs[:1].expand(batch, -1, -1, -1)
    placed, above = [level], skin.parents.new_zeros(1)
    for joints, of in skin.levels:
        parents = above[of]
        level = level[:, of] + state.rotations[:, parents] @ bones[joints]
        placed.append(level)
        above = joints
    joint_dirs = torch.cat(placed, 1)[:, skin.order] - state.rotations @ skin.joints_dirs
    shape = (looked[:, :, None] @ skin.dirs[state.vertex])[:, :, 0]
    by_joint = torch.einsum("bnj,bnc->bnjc", weights, rows).flatten(2)
    shape = shape + by_joint @ joint_dirs.flatten(1, 2)
    return pose, shape, rows
