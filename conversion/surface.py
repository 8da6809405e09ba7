"""Chosen vertices of one body: their places, the gradient of their distances, the curvature.

A vertex is ``v = sum_k W_k (R_k x + t_k)``: the rest-pose vertex x (shape and pose corrections in
it), carried by bones k. From ``t_k = t_parent + (R_parent - R_k) r_k``, r the rest joints, follow
all derivatives in closed form:

* Turning joint j by a small rotation w of the model's frame moves v by ``w x L_j`` with the lever
  ``L_j = sum over k below j of W_k (R_k x + t_k - p_j)``, p the posed joints.
* The gradient of a sum of squares needs, per bone, only the moments ``sum_v W x r^T`` and
  ``sum_v W r`` of the residuals r: two matrix products for any number of vertices.
* The Gauss-Newton matrix is summed over groups of vertices (a leg, a hand), each of which knows
  few joints, so that no matrix of all vertices by all unknowns is ever made.

Rotations are matrices and their increments are ``exp(w)`` in the model's frame, so there is no
singular pose.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bodymodel import lbs
from bodymodel.body import BodyData
from bodymodel.rotations import rotvec_to_rotmat, skew

_SKIN_BELOW = 1e-3  # skin weights that the curvature leaves out; the gradient never does
_CORRECTIVE_BELOW_M = 2e-4  # likewise, of correctives of joints elsewhere in the body
_BRANCHES = (
    "left_hip", "right_hip", "left_collar", "right_collar", "neck", "left_wrist", "right_wrist",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class State:
    """Parameters of B bodies while they are solved for.

    Attributes:
        rotations: (B, J, 3, 3), each relative to the parent joint.
        shape: (B, S), betas, then expression.
        transl: (B, 3) metres.
    """

    rotations: Tensor
    shape: Tensor
    transl: Tensor

    def take(self, index: Tensor) -> "State":
        """Return the bodies of an index or mask."""
        return State(self.rotations[index], self.shape[index], self.transl[index])

    def put(self, index: Tensor, other: "State") -> None:
        """Overwrite the bodies of an index."""
        self.rotations[index] = other.rotations
        self.shape[index] = other.shape
        self.transl[index] = other.transl


@dataclass(frozen=True, eq=False)
class Posed:
    """What the forward pass found, for the derivatives.

    Attributes:
        vertices: (B, 3, N) metres.
        rest: (B, 3, N), the rest-pose vertices x.
        blend: (B, 3, 3, N), the skinned rotations sum_k W_k R_k, column by column.
        world: (B, J, 3, 3) and joints (B, J, 3): the bones.
        offsets: (B, J, 3), t.
        above: (B, J, 3, 3), the parents' rotations; the identity above the root.
    """

    vertices: Tensor
    rest: Tensor
    blend: Tensor
    world: Tensor
    joints: Tensor
    offsets: Tensor
    above: Tensor


@dataclass(frozen=True, eq=False)
class Unknowns:
    """Which parameters are solved for.

    Attributes:
        joints: (J,) bool.
        shape: (S,) bool.
        transl: Whether the translation is.
    """

    joints: np.ndarray
    shape: np.ndarray
    transl: bool = True

    @property
    def count(self) -> int:
        """P: three a joint, then shape, then translation."""
        return int(3 * self.joints.sum() + self.shape.sum() + 3 * self.transl)


@dataclass(frozen=True, eq=False)
class Group:
    """Vertices of one part of the body; see :meth:`Surface.groups`."""

    vertices: Tensor  # (n,) among the surface's
    bones: Tensor  # (K,) that skin them
    skin: Tensor  # (n, K)
    levers: Tensor  # (A,) joints that are solved for and move them
    below: Tensor  # (K, A) 1 where the bone is below the joint
    masses: Tensor  # (n, A): skin @ below
    columns: Tensor  # (C,) of the unknowns
    dirs: Tensor  # (3, n, S')
    corrective: Tensor | None  # (A, n * 3, 9)


class Surface:
    """Chosen vertices of a body.

    Args:
        body: The body.
        vertex_ids: (N,) which vertices; all if None.
        dtype: Of all numbers.
        device: Of all tensors.
    """

    def __init__(
        self,
        body: BodyData,
        vertex_ids: np.ndarray | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        ids = np.arange(len(body.v_template)) if vertex_ids is None else np.asarray(vertex_ids)
        self.body, self.dtype, self.device = body, dtype, torch.device(device)
        self.num_joints = len(body.parents)
        self.num_shape = body.num_betas + body.num_expression
        self.num_vertices = len(ids)

        def real(array) -> Tensor:
            # not by way of float64: a body's correctives are large
            array = np.ascontiguousarray(array)
            return torch.as_tensor(array).to(device=self.device, dtype=dtype)

        self._real = real
        all_dirs = np.concatenate([body.shapedirs, body.exprdirs], -1)
        regressor = body.joint_regressor.astype(np.float64)
        self.template = real(body.v_template[ids].T)
        self.dirs = real(np.moveaxis(all_dirs[ids], (2, 1), (0, 1)).reshape(self.num_shape, -1))
        self.has_correctives = bool(np.any(body.posedirs))
        if self.has_correctives:
            given = torch.as_tensor(body.posedirs)  # (N, 3, 9 J - 9), as the file has them
            given = given if vertex_ids is None else given[torch.as_tensor(ids)]
            self.pose_dirs = given.to(device=self.device, dtype=dtype).flatten(0, 1)
        self.skin = real(body.weights[ids])
        self.skin_planar = self.skin.T.contiguous()
        self.joints_rest = real(regressor @ body.v_template)
        self.joints_dirs = real(np.einsum("jv,vcs->jcs", regressor, all_dirs.astype(np.float64)))
        parents = np.maximum(body.parents, 0)
        self.parents = torch.as_tensor(parents, device=self.device)
        levels = lbs.tree_levels(body.parents)
        order = [0] + [j for joints, _ in levels for j in joints]
        where = sorted(range(self.num_joints), key=order.__getitem__)
        self._order = torch.as_tensor(where, device=self.device)
        self._levels = [
            (torch.as_tensor(a, device=self.device), torch.as_tensor(b, device=self.device))
            for a, b in levels
        ]
        # below[j, k]: bone k hangs on joint j, itself included
        below = np.eye(self.num_joints, dtype=bool)
        for k in range(self.num_joints - 1, 0, -1):
            below[body.parents[k]] |= below[k]
        self._below_array = below
        self.below = real(below)

    def pose(self, state: State) -> Posed:
        """Place the vertices of B bodies."""
        batch = len(state.shape)
        flat = self.template.flatten()[None] + state.shape @ self.dirs
        if self.has_correctives:
            bend = lbs.pose_feature(state.rotations) @ self.pose_dirs.T
            flat = flat + bend.view(batch, -1, 3).mT.flatten(1)
        rest = flat.view(batch, 3, -1)
        moved = state.shape @ self.joints_dirs.flatten(0, 1).T
        rest_joints = self.joints_rest + moved.view(batch, -1, 3)
        world, joints = lbs.joint_transforms(
            state.rotations, rest_joints, self.parents, self._levels, self._order
        )
        joints = joints + state.transl[:, None]
        offsets = joints - (world @ rest_joints[..., None])[..., 0]
        rigid = torch.cat((world.mT.flatten(-2), offsets), -1)  # (B, J, 12), columns first
        blended = (rigid.mT @ self.skin_planar).view(batch, 4, 3, -1)
        vertices = blended[:, 3]
        for axis in range(3):
            vertices = torch.addcmul(vertices, blended[:, axis], rest[:, axis : axis + 1])
        above = world[:, self.parents].clone()
        above[:, 0] = torch.eye(3, dtype=self.dtype, device=self.device)
        return Posed(vertices, rest, blended[:, :3], world, joints, offsets, above)

    def gradient(self, state: State, posed: Posed, force: Tensor, unknowns: Unknowns) -> Tensor:
        """Differentiate a function of the vertices.

        Args:
            state: The bodies.
            posed: Of :meth:`pose`.
            force: (B, 3, N), its derivative by the vertices.
            unknowns: By what.

        Returns:
            (B, P).
        """
        batch = len(force)
        outer = (posed.rest[:, :, None] * force[:, None]).view(batch, 9, -1)
        moments = (torch.cat((outer, force), 1) @ self.skin).mT  # (B, J, 12)
        moment, pull = moments[..., :9].unflatten(-1, (3, 3)), moments[..., 9:]
        about = posed.world @ moment + posed.offsets[..., None] * pull[..., None, :]
        torque, pull = self.below @ _axial(about), self.below @ pull
        torque = torque - torch.linalg.cross(posed.joints, pull)
        # the vertices' change in the rest pose: u = (sum_k W R)^T force
        back = (posed.blend * force[:, None]).sum(2)  # (B, 3, N)
        if self.has_correctives:
            turned = (back.mT.flatten(1) @ self.pose_dirs).view(batch, -1, 3, 3)
            local = _axial(turned @ state.rotations[:, 1:].mT)
            torque[:, 1:] -= (posed.above[:, 1:] @ local[..., None])[..., 0]
        parts = [torque[:, self._index(unknowns.joints)].flatten(1)]
        if unknowns.shape.any():
            lever = (posed.above - posed.world).mT @ pull[..., None]
            by_shape = back.flatten(1) @ self.dirs.T
            by_shape = by_shape + lever.flatten(1) @ self.joints_dirs.flatten(0, 1)
            parts.append(by_shape[:, self._index(unknowns.shape)])
        if unknowns.transl:
            parts.append(pull[:, 0])
        return torch.cat(parts, 1)

    def step(self, state: State, posed: Posed, change: Tensor, unknowns: Unknowns) -> State:
        """Return the state after a step.

        Args:
            state: The bodies.
            posed: Of :meth:`pose`.
            change: (B, P).
            unknowns: What the columns of ``change`` are.
        """
        rotations, shape, transl = state.rotations.clone(), state.shape.clone(), state.transl
        joints = self._index(unknowns.joints)
        last = 3 * len(joints)
        turn = change[:, :last].view(len(change), -1, 3)
        local = (posed.above[:, joints].mT @ turn[..., None])[..., 0]
        rotations[:, joints] = rotvec_to_rotmat(local) @ rotations[:, joints]
        which = self._index(unknowns.shape)
        shape[:, which] = shape[:, which] + change[:, last : last + len(which)]
        if unknowns.transl:
            transl = transl + change[:, -3:]
        return State(rotations, shape, transl)

    def groups(self, unknowns: Unknowns) -> list[Group]:
        """Split the vertices by the part of the body, for :meth:`curvature`."""
        body, below = self.body, self._below_array
        skin = self.skin.cpu().numpy()
        branch = np.zeros(self.num_joints, int)
        for name in _BRANCHES:  # the wrists come after the collars that they hang on
            if name in body.joints:
                joint = body.joints.index(name)
                branch[below[joint]] = joint
        label = branch[skin.argmax(1)]
        first_shape = 3 * int(unknowns.joints.sum())
        column_of = np.cumsum(unknowns.joints) - 1
        rest = np.arange(first_shape, unknowns.count)
        dirs = self.dirs.view(self.num_shape, 3, -1).permute(1, 2, 0)
        dirs = dirs[..., self._index(unknowns.shape)]
        out = []
        for value in np.unique(label):
            vertices = np.flatnonzero(label == value)
            bones = np.flatnonzero((skin[vertices] > _SKIN_BELOW).any(0))
            moves = below[:, bones].any(1) | self._corrects(vertices)
            levers = np.flatnonzero(moves & unknowns.joints)
            under = below[np.ix_(levers, bones)].T
            columns = (3 * column_of[levers] + np.arange(3)[:, None]).ravel()  # axis by axis
            corrective = None
            if self.has_correctives and len(levers):
                block = self._correctives(vertices)
                corrective = torch.zeros(
                    len(levers), 3 * len(vertices), 9, dtype=self.dtype, device=self.device
                )
                inner = np.flatnonzero(levers > 0)
                picked = block[levers[inner] - 1].permute(0, 2, 3, 1)  # (A, 3, n, 9)
                corrective[inner] = picked.reshape(len(inner), 3 * len(vertices), 9)
            out.append(
                Group(
                    vertices=self._whole(vertices),
                    bones=self._whole(bones),
                    skin=self._real(skin[np.ix_(vertices, bones)]),
                    levers=self._whole(levers),
                    below=self._real(under),
                    masses=self._real(skin[np.ix_(vertices, bones)] @ under),
                    columns=self._whole(np.concatenate([columns, rest])),
                    dirs=dirs[:, self._whole(vertices)].contiguous(),
                    corrective=corrective,
                )
            )
        return out

    def _corrects(self, vertices: np.ndarray) -> np.ndarray:
        """(J,) bool: the joints whose correctives move any of some vertices by what counts."""
        out = np.zeros(self.num_joints, bool)
        if self.has_correctives:
            blocks = self._correctives(vertices)
            out[1:] = (blocks.abs().amax((1, 2, 3)) > _CORRECTIVE_BELOW_M).cpu().numpy()
        return out

    def _correctives(self, vertices: np.ndarray) -> Tensor:
        """(J - 1, 9, 3, n) of some of the vertices."""
        block = self.pose_dirs.view(self.num_vertices, 3, -1)[self._whole(vertices)]
        return block.permute(2, 1, 0).unflatten(0, (-1, 9))

    def curvature(
        self,
        state: State,
        posed: Posed,
        groups: list[Group],
        unknowns: Unknowns,
        rows: Callable[[Group, Tensor], Tensor],
    ) -> Tensor:
        """Return a Gauss-Newton matrix.

        Args:
            state: The bodies.
            posed: Of :meth:`pose`.
            groups: Of :meth:`groups`.
            unknowns: By what.
            rows: From a group and the derivative (B, 3, n, C) of its vertices to that of what is
                squared, (B, 3, M, C).

        Returns:
            (B, P, P).
        """
        batch, count = len(state.shape), unknowns.count
        total = torch.zeros(batch, count, count, dtype=self.dtype, device=self.device)
        for group in groups:
            weighed = rows(group, self.jacobian(state, posed, group, unknowns)).flatten(1, 2)
            total[:, group.columns[:, None], group.columns] += weighed.mT @ weighed
        return total

    def jacobian(self, state: State, posed: Posed, group: Group, unknowns: Unknowns) -> Tensor:
        """Return the derivative (B, 3, n, C) of a group's vertices by its columns."""
        batch, n, a = len(state.shape), len(group.vertices), len(group.levers)
        x = posed.rest[:, :, group.vertices].mT  # (B, n, 3)
        num_shape = group.dirs.shape[-1]
        out = torch.zeros(batch, 3, n, len(group.columns), dtype=self.dtype, device=self.device)
        lever = []
        world, offsets = posed.world[:, group.bones], posed.offsets[:, group.bones]
        for axis in range(3):
            moved = x @ world[:, :, axis].mT + offsets[:, None, :, axis]  # (B, n, K)
            below = (moved * group.skin) @ group.below
            lever.append(below - group.masses * posed.joints[:, None, group.levers, axis])
        for axis in range(3):
            nxt, last = (axis + 1) % 3, (axis + 2) % 3
            out[:, axis, :, nxt * a : nxt * a + a] = lever[last]
            out[:, axis, :, last * a : last * a + a] = -lever[nxt]
        blend = posed.blend[..., group.vertices]  # (B, 3 columns, 3, n)
        if group.corrective is not None:
            change = _turned(state.rotations, posed.above)[:, group.levers]  # (B, A, 9, 3)
            rest = (group.corrective @ change).view(batch, a, 3, n, 3)
            for axis in range(3):
                part = (blend[:, :, axis, None, :, None] * rest.transpose(1, 2)).sum(1)
                out[:, axis, :, : 3 * a] += part.permute(0, 2, 3, 1).reshape(batch, n, -1)
        if num_shape:
            slide = self._slide(posed, unknowns)[:, group.bones]  # (B, K, 3, S')
            for axis in range(3):
                part = torch.einsum("bcn,cns->bns", blend[:, :, axis], group.dirs)
                out[:, axis, :, 3 * a : 3 * a + num_shape] = part + group.skin @ slide[:, :, axis]
        if unknowns.transl:
            for axis in range(3):
                out[:, axis, :, axis - 3] = 1
        return out

    def _slide(self, posed: Posed, unknowns: Unknowns) -> Tensor:
        """(B, J, 3, S'): how shape moves the bones' offsets t."""
        dirs = self.joints_dirs[..., self._index(unknowns.shape)]
        own = (posed.above - posed.world) @ dirs
        return (self.below.T @ own.flatten(2)).view(own.shape)

    def _index(self, mask: np.ndarray) -> Tensor:
        return self._whole(np.flatnonzero(mask))

    def _whole(self, index: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(index, np.int64), device=self.device)


def _axial(m: Tensor) -> Tensor:
    """Return a with ``m[i, j] = y_i r_j  ->  a = y x r``."""
    return torch.stack(
        (m[..., 1, 2] - m[..., 2, 1], m[..., 2, 0] - m[..., 0, 2], m[..., 0, 1] - m[..., 1, 0]), -1
    )


def _turned(rotations: Tensor, above: Tensor) -> Tensor:
    """(B, J, 9, 3): the change of vec(R) of each joint by a turn in the model's frame."""
    # exp(w) above R = above exp(above^T w) R, one axis of w after the other
    cross = skew(above)  # rows of ``above`` are above^T e_axis
    changed = cross @ rotations[:, :, None]
    return changed.flatten(-2).mT
