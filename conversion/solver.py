"""Nonlinear least squares over many bodies at once: a trust region for each of them.

Gauss-Newton with Powell's dogleg (Nocedal and Wright, Numerical Optimization, algorithm 4.1 and
section 4.1). Every body has its own radius, takes or refuses its own steps, and leaves the batch
when it is done, so that nothing depends on who else is in it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bodymodel.rotations import rotmat_to_rotvec
from conversion.surface import Group, Posed, State, Surface, Unknowns

__all__ = [
    "Edges", "Hold", "Outcome", "Points", "TrustRegion", "curvature", "joined_outcomes", "minimize",
    "polish",
]  # fmt: skip

_BETA_SCALE = 0.1  # a standard deviation of shape weighs in a step's length like 0.1 rad
_RIDGE = 1e-7  # of the diagonal: float32 sums


@dataclass(frozen=True)
class TrustRegion:
    """Settings of the solver.

    Attributes:
        radius: First radius; radians, metres and tenths of a standard deviation count alike.
        max_radius: Largest.
        accept: Least ratio of actual to predicted decrease of a step that is taken.
        rtol: Done when a step is predicted to gain less than this share of the energy ...
        atol: ... or than this, mm^2.
        max_iterations: Steps tried.
    """

    radius: float = 1.0
    max_radius: float = 20.0
    accept: float = 1e-3
    rtol: float = 1e-3
    atol: float = 1e-5
    max_iterations: int = 30


@dataclass(frozen=True, eq=False)
class Hold:
    """Quadratic ties: ``(joint |log(R reference^T)|^2 + shape |coefficient|^2) / 2``.

    Attributes:
        joints: (J,) mm^2 per rad^2.
        references: (J, 3, 3) rotations relative to the parents.
        shape: (S,) mm^2 per squared standard deviation.
    """

    joints: Tensor
    references: Tensor
    shape: Tensor

    def energy(self, state: State) -> Tensor:
        """(B,) mm^2."""
        turn = self._turn(state)
        tied = (turn.square().sum(-1) * self.joints).sum(1)
        return (tied + (state.shape.square() * self.shape).sum(1)) / 2

    def gradient(self, state: State, posed: Posed, unknowns: Unknowns) -> Tensor:
        """(B, P). The transposed Jacobian of the logarithm leaves the logarithm as it is."""
        turn = (posed.above @ self._turn(state)[..., None])[..., 0] * self.joints[:, None]
        parts = [turn[:, unknowns.joints].flatten(1)]
        parts.append((state.shape * self.shape)[:, unknowns.shape])
        if unknowns.transl:
            parts.append(torch.zeros_like(state.transl))
        return torch.cat(parts, 1)

    def diagonal(self, unknowns: Unknowns) -> Tensor:
        """(P,) of the Gauss-Newton matrix."""
        parts = [self.joints[unknowns.joints].repeat_interleave(3), self.shape[unknowns.shape]]
        if unknowns.transl:
            parts.append(self.shape.new_zeros(3))
        return torch.cat(parts)

    def _turn(self, state: State) -> Tensor:
        out = state.rotations.new_zeros(*state.rotations.shape[:2], 3)
        tied = self.joints > 0
        if bool(tied.any()):
            out[:, tied] = rotmat_to_rotvec(state.rotations[:, tied] @ self.references[tied].mT)
        return out


@dataclass(frozen=True, eq=False)
class Points:
    """``sum_v m_v |v - target|^2 / 2`` (equation 6, and 5 over the translation).

    Attributes:
        target: (B, 3, N) metres.
        masses: (N,) mm^2 per m^2: they sum to 1e6, so that the energy is half a mean square.
    """

    target: Tensor
    masses: Tensor

    def take(self, index: Tensor) -> "Points":
        """The bodies of an index."""
        return Points(self.target[index], self.masses)

    def force(self, vertices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy (B,) and its derivative (B, 3, N)."""
        gap = vertices - self.target
        force = gap * self.masses
        return (force * gap).sum((1, 2)) / 2, force

    def rows(self, group: Group, jacobian: Tensor) -> Tensor:
        """Weigh the derivative (B, 3, n, C) of a group's vertices."""
        return jacobian * self.masses[group.vertices].sqrt()[:, None]


