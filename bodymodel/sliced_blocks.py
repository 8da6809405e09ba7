"""The Jacobian of a sliced body in dense blocks of points that move by the same unknowns.

A finger moves by twelve joints of fifty-five, a face by eight. In one matrix for all points most
entries are zero, and J^T J multiplies them all. So the points are gathered into blocks, and each
block has columns for what moves it and nothing else.

Within a block the columns of all joints come from one product. Turning joint j about the axis a
moves what is below it, of mass m and first moment q, by ``a x (q - m o_j)``; looked at in the
direction g that is

    g . (a x (q - m o_j)) = a . (q x g) + (o_j x a) . (m g),

a wrench times a twist in six coordinates each (Murray, Li & Sastry 1994, chapter 2). A *unit* is
what of a point lies below a joint: nearly always all of it, so that wrenches are shared by joints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bodymodel.rotations import skew
from bodymodel.sliced import SlicedBody, SlicedState


@dataclass(frozen=True, eq=False)
class PointBlock:
    """Some points and what moves them. P points, J joints, C shape components, R rows a point.

    Attributes:
        points: (P,) positions among the sliced body's points.
        joints: (J,) ids in the model of the joints that have columns, in the columns' order.
        components: (C,) of shape that have columns.
        first_unit, num_units: Where its units are among all; the first P are the points' whole.
        partial: Of each further round of units, how many points have one: always the first ones.
        twists: (J * 3,) columns among those of all joints.
        mask: (units * R, J * 3) which joints move which units.
        corrected: None, or what of ``joints`` the pose correctives of these points depend on.
        shape_bones: (G,) active joints whose rotations turn what shape changes of these points.
        shape_dirs: (G * 3, P * C) those changes, in the bones' own axes.
        shape_base: (3, P * C) what no rotation turns.
    """

    points: Tensor
    joints: tuple[int, ...]
    components: tuple[int, ...]
    first_unit: int
    num_units: int
    partial: tuple[int, ...]
    twists: Tensor
    mask: Tensor
    corrected: "_Correctives | None"
    shape_bones: Tensor
    shape_dirs: Tensor
    shape_base: Tensor


@dataclass(frozen=True, eq=False)
class _Correctives:
    """Pose correctives of a block's points: pairs (N,), their places, and the joints' (J,)."""

    first_column: int
    joints: Tensor
    pair_bone: Tensor
    pair_point: Tensor
    point_sum: Tensor
    grid: Tensor  # (J, N * 3, 9)


@dataclass(frozen=True, eq=False)
class PointBlocks:
    """All blocks of a sliced body.

    Attributes:
        blocks: They.
        num_rows: R, directions in which each point is looked at.
        joints: (A,) active joints that any block has columns for; None for all.
        units: (U, N) which pairs make up each unit.
        unit_point: (U,) the point of each, unit_mass: (U, 1, 1).
    """

    blocks: tuple[PointBlock, ...]
    num_rows: int
    joints: Tensor | None
    units: Tensor
    unit_point: Tensor
    unit_mass: Tensor


def point_blocks(
    sliced: SlicedBody,
    groups: Sequence[Sequence[int]],
    joints: Sequence[int],
    components: Sequence[int],
    num_rows: int = 2,
) -> PointBlocks:
    """Prepare blocks.

    Args:
        sliced: The reduced body.
        groups: Points of each block, as positions in ``sliced.points``.
        joints: Ids in the model of the joints that are differentiated by; columns come in this
            order, except that joints with correctives are kept together.
        components: Of shape that are differentiated by.
        num_rows: Directions in which each point will be looked at.
    """
    ids = sliced.joint_ids.tolist()
    position = {j: a for a, j in enumerate(ids)}
    wanted = [position[j] for j in joints if j in position]
    needed = sorted(set(wanted))
    parents = sliced.parents.tolist()
    paths = [_path(a, parents) for a in range(len(ids))]
    pair_point, pair_bone = sliced.pair_point.tolist(), sliced.pair_bone.tolist()
    pair_mass = sliced.pair_mass.double().cpu().numpy()
    like = sliced.pair_rest

    def real(x) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(x), dtype=like.dtype, device=like.device)

    def whole(x) -> Tensor:
        return torch.as_tensor(np.asarray(x, dtype=np.int64), device=like.device)

    units: list[tuple[int, frozenset[int]]] = []
    blocks = []
    for group in groups:
        pairs = {p: [n for n, q in enumerate(pair_point) if q == p] for p in group}
        below = {
            (p, a): frozenset(n for n in pairs[p] if a in paths[pair_bone[n]])
            for p in group
            for a in wanted
        }
        partial = {
            p: sorted(
                {below[p, a] for a in wanted} - {frozenset(), frozenset(pairs[p])}, key=sorted
            )
            for p in group
        }
        points = sorted(group, key=lambda p: (-len(partial[p]), p))
        corrected, corrected_by = _corrected(sliced, points, wanted)
        moving = [a for a in wanted if a in corrected_by or any(below[p, a] for p in points)]
        order = _together(moving, corrected_by)
        rounds = max((len(subsets) for subsets in partial.values()), default=0)
        mine = [(p, frozenset(pairs[p])) for p in points]
        counts = []
        for k in range(rounds):
            having = [p for p in points if len(partial[p]) > k]
            mine += [(p, partial[p][k]) for p in having]
            counts.append(len(having))
        mask = np.array([[below[p, a] == unit for a in order] for p, unit in mine], float)
        mask = mask.reshape(len(mine), len(order))
        mask = np.repeat(np.repeat(mask, num_rows, 0), 3, 1)
        blocks.append(
            PointBlock(
                points=whole(points),
                joints=tuple(ids[a] for a in order),
                first_unit=len(units),
                num_units=len(mine),
                partial=tuple(counts),
                twists=whole([3 * needed.index(a) + c for a in order for c in range(3)]),
                mask=real(mask),
                corrected=_correctives(sliced, points, corrected, corrected_by, order),
                **_shape(sliced, points, pairs, paths, components),
            )
        )
        units += mine
    membership = np.zeros((len(units), len(pair_point)))
    for u, (_, members) in enumerate(units):
        membership[u, list(members)] = 1
    return PointBlocks(
        blocks=tuple(blocks),
        num_rows=num_rows,
        joints=None if needed == list(range(len(ids))) else whole(needed),
        units=real(membership),
        unit_point=whole([p for p, _ in units]),
        unit_mass=real((membership @ pair_mass)[:, None, None]),
    )


def _path(joint: int, parents: list[int]) -> list[int]:
    out = [joint]
    while out[-1]:
        out.append(parents[out[-1]])
    return out


def _together(joints: list[int], first: set[int]) -> list[int]:
    """Move the joints of a set next to each other, the others staying before or after them."""
    places = [k for k, a in enumerate(joints) if a in first]
    if not places or places == list(range(places[0], places[-1] + 1)):
        return joints
    last = joints[places[-1]]
    before = [a for k, a in enumerate(joints) if a not in first and k < places[-1]]
    middle = [a for a in joints if a in first]
    return before + middle + joints[joints.index(last) + 1 :]


def _corrected(
    sliced: SlicedBody, points: list[int], wanted: list[int]
) -> tuple[list[int], set[int]]:
    """The pairs of these points that correctives of wanted joints change, and those joints."""
    pair_point = sliced.pair_point.tolist()
    pairs, joints = set(), set()
    for n, a in zip(sliced.block_pair.tolist(), sliced.block_joint.tolist(), strict=True):
        if a in wanted and pair_point[n] in points:
            pairs.add(n)
            joints.add(a)
    return sorted(pairs), joints


def _correctives(
    sliced: SlicedBody, points: list[int], pairs: list[int], joints: set[int], order: list[int]
) -> _Correctives | None:
    if not pairs:
        return None
    columns = [a for a in order if a in joints]
    grid = sliced.block.new_zeros(len(columns), len(pairs), 3, 9)
    blocks = zip(sliced.block_pair.tolist(), sliced.block_joint.tolist(), sliced.block, strict=True)
    for n, a, block in blocks:
        if n in pairs and a in columns:
            grid[columns.index(a), pairs.index(n)] = block
    device = grid.device
    owners = sliced.pair_point[torch.tensor(pairs, device=device)]
    places = torch.tensor(points, device=device)
    return _Correctives(
        first_column=3 * order.index(columns[0]),
        joints=torch.tensor(columns, device=device),
        pair_bone=sliced.pair_bone[torch.tensor(pairs, device=device)],
        pair_point=owners,
        point_sum=(places[:, None] == owners).to(grid.dtype),
        grid=grid.flatten(1, 2).contiguous(),
    )


def _shape(
    sliced: SlicedBody,
    points: list[int],
    pairs: dict[int, list[int]],
    paths: list[list[int]],
    components: Sequence[int],
) -> dict[str, object]:
    """Return the fields of PointBlock on shape: bones and moments, turned by one joint each."""
    num_shape, num_active = sliced.num_shape, len(sliced.joint_ids)

    def dirs(values: Tensor, count: int) -> np.ndarray:
        return np.moveaxis(values.double().cpu().numpy().reshape(num_shape, count, 3), 0, 2)

    bones = dirs(sliced.bones_dirs, num_active)
    moments = dirs(sliced.pair_dirs, len(sliced.pair_point))
    mine = {n for p in points for n in pairs[p]}
    parts = [n for n in mine if moments[n].any()]
    used = [a for a in range(1, num_active) if any(a in paths[_bone(sliced, n)] for n in mine)]
    chosen = [
        s
        for s in components
        if bones[[0, *used]][..., s].any() or (parts and moments[parts][..., s].any())
    ]
    mass = sliced.pair_mass.double().cpu().numpy()
    parents = sliced.parents.tolist()
    turned_by = sorted({parents[a] for a in used} | {_bone(sliced, n) for n in parts})
    place = {a: g for g, a in enumerate(turned_by)}
    turned = np.zeros((len(turned_by), 3, len(points), len(chosen)))
    base = np.zeros((3, len(points), len(chosen)))
    for row, p in enumerate(points):
        for n in pairs[p]:
            base[:, row] += mass[n] * bones[0][:, chosen]
            for a in paths[_bone(sliced, n)][:-1]:
                turned[place[parents[a]], :, row] += mass[n] * bones[a][:, chosen]
            if n in parts:
                turned[place[_bone(sliced, n)], :, row] += moments[n][:, chosen]
    like = sliced.pair_rest

    def real(x: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(x), dtype=like.dtype, device=like.device)

    return {
        "components": tuple(chosen),
        "shape_bones": torch.tensor(turned_by, dtype=torch.int64, device=like.device),
        "shape_dirs": real(turned.reshape(3 * len(turned_by), -1)),
        "shape_base": real(base.reshape(3, -1)),
    }


def _bone(sliced: SlicedBody, pair: int) -> int:
    return int(sliced.pair_bone[pair])


def blocks_jacobian(
    sliced: SlicedBody, blocks: PointBlocks, state: SlicedState, rows: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Differentiate ``rows @ points`` analytically, block by block. Not itself differentiable.

    Args:
        sliced: The reduced body.
        blocks: Of :func:`point_blocks`.
        state: Of :func:`sliced_forward`.
        rows: (B, P, R, 3), the R directions in which each point is looked at.

    Returns:
        Of each block: (B, P_b R, J_b 3) by axis-angle of its joints (the root's by a small rotation
        applied on the left), and (B, P_b R, C_b) by its shape components. By the translation it is
        ``rows`` itself.
    """
    batch, _, num_rows, _ = rows.shape
    rotations, joints = state.rotations, state.joints
    axes = rotations[:, sliced.parents] @ state.tangents
    axes[:, 0] = torch.eye(3, dtype=rows.dtype, device=rows.device)
    if blocks.joints is not None:
        axes, joints = axes[:, blocks.joints], joints[:, blocks.joints]
    moments = torch.linalg.cross(joints[..., None].expand_as(axes), axes, dim=2)
    twists = torch.cat([axes, moments], 2).transpose(1, 2).reshape(batch, 6, -1)

    moved = torch.bmm(blocks.units.expand(batch, -1, -1), state.moved)
    looked = rows[:, blocks.unit_point]
    turns = torch.linalg.cross(moved[:, :, None].expand_as(looked), looked)
    wrenches = torch.cat([turns, blocks.unit_mass * looked], 3).flatten(1, 2)

    out = []
    for block in blocks.blocks:
        first = block.first_unit * num_rows
        mine = wrenches[:, first : first + block.num_units * num_rows]
        pose = torch.bmm(mine, twists[:, :, block.twists]) * block.mask
        count = len(block.points) * num_rows
        begin = count
        for partial in block.partial:
            end = begin + partial * num_rows
            pose[:, : end - begin] += pose[:, begin:end]
            begin = end
        pose = pose[:, :count]
        if block.corrected is not None:
            _add_correctives(block.corrected, state, rows, pose)

        bones = rotations[:, block.shape_bones].transpose(1, 2).reshape(batch * 3, -1)
        moves = (bones @ block.shape_dirs).view(batch, 3, -1) + block.shape_base
        moves = moves.view(batch, 3, len(block.points), -1).transpose(1, 2)
        out.append((pose, (rows[:, block.points] @ moves).flatten(1, 2)))
    return out


def _add_correctives(c: _Correctives, state: SlicedState, rows: Tensor, pose: Tensor) -> None:
    """Add to (B, P R, J 3) what turning joints does to the points by way of the correctives."""
    batch, _, num_rows, _ = rows.shape
    count, pairs = len(c.joints), len(c.pair_bone)
    tangents, local = state.tangents[:, c.joints], state.local[:, c.joints]
    # d vec(R_local) = vec([J_l dtheta]x R_local), row by row as in the files
    change = skew(tangents.mT) @ local[:, :, None]  # (B, J, 3 columns, 3, 3)
    change = c.grid @ change.flatten(3).mT  # (B, J, N * 3, 3 columns)
    change = change.view(batch, count, pairs, 3, 3).permute(0, 2, 3, 1, 4)
    change = change.reshape(batch, pairs, 3, count * 3)
    looked = rows[:, c.pair_point] @ state.rotations[:, c.pair_bone]
    seen = (looked @ change).flatten(2)
    seen = torch.bmm(c.point_sum.expand(batch, -1, -1), seen)
    columns = slice(c.first_column, c.first_column + 3 * count)
    pose[..., columns] += seen.view(batch, -1, count * 3)
