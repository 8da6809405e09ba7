"""The energy of a fit, with its gradient and Gauss-Newton matrix.

The terms are those of SMPLify-X (Pavlakos et al. 2019, equation 1): robust reprojection of the
keypoints, pose prior, bending of elbows and knees, shape, expression, hands, jaw; and two more that
it lacks: a prior on the eyes and anatomical joint limits. Every term is a sum of squares, so that

    E(x) = sum r(x)^2,   gradient = 2 J^T r,   Gauss-Newton matrix = J^T J.
"""

from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from bodymodel.sliced import SlicedBody, SlicedState, sliced_forward, sliced_jacobian
from fitting.config import StageConfig
from fitting.limits import JointLimits
from fitting.priors import PosePrior
from fitting.state import Layout

TERMS = (
    "data", "depth", "pose", "bend", "limits",
    "shape", "expression", "hands", "jaw", "eyes",
)  # fmt: skip

_NEAREST_M = 0.1  # points closer to the camera than this are projected as if they were here
_BENDS = ((52, 1.0), (55, -1.0), (9, -1.0), (12, -1.0))  # of body_pose: elbows' y, knees' x
_W_BEND = 3.17  # times the weight of the pose prior


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a batch of persons is fitted to.

    Attributes:
        points_px: (B, P, 2).
        weights: (B, P) of the squared residuals: confidence squared times the point's own weight.
        focal_px: (B,), center_px: (B, 2).
        unit: (B,) residual units per pixel.
    """

    points_px: Tensor
    weights: Tensor
    focal_px: Tensor
    center_px: Tensor
    unit: Tensor

    def take(self, index: Tensor) -> "Evidence":
        """Return some of the persons."""
        return Evidence(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def points(self, index: Tensor) -> "Evidence":
        """Return some of the points of all persons."""
        return replace(self, points_px=self.points_px[:, index], weights=self.weights[:, index])


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The energy around one state.

    Attributes:
        energy: (B,).
        terms: (B, len(TERMS)), their sum is the energy.
        gradient: (B, F), half of the energy's gradient by the free unknowns.
        matrix: (B, F, F), J^T J.
    """

    energy: Tensor
    terms: Tensor
    gradient: Tensor
    matrix: Tensor

    def take(self, index: Tensor) -> "Quadratic":
        """Return some of the persons."""
        return Quadratic(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def where(self, mask: Tensor, other: "Quadratic") -> "Quadratic":
        """This where the mask (B,) is true, the other elsewhere."""
        return Quadratic(
            torch.where(mask, self.energy, other.energy),
            torch.where(mask[:, None], self.terms, other.terms),
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


class StageTerm(Protocol):
    """A Term before it is known how much a stage makes of it."""

    def take(self, index: Tensor) -> "StageTerm":
        """Return it for some of the persons."""
        ...

    def at_stage(self, stage: StageConfig) -> Term | None:
        """Return it with the stage's weight; None where the stage leaves it out."""
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
    prior: PosePrior
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

    def __call__(self, x: Tensor) -> Quadratic:
        """Evaluate at the states (B, size)."""
        layout, stage, evidence = self.layout, self.stage, self.evidence
        full_pose = layout.full_pose(x)
        state = sliced_forward(self.sliced, full_pose, layout.shape(x), layout.transl(x))

        # robust reprojection: Geman-McClure per coordinate, as iteratively reweighted squares
        depth = state.points[..., 2].clamp_min(_NEAREST_M)
        ray = state.points[..., :2] / depth[..., None]
        scale = (evidence.focal_px * evidence.unit)[:, None]
        target = (evidence.points_px - evidence.center_px[:, None]) * evidence.unit[:, None, None]
        residual = scale[..., None] * ray - target
        square = residual.square()
        rho2 = stage.robust_px**2
        inlier = rho2 / (rho2 + square)
        weights = evidence.weights[..., None]
        data = (weights * square * inlier).sum((1, 2))
        root_weight = weights.sqrt() * inlier
        rows = torch.zeros(*ray.shape[:2], 2, 3, dtype=x.dtype, device=x.device)
        rows[..., 0, 0] = rows[..., 1, 1] = 1
        rows[..., 2] = -ray
        rows *= (scale / depth)[..., None, None] * root_weight[..., None]
        pose, shape, transl = sliced_jacobian(self.sliced, state, rows, root_on_manifold=True)
        jacobian = self.columns(pose, shape, transl)
        weighted = (root_weight * residual).flatten(1)
        gradient = (jacobian.mT @ weighted[..., None])[..., 0]
        matrix = jacobian.mT @ jacobian

        terms = {"data": data, **self._priors(x, full_pose, gradient, matrix)}
        for term in self.extra:
            terms[term.name] = term.add(self, x, state, gradient, matrix)
        nothing = torch.zeros_like(data)
        stacked = torch.stack([terms.get(name, nothing) for name in TERMS], 1)
        if self.free is not None:
            gradient = gradient[:, self.free]
            matrix = matrix[:, self.free[:, None], self.free]
        return Quadratic(stacked.sum(1), stacked, gradient, matrix)

    def columns(self, pose: Tensor, shape: Tensor, transl: Tensor) -> Tensor:
        """Gather the derivatives by axis-angle and shape into those by the unknowns."""
        num_betas = self.layout.slices["betas"].stop - self.layout.slices["betas"].start
        flat = pose.flatten(2)
        body = flat[..., :66]
        if flat.shape[-1] < 66:  # points of a limb: joints after it in the order move none
            body = torch.nn.functional.pad(flat, (0, 66 - flat.shape[-1]))
        columns = [body, transl, shape[..., :num_betas]]
        if self.size > self.layout.coarse_size:
            hands = [
                flat[..., first : first + 45] @ self.layout.hand_components[i].T
                for i, first in enumerate((75, 120))
            ]
            columns += [flat[..., 66:75], *hands, shape[..., num_betas:]]
        return torch.cat(columns, 2)

    def _priors(
        self, x: Tensor, full_pose: Tensor, gradient: Tensor, matrix: Tensor
    ) -> dict[str, Tensor]:
        """Add the priors to the gradient and the matrix in place; return their energies."""
        stage, slices = self.stage, self.layout.slices

        body = slices["body_pose"]
        energy, pull, stiff = self.prior.quadratic(x[:, body])
        gradient[:, body] += stage.w_pose * pull
        matrix[:, body, body] += stage.w_pose * stiff
        energies = {"pose": stage.w_pose * energy}

        index = torch.tensor([body.start + i for i, _ in _BENDS], device=x.device)
        sign = torch.tensor([s for _, s in _BENDS], dtype=x.dtype, device=x.device)
        bend = (_W_BEND * stage.w_pose**0.5) ** 0.5 * torch.exp(sign * x[:, index])
        slope = sign * bend
        gradient[:, index] += slope * bend
        matrix[:, index, index] += slope.square()
        energies["bend"] = bend.square().sum(1)

        excess, slope = self.limits.residual_and_jacobian(full_pose.flatten(1))
        energies["limits"] = stage.w_limits * excess.square().sum(1)
        pull = stage.w_limits * slope * excess
        stiff = stage.w_limits * slope.square()
        diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
        gradient[:, body] += pull[:, 3:66]
        diagonal[:, body] += stiff[:, 3:66]
        if self.size > self.layout.coarse_size:
            face = slice(slices["jaw_pose"].start, slices["reye_pose"].stop)
            gradient[:, face] += pull[:, 66:75]
            diagonal[:, face] += stiff[:, 66:75]
            for i, name in enumerate(("left_hand_pca", "right_hand_pca")):
                basis = self.layout.hand_components[i]  # (C, 45)
                hand = slice(75 + 45 * i, 120 + 45 * i)
                gradient[:, slices[name]] += pull[:, hand] @ basis.T
                matrix[:, slices[name], slices[name]] += (basis * stiff[:, None, hand]) @ basis.T

        jaw = x.new_tensor([1.0, 100.0, 100.0])
        for term, name, weight in (
            ("shape", "betas", stage.w_shape),
            ("expression", "expression", stage.w_expression),
            ("hands", "left_hand_pca", stage.w_hand),
            ("hands", "right_hand_pca", stage.w_hand),
            ("jaw", "jaw_pose", stage.w_jaw * jaw),
            ("eyes", "leye_pose", stage.w_eyes),
            ("eyes", "reye_pose", stage.w_eyes),
        ):
            value = x[:, slices[name]]
            weighted = weight * value
            energies[term] = energies.get(term, 0) + (weighted * value).sum(1)
            if slices[name].stop <= self.size:
                gradient[:, slices[name]] += weighted
                diagonal[:, slices[name]] += weight
        return energies
