"""The priors of one stage: energy, gradient and Gauss-Newton matrix.

Most of them are quadratic in the unknowns with weights that never change: those are one constant
matrix. What is left depends on the state: bending, joint limits, and a pose prior that is more
than one Gaussian.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.config import StageConfig
from fitting.limits import JointLimits
from fitting.priors import BodyPrior, PosePrior
from fitting.state import Layout

__all__ = ["StagePriors"]

_BENDS = ((52, 1.0), (55, -1.0), (9, -1.0), (12, -1.0))  # of body_pose: elbows' y, knees' x
_W_BEND = 3.17  # times the weight of the pose prior


@dataclass(frozen=True, eq=False)
class StagePriors:
    """Build it with :meth:`of`.

    Attributes:
        layout: Of the unknowns.
        prior: Of the body's pose.
        limits: Of all joints.
        stage: The weights.
        size: How much of the vector of unknowns is looked at.
        free: (F,) the unknowns of the gradient and the matrix.
        center: (layout.size,), stiffness: (layout.size, layout.size): the quadratic terms are
            (x - center)^T stiffness (x - center).
        free_stiffness: (F, F), of the free unknowns.
        cost: Constant part of the energy.
        has_constant_prior: Whether the prior of the pose is among them.
        bends: Where elbows and knees bend in the vector, bend_signs: and which way.
    """

    layout: Layout
    prior: BodyPrior
    limits: JointLimits
    stage: StageConfig
    size: int
    free: Tensor
    center: Tensor
    stiffness: Tensor
    free_stiffness: Tensor
    cost: float
    has_constant_prior: bool
    bends: Tensor
    bend_signs: Tensor

    @classmethod
    def of(
        cls,
        layout: Layout,
        prior: BodyPrior,
        limits: JointLimits,
        stage: StageConfig,
        size: int,
        free: Tensor,
    ) -> "StagePriors":
        """Prepare the priors of a stage."""
        like = layout.hand_means
        center = like.new_zeros(layout.size)
        stiffness = like.new_zeros(layout.size, layout.size)
        diagonal = torch.diagonal(stiffness)
        for _, name, weight in _squares(layout, stage):
            diagonal[layout.slices[name]] = weight
        body = layout.slices["body_pose"]
        is_constant = isinstance(prior, PosePrior) and len(prior.means) == 1
        cost = 0.0
        if is_constant:
            center[body] = prior.means[0]
            stiffness[body, body] += stage.w_pose * prior.precisions[0]
            cost = 2 * stage.w_pose * float(prior.costs[0])
        bends = torch.tensor([body.start + i for i, _ in _BENDS], device=like.device)
        return cls(
            layout, prior, limits, stage, size, free, center, stiffness,
            stiffness[free[:, None], free].contiguous(), cost, is_constant,
            bends, like.new_tensor([sign for _, sign in _BENDS]),
        )  # fmt: skip

    def add(
        self, x: Tensor, full_pose: Tensor, gradient: Tensor, matrix: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add J^T J of the free unknowns in place.

        Args:
            x: (B, layout.size) the states.
            full_pose: (B, 55, 3) their poses.
            gradient: (B, F) half the gradient of the other terms.
            matrix: (B, F, F), added to.

        Returns:
            (B,) the energy and (B, F) half its gradient, with ``gradient`` added.
        """
        layout, stage, slices = self.layout, self.stage, self.layout.slices
        away = x - self.center
        pull = away @ self.stiffness
        energy = (pull * away).sum(1) + self.cost
        matrix += self.free_stiffness
        diagonal = torch.zeros_like(pull)

        bend = self._bend(x)
        square = bend.square()
        energy = energy + square.sum(1)
        pull[:, self.bends] += self.bend_signs * square
        diagonal[:, self.bends] = square

        if stage.w_limits:
            energy = energy + self._limit(full_pose, pull, diagonal, matrix)
        body = slices["body_pose"]
        if not self.has_constant_prior:
            value, slope, stiff = self.prior.quadratic(x[:, body])
            energy = energy + stage.w_pose * value
            pull[:, body] += stage.w_pose * slope
            self._add_block(matrix, body, stage.w_pose * stiff)
        if len(self.free) < layout.size:
            pull, diagonal = pull[:, self.free], diagonal[:, self.free]
        torch.diagonal(matrix, dim1=1, dim2=2).add_(diagonal)
        return energy, gradient + pull

    def terms(self, x: Tensor, full_pose: Tensor) -> dict[str, Tensor]:
        """Return the energies (B,) by term."""
        stage, body = self.stage, self.layout.slices["body_pose"]
        excess = self.limits.residual(full_pose.flatten(1))
        out = {
            "pose": 2 * stage.w_pose * self.prior.energy(x[:, body]),
            "bend": self._bend(x).square().sum(1),
            "limits": stage.w_limits * excess.square().sum(1),
        }
        for term, name, weight in _squares(self.layout, stage):
            value = (weight * x[:, self.layout.slices[name]].square()).sum(1)
            out[term] = out[term] + value if term in out else value
        return out

    def _bend(self, x: Tensor) -> Tensor:
        """(B, 4), squared the energy of elbows and knees that bend backwards."""
        scale = (_W_BEND * self.stage.w_pose**0.5) ** 0.5
        return scale * torch.exp(self.bend_signs * x[:, self.bends])

    def _limit(self, full_pose: Tensor, pull: Tensor, diagonal: Tensor, matrix: Tensor) -> Tensor:
        """Add the limits to ``pull`` and ``diagonal``, (B, layout.size), and hands' blocks."""
        w, slices = self.stage.w_limits, self.layout.slices
        pose = full_pose.flatten(1)
        above = (pose - self.limits.upper).relu()
        below = (self.limits.lower - pose).relu()
        force = above - below
        stiff = w * (force != 0).to(force.dtype)
        body = slices["body_pose"]
        energy = w * force.square().sum(1)
        force = w * force
        pull[:, body] += force[:, 3:66]
        diagonal[:, body] += stiff[:, 3:66]
        if self.size > self.layout.coarse_size:
            face = slice(slices["jaw_pose"].start, slices["reye_pose"].stop)
            pull[:, face] += force[:, 66:75]
            diagonal[:, face] += stiff[:, 66:75]
            for i, name in enumerate(("left_hand_pca", "right_hand_pca")):
                basis = self.layout.hand_components[i]  # (C, 45)
                hand = slice(75 + 45 * i, 120 + 45 * i)
                pull[:, slices[name]] += force[:, hand] @ basis.T
                self._add_block(matrix, slices[name], (basis * stiff[:, None, hand]) @ basis.T)
        return energy

    def _add_block(self, matrix: Tensor, where: slice, block: Tensor) -> None:
        """Add a block (B, n, n) of the unknowns of a slice, as far as they are free."""
        if len(self.free) == self.size:
            matrix[:, where, where] += block
            return
        inside = (self.free >= where.start) & (self.free < where.stop)
        place = torch.nonzero(inside)[:, 0]
        of = self.free[place] - where.start
        matrix[:, place[:, None], place] += block[:, of[:, None], of]


def _squares(layout: Layout, stage: StageConfig) -> tuple[tuple[str, str, float | Tensor], ...]:
    """Term, parameter and weight of what is a plain weighted square."""
    jaw = layout.hand_means.new_tensor([1.0, 100.0, 100.0])
    return (
        ("shape", "betas", stage.w_shape),
        ("expression", "expression", stage.w_expression),
        ("hands", "left_hand_pca", stage.w_hand),
        ("hands", "right_hand_pca", stage.w_hand),
        ("jaw", "jaw_pose", stage.w_jaw * jaw),
        ("eyes", "leye_pose", stage.w_eyes),
        ("eyes", "reye_pose", stage.w_eyes),
    )
