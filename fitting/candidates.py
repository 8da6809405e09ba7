"""States of a person that compete, and which of them are worth going on with."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bodymodel.rotations import compose_rotvecs
from bodymodel.sliced import SlicedBody, sliced_forward
from fitting.energy import Energy
from fitting.solver import minimise
from fitting.state import Layout

__all__ = ["Candidates", "measure", "settle"]

_SAME_HEADING = 0.7  # radians; roots closer than this face the same way


@dataclass(frozen=True, eq=False)
class Candidates:
    """C states of each of B persons, some of them closed: not solved for any more.

    Attributes:
        x: (B, C, size).
        energy: (B, C), inf where unknown.
        iterations: (B, C) int64 so far.
        converged: (B, C) bool.
        is_open: (B, C) bool.
        same_as: (B, C) int64: which candidate a closed one had come to; itself if none.
    """

    x: Tensor
    energy: Tensor
    iterations: Tensor
    converged: Tensor
    is_open: Tensor
    same_as: Tensor

    @classmethod
    def at(cls, x: Tensor, is_open: Tensor | None = None) -> "Candidates":
        """Return fresh candidates at (B, C, size) states."""
        shape = x.shape[:2]
        itself = torch.arange(shape[1], device=x.device).expand(shape)
        return cls(
            x=x,
            energy=x.new_full(shape, torch.inf),
            iterations=torch.zeros(shape, dtype=torch.int64, device=x.device),
            converged=torch.zeros(shape, dtype=torch.bool, device=x.device),
            is_open=torch.ones(shape, dtype=torch.bool, device=x.device)
            if is_open is None
            else is_open,
            same_as=itself,
        )

    def take(self, which: Tensor) -> "Candidates":
        """Return some (B, k) of each person's candidates; they are the same as none then."""
        x = self.x.gather(1, which[..., None].expand(-1, -1, self.x.shape[-1]))
        others = (self.energy, self.iterations, self.converged, self.is_open)
        itself = torch.arange(which.shape[1], device=which.device).expand(which.shape)
        return Candidates(x, *(values.gather(1, which) for values in others), itself)

    def joined(self, other: "Candidates") -> "Candidates":
        """Return these and others of the same persons."""
        mine = (self.x, self.energy, self.iterations, self.converged, self.is_open, self.same_as)
        theirs = (
            other.x, other.energy, other.iterations, other.converged, other.is_open,
            other.same_as + self.x.shape[1],
        )  # fmt: skip
        return Candidates(*(torch.cat(pair, 1) for pair in zip(mine, theirs, strict=True)))

    @property
    def open_energy(self) -> Tensor:
        """(B, C) energies, inf where closed."""
        return torch.where(self.is_open, self.energy, torch.inf)

    def best(self) -> tuple["Candidates", Tensor]:
        """Return the best open one of each person, and which (B, 1) it was."""
        order = self.open_energy.argsort(dim=1, stable=True)[:, :1]
        return self.take(order), order

    def hopeless(self, factor: float) -> "Candidates":
        """Close those whose energy is more than ``factor`` times the best's."""
        energy = self.open_energy
        return replace(self, is_open=self.is_open & (energy <= factor * energy.amin(1, True)))

    def merged(self, sliced: SlicedBody, layout: Layout, distance_m: float) -> "Candidates":
        """Close those that have come to where a better one is.

        Two are one answer if their points lie within ``distance_m`` (RMS) of each other, whatever
        their depth.
        """
        batch, count, _ = self.x.shape
        flat = self.x.flatten(0, 1)
        state = sliced_forward(
            sliced, layout.full_pose(flat), layout.shape(flat), layout.transl(flat)
        )
        points = state.points - state.points.mean(1, keepdim=True)
        points = points.view(batch, count, -1)
        apart = (points[:, :, None] - points[:, None]).square().sum(-1)  # (B, C, C)
        near = apart < distance_m**2 * len(sliced.points)
        energy = self.open_energy
        place = torch.arange(count, device=self.x.device)
        is_tie = energy[:, :, None] == energy[:, None]
        better = (energy[:, :, None] < energy[:, None]) | (is_tie & (place[:, None] < place))
        twin = near & better & self.is_open[:, :, None] & self.is_open[:, None]
        closed = twin.any(1)
        # of several, the best stands for it
        energies = torch.where(twin, energy[:, :, None], torch.inf)
        same_as = torch.where(closed, energies.argmin(1), self.same_as)
        return replace(self, is_open=self.is_open & ~closed, same_as=same_as)

    def turns(self, layout: Layout, reference: Tensor) -> Tensor:
        """(B, C) angles of the root rotations against those of (B, size) states."""
        root = layout.slices["global_orient"]
        other = reference[:, None, root].expand_as(self.x[..., root])
        return compose_rotvecs(self.x[..., root], -other).norm(dim=-1)

    def distinct(self, layout: Layout, count: int) -> Tensor:
        """(B, count) the best, then those that face another way, then the rest; each by energy."""
        best, _ = self.best()
        energy = self.open_energy
        same = (self.turns(layout, best.x[:, 0]) < _SAME_HEADING) | ~self.is_open
        order = energy.argsort(dim=1, stable=True)
        # a stable sort by class keeps the order by energy within each class
        rank = same.gather(1, order).long()
        rank[:, 0] = -1
        return order.gather(1, rank.argsort(dim=1, stable=True))[:, :count]

    def margin(self, layout: Layout) -> Tensor:
        """(B,) how much worse the best that faces another way is, in parts of the best; or NaN."""
        best, _ = self.best()
        same = self.turns(layout, best.x[:, 0]) < _SAME_HEADING
        other = torch.where(same | ~self.is_open, torch.inf, self.energy).amin(1)
        margin = other / best.energy[:, 0] - 1
        return torch.where(torch.isinf(margin), torch.nan, margin)

    def solved(
        self, solve: Callable[[Tensor, Tensor], "Candidates"], *, go_on: bool = False
    ) -> "Candidates":
        """Solve for the open ones.

        Args:
            solve: (n,) persons and (n, size) states to their (n, 1) candidates.
            go_on: Leave those alone that have converged.
        """
        wanted = self.is_open & ~self.converged if go_on else self.is_open
        person, place = torch.nonzero(wanted, as_tuple=True)
        if not len(person):
            return self
        found = solve(person, self.x[person, place])
        x, energy = self.x.clone(), self.energy.clone()
        iterations, converged = self.iterations.clone(), self.converged.clone()
        x[person, place], energy[person, place] = found.x[:, 0], found.energy[:, 0]
        iterations[person, place] += found.iterations[:, 0]
        converged[person, place] = found.converged[:, 0]
        return replace(self, x=x, energy=energy, iterations=iterations, converged=converged)


