"""What is known of depth beside the picture, as a weak term of the energy.

**A 3D guess of the joints.** A detector's 3D landmarks (MediaPipe's "world" landmarks, say) are no
truth: learned, in metres of some average person. But they know what no projection tells: that the
knees of who sits are before the hips. They enter as differences of depth along bones, each with its
own measured error and a heavy tail, and nothing else of them does: not their size, not their image.

**Trunks are upright.** A trunk that leans by 15 degrees is 3 % shorter in the picture: less than
people's proportions differ. So the picture hardly tells, and what decides is that most people stand
or sit upright and most cameras are held level. Not all: the pull lets go of a trunk that leans far,
and of one that is not upright in the picture.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.sliced import SlicedBody, SlicedState, slice_body, sliced_forward, sliced_jacobian
from fitting.config import StageConfig
from fitting.data_term import Evidence
from fitting.energy import Energy

__all__ = ["SPANS", "TRUNK", "DepthTerm", "Span", "depth_slice", "lines_of_sight"]


@dataclass(frozen=True)
class Span:
    """A difference of depth between two places of the body.

    Attributes:
        start: Points whose mean it starts at.
        end: Points whose mean it ends at.
        sd_m: Its unit, metres: the measured error of the guess.
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
deviation about the truth; means are under 1.5 cm but for the ankles: 3 cm too far)."""

TRUNK = Span(("pelvis",), ("neck",), 0.5)
"""The trunk, and its length instead of an error: in its units the span is the sine of the lean."""

_ALL = (*SPANS, TRUNK)
_POINTS = tuple(sorted({name for span in _ALL for name in (*span.start, *span.end)}))
_ROBUST_SD = 6.0  # standard deviations beyond which a guess is hardly believed
_UPRIGHT_ROLL = 0.5  # radians of roll in the picture at which the pull upright is down to a half


def depth_slice(
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
class DepthTerm:
    """Differences of depth along spans of the body, a ``fitting.energy.Term`` of ``at_stage``.

    Attributes:
        sliced: Of :func:`depth_slice`.
        matrix: (K, P) from depths of its points to spans, in their units; the last is the trunk.
        target: (B, K) what they should be; 0 where nothing is known.
        weights: (B, K), of the squares, or of a stage's; 0 where nothing is known.
        scale: (K,) of the Geman-McClure function.
        direction: (B, P, 3) in which the depth of each point is counted. The guess is of a crop and
            does not know where in the photo it was: along the line of sight. The trunk's: the
            optical axis, level where the camera is.
    """

    sliced: SlicedBody
    matrix: Tensor
    target: Tensor
    weights: Tensor
    scale: Tensor
    direction: Tensor

    name = "depth"

    @classmethod
    def of(
        cls, sliced: SlicedBody, world: Tensor, confidence: Tensor, sight: Tensor, roll: Tensor
    ) -> "DepthTerm":
        """Gather what is known of a batch.

        Args:
            sliced: Of :func:`depth_slice`.
            world: (B, 145, 3) ``fit`` points in metres, z away from the camera; NaN where unknown.
            confidence: (B, 145) 0-1 of the same points in the image.
            sight: (B, 3) unit vectors from the camera to the person.
            roll: (B,) radians by which the trunk is turned in the picture, 0 is head up.
        """
        index = {name: i for i, name in enumerate(sliced.points)}
        matrix = sight.new_zeros(len(_ALL), len(index))
        for k, span in enumerate(_ALL):
            for sign, names in ((-1, span.start), (1, span.end)):
                for name in names:
                    matrix[k, index[name]] = sign / len(names) / span.sd_m
        rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
        depth = world[:, rows, 2]
        target = torch.nan_to_num(depth) @ matrix.mT
        # a span is as sure as the least sure of its points
        sure = torch.where(depth.isfinite(), confidence[:, rows], 0)
        sure = torch.where(matrix != 0, sure[:, None], torch.inf).amin(2).square()
        target[:, -1] = 0
        sure[:, -1] = 1 / (1 + (roll / _UPRIGHT_ROLL) ** 4)
        direction = sight[:, None].repeat(1, len(index), 1)
        for name in (*TRUNK.start, *TRUNK.end):
            direction[:, index[name]] = sight.new_tensor([0.0, 0.0, 1.0])
        return cls(sliced, matrix, target, sure, sight.new_ones(len(_ALL)), direction)

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
        layout = energy.layout
        here = sliced_forward(self.sliced, layout.full_pose(x), layout.shape(x), layout.transl(x))
        depth = (here.points * self.direction).sum(2)
        residual = depth @ self.matrix.mT - self.target
        square = residual.square()
        inlier = self.scale**2 / (self.scale**2 + square)
        rows = self.direction[:, :, None]
        pose, shape, transl = sliced_jacobian(self.sliced, here, rows, root_on_manifold=True)
        # no limb's joint knows hands or expression: the coarse part of the unknowns is enough
        size = layout.coarse_size
        jacobian = self.matrix @ replace(energy, size=size).columns(pose, shape, transl)
        root_weight = self.weights.sqrt() * inlier
        jacobian = root_weight[..., None] * jacobian
        gradient[:, :size] += (jacobian.mT @ (root_weight * residual)[..., None])[..., 0]
        matrix[:, :size, :size] += jacobian.mT @ jacobian
        return (self.weights * square * inlier).sum(1)