@dataclass(frozen=True, eq=False)
class Edges:
    """``sum over edges of m |(v_a - v_b) - (target_a - target_b)|^2 / 2`` (equation 4).

    Attributes:
        target: (B, 3, N) metres.
        ends: (M, 2) vertices among the surface's.
        masses: (M,) mm^2 per m^2.
        by_group: For each of the surface's groups, which edges lie in it, and both ends' places
            in the group.
    """

    target: Tensor
    ends: Tensor
    masses: Tensor
    by_group: dict[int, tuple[Tensor, Tensor, Tensor]]

    def take(self, index: Tensor) -> "Edges":
        """The bodies of an index."""
        return Edges(self.target[index], self.ends, self.masses, self.by_group)

    def force(self, vertices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy (B,) and its derivative (B, 3, N)."""
        gap = vertices - self.target
        a, b = self.ends.T
        edge = gap[..., a] - gap[..., b]
        pull = edge * self.masses
        force = torch.zeros_like(gap).index_add(2, a, pull).index_add(2, b, pull, alpha=-1)
        return (pull * edge).sum((1, 2)) / 2, force

    def rows(self, group: Group, jacobian: Tensor) -> Tensor:
        """Turn the derivative (B, 3, n, C) of a group's vertices into that of its edges."""
        edges, a, b = self.by_group[id(group)]
        return (jacobian[:, :, a] - jacobian[:, :, b]) * self.masses[edges].sqrt()[:, None]


Objective = Points | Edges


@dataclass(frozen=True, eq=False)
class Outcome:
    """Where the solver ended.

    Attributes:
        state: The bodies.
        energy: (B,) mm^2.
        has_settled: (B,) bool: no step is predicted to gain anything that counts.
        iterations: (B,) steps tried.
    """

    state: State
    energy: Tensor
    has_settled: Tensor
    iterations: Tensor


def minimize(
    surface: Surface,
    groups: list[Group],
    objective: Objective,
    hold: Hold,
    start: State,
    unknowns: Unknowns,
    settings: TrustRegion,
) -> Outcome:
    """Minimise an objective over the unknowns of every body.

    Args:
        surface: The vertices that the objective looks at.
        groups: Of ``surface.groups(unknowns)``.
        objective: What.
        hold: Ties, added to it.
        start: B bodies.
        unknowns: What is solved for.
        settings: Of the trust region.
    """
    batch, device = len(start.shape), start.shape.device
    best = State(start.rotations.clone(), start.shape.clone(), start.transl.clone())
    energies = torch.full((batch,), torch.inf, dtype=start.shape.dtype, device=device)
    settled = torch.zeros(batch, dtype=torch.bool, device=device)
    tried = torch.zeros(batch, dtype=torch.int64, device=device)
    active = torch.arange(batch, device=device)
    radius = torch.full((batch,), settings.radius, dtype=torch.float64, device=device)
    scale = _scale(unknowns, start)

    state, goal = start, objective
    posed = surface.pose(state)
    energy, force = goal.force(posed.vertices)
    energy = energy + hold.energy(state)
    for _ in range(settings.max_iterations):
        gradient = surface.gradient(state, posed, force, unknowns)
        gradient = (gradient + hold.gradient(state, posed, unknowns)).double() / scale
        matrix = curvature(surface, groups, goal, hold, state, posed, unknowns)
        factor, matrix = _factor(matrix.double() / (scale[:, None] * scale))
        step, predicted, newton = _dogleg(gradient, matrix, factor, radius[active])
        trial = surface.step(state, posed, (step / scale).to(state.shape.dtype), unknowns)
        moved = surface.pose(trial)
        new, new_force = goal.force(moved.vertices)
        new = new + hold.energy(trial)
        gain = (energy - new).double()
        ratio = gain / predicted.clamp_min(1e-30)
        take = (ratio > settings.accept) & torch.isfinite(new)
        length = step.norm(dim=1)
        r = radius[active]
        r = torch.where(ratio < 0.25, 0.25 * length, r)
        r = torch.where((ratio > 0.75) & (length > 0.99 * r), 2 * r, r)
        radius[active] = r.clamp(max=settings.max_radius)
        tried[active] += 1

        state = _mix(take, trial, state)
        energy = torch.where(take, new, energy)
        posed = _mix_posed(take, moved, posed)
        force = torch.where(take[:, None, None], new_force, force)
        # Newton's decrement, whether the step was taken or not: one of nothing but rounding is not.
        done = newton <= settings.rtol * energy.double() + settings.atol
        stuck = radius[active] < 1e-7
        leave = done | stuck
        if bool(leave.any()):
            out = active[leave]
            best.put(out, state.take(leave))
            energies[out] = energy[leave]
            settled[out] = done[leave]
            stay = ~leave
            active = active[stay]
            if not len(active):
                break
            state, posed, force = state.take(stay), _take_posed(posed, stay), force[stay]
            energy, goal = energy[stay], goal.take(stay)
    if len(active):
        best.put(active, state)
        energies[active] = energy
    return Outcome(best, energies, settled, tried)


def polish(
    surface: Surface,
    objective: Points,
    hold: Hold,
    start: State,
    unknowns: Unknowns,
    matrix: Tensor,
    settings: TrustRegion,
) -> tuple[Outcome, Tensor]:
    """Finish on all vertices with their exact gradient and a matrix that is only about right.

    Args:
        surface: All vertices.
        objective: Of all vertices.
        hold: Ties, added to it.
        start: B bodies, near the end.
        unknowns: What is solved for.
        matrix: (B, P, P), of :func:`curvature` at the start on a sample of the vertices.
        settings: Of the trust region.

    Returns:
        The outcome, and the vertices (B, 3, N).
    """
    scale = _scale(unknowns, start)
    factor, _ = _factor(matrix.double() / (scale[:, None] * scale))
    state = start
    posed = surface.pose(state)
    energy, force = objective.force(posed.vertices)
    energy = energy + hold.energy(state)
    settled = torch.zeros(len(energy), dtype=torch.bool, device=energy.device)
    tried = torch.zeros(len(energy), dtype=torch.int64, device=energy.device)
    shrink = torch.ones_like(energy, dtype=torch.float64)
    for _ in range(settings.max_iterations):
        gradient = surface.gradient(state, posed, force, unknowns)
        gradient = (gradient + hold.gradient(state, posed, unknowns)).double() / scale
        step = -torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        predicted = -(gradient * step).sum(1) / 2
        settled |= predicted <= settings.rtol * energy.double() + settings.atol
        if bool(settled.all()):
            break
        tried += ~settled
        step = torch.where(settled[:, None], 0, step * shrink[:, None])
        trial = surface.step(state, posed, (step / scale).to(state.shape.dtype), unknowns)
        moved = surface.pose(trial)
        new, new_force = objective.force(moved.vertices)
        new = new + hold.energy(trial)
        take = (new < energy) & ~settled
        shrink = torch.where(take | settled, shrink, shrink / 2)
        state = _mix(take, trial, state)
        posed = _mix_posed(take, moved, posed)
        energy = torch.where(take, new, energy)
        force = torch.where(take[:, None, None], new_force, force)
    return Outcome(state, energy, settled, tried), posed.vertices


def joined_outcomes(parts: list[Outcome]) -> Outcome:
    """Return the outcomes of batches as those of one."""
    state = State(
        *(torch.cat([getattr(p.state, n) for p in parts]) for n in State.__dataclass_fields__)
    )
    rest = ("energy", "has_settled", "iterations")
    return Outcome(state, *(torch.cat([getattr(p, n) for p in parts]) for n in rest))


def curvature(
    surface: Surface,
    groups: list[Group],
    objective: Objective,
    hold: Hold,
    state: State,
    posed: Posed,
    unknowns: Unknowns,
) -> Tensor:
    """Return the Gauss-Newton matrix (B, P, P) of objective and ties."""
    matrix = surface.curvature(state, posed, groups, unknowns, objective.rows)
    matrix.diagonal(dim1=1, dim2=2).add_(hold.diagonal(unknowns))
    return matrix


def _scale(unknowns: Unknowns, state: State) -> Tensor:
    scale = torch.ones(unknowns.count, dtype=torch.float64, device=state.shape.device)
    first = 3 * int(unknowns.joints.sum())
    scale[first : first + int(unknowns.shape.sum())] = _BETA_SCALE
    return scale


def _factor(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factors and the matrices, with as much ridge as each needs."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * (diagonal + diagonal.mean(1, keepdim=True))
    while True:
        ridged = matrix + torch.diag_embed(ridge)
        factor, info = torch.linalg.cholesky_ex(ridged)
        bad = info > 0
        if not bool(bad.any()) or not bool(torch.isfinite(ridged).all()):
            return factor, ridged
        ridge = torch.where(bad[:, None], 100 * ridge, ridge)


def _dogleg(
    gradient: Tensor, matrix: Tensor, factor: Tensor, radius: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the step (B, P), its predicted gain (B,) and the full step's."""
    full = -torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    newton = -(gradient * full).sum(1) / 2
    bent = (matrix @ gradient[..., None])[..., 0]
    squared = gradient.square().sum(1)
    along = squared / (gradient * bent).sum(1).clamp_min(1e-300)
    steepest = -along[:, None] * gradient
    # from the steepest point towards the full step, up to the radius
    way = full - steepest
    a = way.square().sum(1).clamp_min(1e-300)
    b = (steepest * way).sum(1)
    c = steepest.square().sum(1) - radius**2
    t = (-b + (b * b - a * c).clamp_min(0).sqrt()) / a
    step = steepest + t.clamp(0, 1)[:, None] * way
    short = -(radius / squared.sqrt().clamp_min(1e-300))[:, None] * gradient
    step = torch.where((c >= 0)[:, None], short, step)
    step = torch.where((full.norm(dim=1) <= radius)[:, None], full, step)
    curved = (step * (matrix @ step[..., None])[..., 0]).sum(1)
    return step, -(gradient * step).sum(1) - curved / 2, newton


def _mix(take: Tensor, new: State, old: State) -> State:
    if bool(take.all()):
        return new
    return State(
        torch.where(take[:, None, None, None], new.rotations, old.rotations),
        torch.where(take[:, None], new.shape, old.shape),
        torch.where(take[:, None], new.transl, old.transl),
    )


def _fields(function: Callable[[Tensor], Tensor], posed: Posed) -> Posed:
    return Posed(*(function(getattr(posed, name)) for name in Posed.__dataclass_fields__))


def _take_posed(posed: Posed, index: Tensor) -> Posed:
    return _fields(lambda x: x[index], posed)


def _mix_posed(take: Tensor, new: Posed, old: Posed) -> Posed:
    if bool(take.all()):
        return new
    pairs = [(getattr(new, n), getattr(old, n)) for n in Posed.__dataclass_fields__]
    return Posed(*(torch.where(take.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))
