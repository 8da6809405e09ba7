"""What is known of depth beside the picture, as a weak term of the energy.

**A 3D guess of the joints.** A detector's 3D landmarks (MediaPipe's "world" landmarks) enter as
differences of depth along bones (bodymodel.depth_spans), with a heavy tail.

**Trunks are upright.** A trunk that leans by 15 degrees is 3 % shorter in the picture: less than
people's proportions differ. So the picture hardly tells, and what decides is that most people stand
or sit upright and most cameras are held level. Not all: the pull lets go of a trunk that leans far,
and of one that is not upright in the picture.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from bodymodel.depth_spans import DepthSpans
from bodymodel.sliced import SlicedBody, SlicedState, sliced_forward
from fitting.config import StageConfig
from fitting.data_term import Evidence
from fitting.energy import Energy

__all__ = ["DepthTerm", "lines_of_sight"]

_ROBUST_SD = 6.0  # standard deviations beyond which a guess is hardly believed


@lru_cache(maxsize=64)
def _among(sliced: SlicedBody, others: SlicedBody) -> Tensor | None:
    """Return where the joints of one reduced body stand among another's; None if not all do."""
    there = others.joint_ids.tolist()
    if not set(sliced.joint_ids.tolist()) <= set(there):
        return None
    places = [there.index(j) for j in sliced.joint_ids.tolist()]
    return torch.tensor(places, device=sliced.joint_ids.device)


def lines_of_sight(evidence: Evidence) -> Tensor:
    """Return (B, 3) unit vectors from the camera to the middle of what is seen of each person."""
    weight = evidence.weights / evidence.weights.sum(1, keepdim=True).clamp_min(1e-9)
    middle = (weight[..., None] * (evidence.points_px - evidence.center_px[:, None])).sum(1)
    ray = torch.cat([middle / evidence.focal_px[:, None], torch.ones_like(middle[:, :1])], 1)
    return ray / ray.norm(dim=1, keepdim=True)


@dataclass(frozen=True, eq=False)
class DepthTerm:
    """Differences of depth along spans of the body, a ``fitting.energy.Term`` of ``at_stage``.

    Attributes:
        spans: K differences.
        target: (B, K) what they should be, in the spans' units; 0 where nothing is known.
        weights: (B, K), of the squares, or of a stage's; 0 where nothing is known.
        scale: (K,) of the Geman-McClure function.
        direction: (B, K, 3) in which depth is counted: DepthSpans.directions.
    """

    spans: DepthSpans
    target: Tensor
    weights: Tensor
    scale: Tensor
    direction: Tensor

    name = "depth"

    @classmethod
    def of(
        cls, spans: DepthSpans, world: Tensor, confidence: Tensor, sight: Tensor, roll: Tensor
    ) -> "DepthTerm":
        """Gather what is known of a batch.

        Args:
            spans: Of the body.
            world: (B, 145, 3) ``fit`` points in metres, z away from the camera; NaN where unknown.
            confidence: (B, 145) 0-1 of the same points in the image.
            sight: (B, 3) unit vectors from the camera to the person.
            roll: (B,) radians by which the trunk is turned in the picture, 0 is head up.
        """
        target, sure = spans.known(world, confidence, roll)
        scale = sight.new_ones(len(spans.matrix))
        return cls(spans, target, sure, scale, spans.directions(sight))

    def at_stage(self, stage: StageConfig) -> "DepthTerm | None":
        """Return it with the stage's weights; None where the stage leaves it out."""
        if not (stage.w_world or stage.w_upright):
            return None
        weights, scale = self.weights * stage.w_world, torch.full_like(self.scale, _ROBUST_SD)
        weights[:, -1] = self.weights[:, -1] * stage.w_upright
        scale[-1] = stage.upright_sine
        return replace(self, weights=weights, scale=scale)

    def at(self, points: Tensor) -> "DepthTerm":
        """Return it for some of the energy's points: it has its own."""
        return self

    def take(self, index: Tensor) -> "DepthTerm":
        """Return it for some of the persons."""
        return replace(
            self,
            target=self.target[index],
            weights=self.weights[index],
            direction=self.direction[index],
        )

    def add(
        self, energy: Energy, x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> Tensor:
        """Add to half the gradient and to J^T J; return the energy (B,)."""
        here = self._state(energy, x, state)
        residual = self.spans.values(here.joints, self.direction) - self.target
        square = residual.square()
        inlier = self.scale**2 / (self.scale**2 + square)
        pose, shape = self.spans.jacobian(here, self.direction)
        # no limb's joint knows hands or expression: the coarse part of the unknowns is enough
        size, betas = energy.layout.coarse_size, energy.layout.slices["betas"]
        nothing = pose.new_zeros(*pose.shape[:2], betas.start - 66)  # of the translation
        jacobian = torch.cat([pose, nothing, shape[..., : betas.stop - betas.start]], 2)
        root_weight = self.weights.sqrt() * inlier
        jacobian = root_weight[..., None] * jacobian
        gradient[:, :size] += (jacobian.mT @ (root_weight * residual)[..., None])[..., 0]
        matrix[:, :size, :size].baddbmm_(jacobian.mT, jacobian)
        return (self.weights * square * inlier).sum(1)

    def _state(self, energy: Energy, x: Tensor, state: SlicedState) -> SlicedState:
        """Return where the joints are: as the energy's points have them, if all are among them."""
        sliced, layout = self.spans.sliced, energy.layout
        places = _among(sliced, energy.sliced)
        if places is None:
            return sliced_forward(sliced, layout.full_pose(x), layout.shape(x), layout.transl(x))
        return SlicedState(
            points=state.points,
            rotations=state.rotations[:, places],
            joints=state.joints[:, places],
            local=state.local,
            tangents=state.tangents[:, places],
            moved=state.moved,
        )
