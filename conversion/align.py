"""Where to start, in closed form: every part laid over the mesh, then shape by linear equations."""

import numpy as np
import roma
import torch
from torch import Tensor

from conversion.known import Known
from conversion.solver import Hold, Points, curvature
from conversion.surface import State, Surface, Unknowns

__all__ = ["closed_form_start", "rest_state", "solve_linear"]


def rest_state(
    surface: Surface, hold: Hold, target: Tensor, masses: Tensor, known: Known | None = None
) -> State:
    """Return the mean shape, every joint at its reference, upon the target's middle.

    Args:
        surface: The vertices.
        hold: For the references.
        target: (B, 3, N) metres.
        masses: (N,).
        known: Parameters that are not to be found.
    """
    batch = len(target)
    middle = ((target - surface.template) * masses).sum(2) / masses.sum()
    rotations = hold.references.expand(batch, -1, -1, -1).clone()
    shape = target.new_zeros(batch, surface.num_shape)
    if known is not None:
        rotations[:, known.joints] = known.rotations
        shape[:, known.components] = known.shape
    return State(rotations, shape, middle)


def closed_form_start(
    surface: Surface,
    points: Points,
    hold: Hold,
    unknowns: Unknowns,
    known: Known | None = None,
    rounds: int = 2,
) -> State:
    """Turn every part by itself as the mesh has it (Kabsch), then solve for shape and place.

    A part's vertices are those that its joint skins. Where a joint is not solved for, its part
    keeps its place against the parent. Where nothing is known of a joint's own part (the pelvis,
    of a hand alone), it turns as the nearest parts below do.

    Args:
        surface: The vertices, of all parts.
        points: The target.
        hold: Ties.
        unknowns: What is solved for.
        known: Parameters that are kept as they are.
        rounds: How often both are done; the second time with the shape of the first.
    """
    state = rest_state(surface, hold, points.target, points.masses, known)
    skin = _part_weights(surface, points, hold, unknowns)
    for _ in range(rounds):
        moved = (state.shape @ surface.dirs).view(len(state.shape), 3, -1)
        rotations = _parts(skin, surface.template + moved, points)
        rotations = _relative(surface, rotations, state.rotations, hold, unknowns)
        state = State(rotations, state.shape, state.transl)
        state = solve_linear(surface, points, hold, state, unknowns)
    return state


def _part_weights(surface: Surface, points: Points, hold: Hold, unknowns: Unknowns) -> Tensor:
    """(N, J): how much each vertex tells of each part's rotation."""
    skin = surface.skin.square() * points.masses[:, None]  # mostly its own
    there = (skin.sum(0) > 1e-6 * skin.sum()).cpu().numpy()
    parents = surface.body.parents
    for joint in np.flatnonzero(_free(hold, unknowns) & ~there):
        # down to the first parts of which there is something
        below, reached = [joint], []
        while below and not reached:
            below = [k for k, parent in enumerate(parents) if parent in below]
            reached = [k for k in below if there[k]]
        skin[:, joint] = skin[:, reached].sum(1)
    return skin


def _free(hold: Hold, unknowns: Unknowns) -> np.ndarray:
    return unknowns.joints & (hold.joints.cpu().numpy() == 0)


def _parts(skin: Tensor, rest: Tensor, points: Points) -> Tensor:
    """(B, J, 3, 3): the rotation of each part from rest to target."""
    total = skin.sum(0).clamp_min(1e-9)
    target = points.target
    outer = (target[:, :, None] * rest[:, None]).flatten(1, 2)  # (B, 9, N)
    sums = torch.cat((outer, target, rest.expand(len(target), -1, -1)), 1) @ skin
    moment, far, near = sums[:, :9], sums[:, 9:12], sums[:, 12:]
    moment = moment.mT.unflatten(-1, (3, 3))
    moment = moment - (far[:, :, None] * near[:, None] / total).permute(0, 3, 1, 2)
    return roma.special_procrustes(moment / total[:, None, None])


def _relative(
    surface: Surface, world: Tensor, local: Tensor, hold: Hold, unknowns: Unknowns
) -> Tensor:
    """Rotations against the parents; those that are not free keep theirs."""
    parents = surface.body.parents
    free = _free(hold, unknowns)
    chain, out = [], []
    for joint, parent in enumerate(parents):
        above = chain[parent] if joint else None
        if free[joint]:
            chain.append(world[:, joint])
            out.append(world[:, joint] if above is None else above.mT @ world[:, joint])
        else:
            out.append(local[:, joint])
            chain.append(out[-1] if above is None else above @ out[-1])
    return torch.stack(out, 1)


def solve_linear(
    surface: Surface, points: Points, hold: Hold, state: State, unknowns: Unknowns
) -> State:
    """Return the state with the best shape and translation for its rotations (equation 5 and more).

    Vertices are linear in both, so one Gauss-Newton step is the answer.
    """
    only = Unknowns(unknowns.joints & False, unknowns.shape, unknowns.transl)
    posed = surface.pose(state)
    _, force = points.force(posed.vertices)
    gradient = surface.gradient(state, posed, force, only) + hold.gradient(state, posed, only)
    matrix = curvature(surface, surface.groups(only), points, hold, state, posed, only).double()
    ridge = 1e-7 * matrix.diagonal(dim1=1, dim2=2).mean(1)
    matrix.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    change = torch.linalg.solve_ex(matrix, -gradient.double()[..., None])[0][..., 0]
    return surface.step(state, posed, change.to(state.shape.dtype), only)
