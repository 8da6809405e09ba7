"""The energy of a fit, with its gradient and Gauss-Newton matrix.

The terms are those of SMPLify-X (Pavlakos et al. 2019, equation 1): robust reprojection of the
keypoints, pose prior, bending of elbows and knees, shape, expression, hands, jaw; and two more that
it lacks: a prior on the eyes and anatomical joint limits. Every term is a sum of squares, so that

    E(x) = sum r(x)^2,   gradient = 2 J^T r,   Gauss-Newton matrix = J^T J.
"""

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from bodymodel.sliced import SlicedBody, SlicedState, sliced_forward
from fitting.config import StageConfig
from fitting.data_term import DataPlan, Evidence, data_energy, data_quadratic, plan_data
from fitting.limits import JointLimits
from fitting.prior_terms import StagePriors
from fitting.priors import BodyPrior
from fitting.state import Layout

__all__ = ["TERMS", "Energy", "Quadratic", "Term"]

TERMS = (
    "data", "depth", "pose", "bend", "limits",
    "shape", "expression", "hands", "jaw", "eyes", "penetration", "silhouette",
    "focal", "points_3d", "views", "motion",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The energy around one state.

    Attributes:
        energy: (B,).
        gradient: (B, F), half of the energy's gradient by the free unknowns.
        matrix: (B, F, F), J^T J.
    """

    energy: Tensor
    gradient: Tensor
    matrix: Tensor

    def take(self, index: Tensor) -> "Quadratic":
        """Return some of the persons."""
        return Quadratic(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def where(self, mask: Tensor, other: "Quadratic") -> "Quadratic":
        """This where the mask (B,) is true, the other elsewhere."""
        return Quadratic(
            torch.where(mask, self.energy, other.energy),
            torch.where(mask[:, None], self.gradient, other.gradient),
            torch.where(mask[:, None, None], self.matrix, other.matrix),
        )


class Term(Protocol):
    """A part of the energy that only some fits have."""

    @property
    def name(self) -> str:
        """Its name in TERMS."""
        ...

    def take(self, index: Tensor) -> "Term":
        """Return it for some of the persons."""
        ...

    def add(
        self, energy: "Energy", x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> Tensor:
        """Add to half the gradient (B, size) and to J^T J (B, size, size) in place.

        Args:
            energy: Whose term it is; its ``columns`` gather derivatives.
            x: (B, layout.size) the states.
            state: The posed points of ``energy.sliced``.
            gradient: (B, size), added to.
            matrix: (B, size, size), added to.

        Returns:
            (B,) this term's energy.
        """
        ...


@dataclass(frozen=True, eq=False)
class Energy:
    """One stage's energy for a batch of persons.

    Attributes:
        sliced: The points that are fitted.
        layout: Of the unknowns.
        prior: Of the body's pose.
        limits: Of all joints.
        stage: The weights.
        evidence: What is seen.
        size: How much of the vector of unknowns is looked at: ``layout.coarse_size`` or
            ``layout.size``.
        free: (F,) positions of the unknowns that may move; all up to ``size`` if None.
        extra: Terms that only some fits have.
    """

    sliced: SlicedBody
    layout: Layout
    prior: BodyPrior
    limits: JointLimits
    stage: StageConfig
    evidence: Evidence
    size: int
    free: Tensor | None = None
    extra: tuple[Term, ...] = ()

    def take(self, index: Tensor) -> "Energy":
        """Return the energy of some of the persons."""
        extra = tuple(term.take(index) for term in self.extra)
        return replace(self, evidence=self.evidence.take(index), extra=extra)

    def widen(self, delta: Tensor) -> Tensor:
        """Fill an increment of the free unknowns, (B, F), up with zeros to all of them."""
        full = delta.new_zeros(delta.shape[0], self.layout.size)
        full[:, slice(self.size) if self.free is None else self.free] = delta
        return full

    @property
    def _plan(self) -> DataPlan:
        return _prepare_data(self.sliced, self.layout, self.size, self.free)

    @property
    def _priors(self) -> StagePriors:
        return _prepare_priors(
            self.layout, self.prior, self.limits, self.stage, self.size, self.free
        )

    def __call__(self, x: Tensor) -> Quadratic:
        """Evaluate at the states (B, size)."""
        layout = self.layout
        full_pose = layout.full_pose(x)
        state = sliced_forward(self.sliced, full_pose, layout.shape(x), layout.transl(x))
        data, gradient, matrix = data_quadratic(
            self._plan, self.sliced, self.evidence, state, self.stage.robust_px, layout.zoom(x)
        )
        energy, gradient = self._priors.add(x, full_pose, gradient, matrix)
        energy = data + energy
        if self.extra:
            if self.free is None:
                added = self._extra(x, state, gradient, matrix)
            else:
                pull, stiff = self._zeros(x)
                added = self._extra(x, state, pull, stiff)
                gradient = gradient + pull[:, self.free]
                matrix = matrix + stiff[:, self.free[:, None], self.free]
            energy = energy + sum(added.values())
        return Quadratic(energy, gradient, matrix)

    def terms(self, x: Tensor) -> Tensor:
        """Return the energies at the states (B, size) by term, (B, len(TERMS))."""
        full_pose = self.layout.full_pose(x)
        state = sliced_forward(self.sliced, full_pose, self.layout.shape(x), self.layout.transl(x))
        data = data_energy(self.evidence, state, self.stage.robust_px, self.layout.zoom(x))
        terms = {"data": data, **self._priors.terms(x, full_pose)}
        if self.extra:
            terms |= self._extra(x, state, *self._zeros(x))
        nothing = torch.zeros_like(data)
        return torch.stack([terms.get(name, nothing) for name in TERMS], 1)

    def _extra(
        self, x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> dict[str, Tensor]:
        """Return energies by name of the extra terms, which add what they pull in place."""
        return {t.name: t.add(self, x, state, gradient, matrix) for t in self.extra}

    def _zeros(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and matrix of nothing."""
        batch = x.shape[0]
        return x.new_zeros(batch, self.size), x.new_zeros(batch, self.size, self.size)

    def columns(self, pose: Tensor, shape: Tensor, transl: Tensor) -> Tensor:
        """Gather the derivatives by axis-angle and shape into those by the unknowns."""
        num_betas = self.layout.slices["betas"].stop - self.layout.slices["betas"].start
        flat = pose.flatten(2)
        wanted = 165 if self.size > self.layout.coarse_size else 66
        if flat.shape[-1] < wanted:  # points of a limb: joints after it in the order move none
            flat = torch.nn.functional.pad(flat, (0, wanted - flat.shape[-1]))
        columns = [flat[..., :66], transl, shape[..., :num_betas]]
        if self.size > self.layout.coarse_size:
            hands = [
                flat[..., first : first + 45] @ self.layout.hand_components[i].T
                for i, first in enumerate((75, 120))
            ]
            no_focal = torch.zeros_like(flat[..., :1])  # points do not move with the lens
            columns += [flat[..., 66:75], *hands, shape[..., num_betas:], no_focal]
        return torch.cat(columns, 2)


# What follows is the same for every batch. Keys are compared by identity, the stage by value.


@lru_cache(maxsize=64)
def _prepare_data(sliced: SlicedBody, layout: Layout, size: int, free: Tensor | None) -> DataPlan:
    return plan_data(sliced, layout, range(size) if free is None else free.tolist())


@lru_cache(maxsize=64)
def _prepare_priors(
    layout: Layout,
    prior: BodyPrior,
    limits: JointLimits,
    stage: StageConfig,
    size: int,
    free: Tensor | None,
) -> StagePriors:
    if free is None:
        free = torch.arange(size, device=layout.hand_means.device)
    return StagePriors.of(layout, prior, limits, stage, size, free)
