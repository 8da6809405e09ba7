"""Robust reprojection of the keypoints: energy, gradient and J^T J, block by block of points.

The Jacobian is never whole: each block of points (body, each hand, face) has columns only for the
unknowns that move it, and J^T J is added up from the blocks'. The residual is one more column, so
that the gradient comes out of the same product.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from bodymodel.sliced import SlicedBody, SlicedState
from bodymodel.sliced_blocks import PointBlocks, blocks_jacobian, point_blocks
from bodymodel.spec import keypoint_part
from fitting.state import Layout

__all__ = ["DataPlan", "Evidence", "data_energy", "data_quadratic", "plan_data"]

_NEAREST_M = 0.1  # points closer to the camera than this are projected as if they were here
_HANDS = (("left_hand_pca", 25, 40), ("right_hand_pca", 40, 55))  # their joints of the model
_FACE = (("jaw_pose", 22), ("leye_pose", 23), ("reye_pose", 24))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a batch of persons is fitted to.

    Attributes:
        points_px: (B, P, 2).
        weights: (B, P) of the squared residuals: confidence squared times the point's own weight.
        focal_px: (B,), center_px: (B, 2).
        unit: (B,) residual units per pixel.
        robust_unit: (B,) what the robust function's scale is multiplied by to be in those units.
        focal_free: (B,) 1 where ``focal_px`` is only where the solver starts, 0 where it is known;
            None if it is known of all.
    """

    points_px: Tensor
    weights: Tensor
    focal_px: Tensor
    center_px: Tensor
    unit: Tensor
    robust_unit: Tensor
    focal_free: Tensor | None = None

    def take(self, index: Tensor) -> "Evidence":
        """Return some of the persons."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Evidence(**{k: v if v is None else v[index] for k, v in values.items()})

    def points(self, index: Tensor) -> "Evidence":
        """Return some of the points of all persons."""
        return replace(self, points_px=self.points_px[:, index], weights=self.weights[:, index])


@dataclass(frozen=True, eq=False)
class _BlockPlan:
    """How one block's columns become those of the unknowns.

    Attributes:
        body: (first, last) of its pose columns that are unknowns themselves.
        hands: First and last pose column of a hand, and (columns, C) its PCA components.
        entries: ((C + 1)^2,) where the block's J^T J goes in the flat matrix with one row and
            column more; None if it is that matrix.
    """

    body: tuple[int, int]
    hands: tuple[tuple[int, int, Tensor], ...]
    entries: Tensor | None


@dataclass(frozen=True, eq=False)
class DataPlan:
    """What is prepared once for a set of points and unknowns.

    Attributes:
        blocks: Of the points.
        plans: One a block.
        has_transl: Whether the translation is among the unknowns.
        has_focal: Whether the focal length is.
        size: Number of unknowns.
    """

    blocks: PointBlocks
    plans: tuple[_BlockPlan, ...]
    has_transl: bool
    has_focal: bool
    size: int


def plan_data(sliced: SlicedBody, layout: Layout, unknowns: Sequence[int]) -> DataPlan:
    """Prepare for some of the unknowns.

    Args:
        sliced: The points.
        layout: Of the vector of unknowns.
        unknowns: Positions in it, in the order of the matrix. Of a joint or a hand all or none.

    Raises:
        ValueError: If a part of a joint's or a hand's unknowns is wanted.
    """
    place = {u: k for k, u in enumerate(unknowns)}
    slices = layout.slices

    def places(start: int, count: int, what: str) -> list[int]:
        found = [place[u] for u in range(start, start + count) if u in place]
        if len(found) not in (0, count):
            raise ValueError(f"{what} must be solved for as a whole, got {len(found)} of {count}")
        return found

    joint_places: dict[int, list[int]] = {0: places(slices["global_orient"].start, 3, "the root")}
    for joint in range(1, 22):
        start = slices["body_pose"].start + 3 * (joint - 1)
        joint_places[joint] = places(start, 3, f"joint {joint}")
    for name, joint in _FACE:
        joint_places[joint] = places(slices[name].start, 3, name)
    hand_places = {
        name: places(slices[name].start, slices[name].stop - slices[name].start, name)
        for name, _, _ in _HANDS
    }
    transl = places(slices["transl"].start, 3, "transl")
    focal = places(layout.log_focal, 1, "the focal length")
    shape_unknowns = [*range(slices["betas"].start, slices["betas"].stop)]
    shape_unknowns += [*range(slices["expression"].start, slices["expression"].stop)]
    components = [s for s, u in enumerate(shape_unknowns) if u in place]

    joints = [j for j, found in joint_places.items() if found]
    for name, first, last in _HANDS:
        if hand_places[name]:
            joints += range(first, last)
    groups: dict[str, list[int]] = {}
    split = any(j > 24 for j in joints)
    for k, name in enumerate(sliced.points):
        groups.setdefault(keypoint_part(name) if split else "all", []).append(k)
    blocks = point_blocks(sliced, list(groups.values()), joints, components)
    plans = []
    for block in blocks.blocks:
        plain = [j for j in block.joints if j < 25]
        if list(block.joints[: len(plain)]) != plain:
            raise ValueError("a block's fingers must come last")
        columns = [p for j in plain for p in joint_places[j]]
        hands = []
        for i, (name, first, last) in enumerate(_HANDS):
            mine = [k for k, j in enumerate(block.joints) if first <= j < last]
            if not mine:
                continue
            if mine != list(range(mine[0], mine[-1] + 1)):
                raise ValueError("a block's fingers of a hand must be next to each other")
            rows = [3 * (block.joints[k] - first) + c for k in mine for c in range(3)]
            basis = layout.hand_components[i][:, rows].T.contiguous()
            hands.append((3 * mine[0], 3 * mine[-1] + 3, basis))
            columns += hand_places[name]
        columns += transl
        columns += [place[shape_unknowns[s]] for s in block.components]
        columns += focal
        columns.append(len(unknowns))  # the residual
        entries = None
        if columns != list(range(len(unknowns) + 1)) or len(blocks.blocks) > 1:
            at = torch.tensor(columns, device=layout.hand_means.device)
            entries = (at[:, None] * (len(unknowns) + 1) + at).flatten()
        plans.append(_BlockPlan((0, 3 * len(plain)), tuple(hands), entries))
    return DataPlan(blocks, tuple(plans), bool(transl), bool(focal), len(unknowns))


@dataclass(frozen=True, eq=False)
class _Seen:
    """The points as the camera sees them: (B, P) depth, (B, P, 2) the others."""

    depth: Tensor
    ray: Tensor
    scale: Tensor  # (B, 1)
    residual: Tensor
    square: Tensor
    inlier: Tensor


def _look(evidence: Evidence, state: SlicedState, robust_px: float, zoom: Tensor) -> _Seen:
    depth = state.points[..., 2].clamp_min(_NEAREST_M)
    ray = state.points[..., :2] / depth[..., None]
    scale = (evidence.focal_px * zoom * evidence.unit)[:, None]
    target = (evidence.points_px - evidence.center_px[:, None]) * evidence.unit[:, None, None]
    residual = scale[..., None] * ray - target
    square = residual.square()
    rho2 = (robust_px * evidence.robust_unit).square()[:, None, None]
    inlier = rho2 / (rho2 + square)
    return _Seen(depth, ray, scale, residual, square, inlier)


def data_energy(evidence: Evidence, state: SlicedState, robust_px: float, zoom: Tensor) -> Tensor:
    """Return (B,) the energy: Geman-McClure per coordinate; see data_quadratic."""
    seen = _look(evidence, state, robust_px, zoom)
    return (evidence.weights[..., None] * seen.square * seen.inlier).flatten(1).sum(1)


def data_quadratic(
    plan: DataPlan,
    sliced: SlicedBody,
    evidence: Evidence,
    state: SlicedState,
    robust_px: float,
    zoom: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return energy (B,), half its gradient (B, F) and J^T J (B, F, F) by the plan's unknowns.

    Args:
        plan: Of points and unknowns.
        sliced: The points.
        evidence: Where they are seen.
        state: Where they are.
        robust_px: Scale of the Geman-McClure function, in the units of the residuals.
        zoom: (B,) what the focal lengths are multiplied by.
    """
    seen = _look(evidence, state, robust_px, zoom)
    batch = len(seen.depth)
    weights = evidence.weights[..., None]
    energy = (weights * seen.square * seen.inlier).flatten(1).sum(1)
    # as iteratively reweighted squares
    root = weights.sqrt() * seen.inlier
    across = (root * (seen.scale / seen.depth)[..., None])[..., None]  # (B, P, 2, 1)
    eye = torch.eye(2, dtype=root.dtype, device=root.device)
    rows = torch.cat([across * eye, -across * seen.ray[..., None]], 3)
    residual = root * seen.residual
    zoomed = None
    if plan.has_focal:
        free = 0.0 if evidence.focal_free is None else evidence.focal_free[:, None, None]
        zoomed = root * seen.scale[..., None] * seen.ray * free

    last = plan.size + 1
    whole: Tensor | None = None
    jacobians = blocks_jacobian(sliced, plan.blocks, state, rows)
    for block, item, (pose, shape) in zip(plan.blocks.blocks, plan.plans, jacobians, strict=True):
        columns = [pose[..., : item.body[1]]]
        columns += [pose[..., first:end] @ basis for first, end, basis in item.hands]
        if plan.has_transl:
            columns.append(rows[:, block.points].flatten(1, 2))
        columns.append(shape)
        if zoomed is not None:
            columns.append(zoomed[:, block.points].reshape(batch, -1, 1))
        columns.append(residual[:, block.points].reshape(batch, -1, 1))
        jacobian = torch.cat(columns, 2)
        square = torch.bmm(jacobian.mT, jacobian)
        if item.entries is None:
            whole = square
            continue
        if whole is None:
            whole = square.new_zeros(batch, last * last)
        whole.scatter_add_(1, item.entries.expand(batch, -1), square.flatten(1))
    whole = whole.view(batch, last, last)
    return energy, whole[:, :-1, -1].contiguous(), whole[:, :-1, :-1].contiguous()