def settle(
    energy: Energy,
    candidates: Candidates,
    iterations: int,
    tolerance: float,
    *,
    go_on: bool = False,
) -> Candidates:
    """Minimise from the open candidates.

    Args:
        energy: Of the B persons.
        candidates: (B, C).
        iterations: The most of each.
        tolerance: As for fitting.solver.minimise.
        go_on: This energy was minimised before, and those that converged stay.
    """

    def solve(person: Tensor, x: Tensor) -> Candidates:
        solution = minimise(
            energy.take(person), x, energy.layout.step, iterations=iterations, tolerance=tolerance
        )
        found = Candidates.at(solution.x[:, None])
        return replace(
            found,
            energy=torch.nan_to_num(solution.energy, nan=torch.inf)[:, None],
            iterations=solution.iterations[:, None],
            converged=solution.converged[:, None],
        )

    return candidates.solved(solve, go_on=go_on)


def measure(energy: Energy, candidates: Candidates) -> Candidates:
    """Evaluate all candidates, closed ones too, without moving them."""
    batch, count, size = candidates.x.shape
    owner = torch.arange(batch, device=candidates.x.device).repeat_interleave(count)
    values = energy.take(owner).terms(candidates.x.reshape(-1, size)).sum(1)
    values = torch.nan_to_num(values, nan=torch.inf).view(batch, count)
    return replace(candidates, energy=values)
