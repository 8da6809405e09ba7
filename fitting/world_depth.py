"""What a 3D guess of the joints says about depth, as a weak term of the energy.

A detector's 3D landmarks (MediaPipe's "world" landmarks, say) are no truth: learned, in metres of
some average person. But they know what no projection tells: that knees are before the hips of who
sits. So they enter as differences of depth along bones, each with its own measured error, with a
heavy tail, and nothing else of them does: not their size, not their image.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.sliced import SlicedBody, SlicedState, slice_body, sliced_forward, sliced_jacobian
from fitting.config import StageConfig
from fitting.energy import Energy, Evidence

__all__ = ["SPANS", "Span", "WorldDepth", "lines_of_sight", "world_depth_slice"]


@dataclass(frozen=True)
class Span:
    """A difference of depth that the 3D guess is asked for.

    Attributes:
        start: Points whose mean it starts at.
        end: Points whose mean it ends at.
        sd_m: Measured error of the guess, metres.
    """

    start: tuple[str, ...]
    end: tuple[str, ...]
    sd_m: float


SPANS: tuple[Span, ...] = (
    *(
        Span((f"{side}_{start}",), (f"{side}_{end}",), sd_m)
        for start, end, sd_m in (
            ("hip", "knee", 0.088),
            ("knee", "ankle", 0.092),
            ("shoulder", "elbow", 0.078),
            ("elbow", "wrist", 0.078),
        )
        for side in ("left", "right")
    ),
    Span(("left_hip", "right_hip"), ("left_shoulder", "right_shoulder"), 0.072),
    Span(("left_hip",), ("right_hip",), 0.025),
    Span(("left_shoulder",), ("right_shoulder",), 0.054),
)
"""The spans that are used; errors of MediaPipe's world landmarks on 300 rendered people (standard
deviation about the truth; means are under 1.5 cm but for the ankles, which it puts 3 cm too far)."""

_POINTS = tuple(sorted({name for span in SPANS for name in (*span.start, *span.end)}))
_ROBUST_SD = 3.0  # beyond so many standard deviations a guess is not believed


def world_depth_slice(
    body: BodyData, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> SlicedBody:
    """Return the body reduced to the joints that the spans need."""
    return slice_body(body, _POINTS, dtype=dtype, device=device)


def lines_of_sight(evidence: Evidence) -> Tensor:
    """Return (B, 3) unit vectors from the camera to the middle of what is seen of each person."""
    weight = evidence.weights / evidence.weights.sum(1, keepdim=True).clamp_min(1e-9)
    middle = (weight[..., None] * (evidence.points_px - evidence.center_px[:, None])).sum(1)
    ray = torch.cat([middle / evidence.focal_px[:, None], torch.ones_like(middle[:, :1])], 1)
    return ray / ray.norm(dim=1, keepdim=True)


@dataclass(frozen=True, eq=False)
class WorldDepth:
    """Differences of depth along spans of the body against a 3D guess: a ``fitting.energy.Term``.

    Attributes:
        sliced: Of :func:`world_depth_slice`.
        matrix: (K, P) from depths of its points to spans, in standard deviations a metre.
        target: (B, K) what the guess says, in standard deviations; 0 where it says nothing.
        weights: (B, K), of the squares; 0 where the guess says nothing.
        sight: (B, 3) unit vectors from the camera to the person: depth is counted along them,
            since a detector looks at a crop and does not know where in the photo it was.
    """

    sliced: SlicedBody
    matrix: Tensor
    target: Tensor
    weights: Tensor
    sight: Tensor

    name = "world"

    @classmethod
    def of(
        cls, sliced: SlicedBody, world: Tensor, confidence: Tensor, sight: Tensor
    ) -> "WorldDepth":
        """Gather the spans of a batch.

        Args:
            sliced: Of :func:`world_depth_slice`.
            world: (B, 145, 3) ``fit`` points in metres, z away from the camera; NaN where unknown.
            confidence: (B, 145) 0-1 of the same points in the image.
            sight: (B, 3) unit vectors from the camera to the person.
        """
        index = {name: i for i, name in enumerate(sliced.points)}
        matrix = torch.zeros(len(SPANS), len(index), dtype=sight.dtype, device=sight.device)
        for k, span in enumerate(SPANS):
            for sign, names in ((-1, span.start), (1, span.end)):
                for name in names:
                    matrix[k, index[name]] = sign / len(names) / span.sd_m
        rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
        depth = world[:, rows, 2]
        target = torch.nan_to_num(depth) @ matrix.mT
        # a span is as sure as the least sure of its points
        sure = torch.where(depth.isfinite(), confidence[:, rows], 0)
        used = matrix != 0
        sure = torch.where(used, sure[:, None], torch.inf).amin(2)
        return cls(sliced, matrix, target, sure.square(), sight)

    def at_stage(self, stage: StageConfig) -> "WorldDepth | None":
        """Return it with the stage's weight; None where the stage leaves it out."""
        if not stage.w_world:
            return None
        return replace(self, weights=stage.w_world * self.weights)

    def take(self, index: Tensor) -> "WorldDepth":
        """Return it for some of the persons."""
        return replace(
            self,
            target=self.target[index],
            weights=self.weights[index],
            sight=self.sight[index],
        )

    def add(
        self, energy: Energy, x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> Tensor:
        """Add to half the gradient and to J^T J; return the energy (B,)."""
        layout = energy.layout
        here = sliced_forward(self.sliced, layout.full_pose(x), layout.shape(x), layout.transl(x))
        depth = (here.points @ self.sight[..., None])[..., 0]
        residual = depth @ self.matrix.mT - self.target
        square = residual.square()
        inlier = _ROBUST_SD**2 / (_ROBUST_SD**2 + square)
        rows = self.sight[:, None, None].expand(-1, depth.shape[1], -1, -1)
        pose, shape, transl = sliced_jacobian(self.sliced, here, rows, root_on_manifold=True)
        # no limb's joint knows hands or expression: the coarse part of the unknowns is enough
        size = layout.coarse_size
        jacobian = self.matrix @ replace(energy, size=size).columns(pose, shape, transl)
        root_weight = self.weights.sqrt() * inlier
        jacobian = root_weight[..., None] * jacobian
        gradient[:, :size] += (jacobian.mT @ (root_weight * residual)[..., None])[..., 0]
        matrix[:, :size, :size] += jacobian.mT @ jacobian
        return (self.weights * square * inlier).sum(1)
