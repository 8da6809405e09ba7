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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.sliced import SlicedBody, SlicedState, slice_body, sliced_forward
from fitting.config import StageConfig
from fitting.data_term import Evidence
from fitting.energy import Energy

__all__ = ["SPANS", "TRUNK", "DepthSpans", "DepthTerm", "Span", "lines_of_sight"]


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

_ROBUST_SD = 6.0  # standard deviations beyond which a guess is hardly believed
_UPRIGHT_ROLL = 0.5  # radians of roll in the picture at which the pull upright is down to a half


@dataclass(frozen=True, eq=False)
class DepthSpans:
    """The spans on a body: what of it they depend on. K spans, the trunk last.

    A span is a weighted sum of places of joints, looked at along one direction. Turning joint a
    about an axis w moves it by ``w . ((sum m_p (o_p - o_a)) x direction)``, the sum over its places
    below a (a *lever*). Shape moves it by those bones that are not common to all its places.

    Attributes:
        sliced: The body reduced to the joints.
        matrix: (K, A) from depths of its joints to spans, in their units.
        levers: (L, A) places below each lever's joint, by weight; lever_mass: (L,) their sums.
        lever_span, lever_joint: (L,) whose it is, and which of the A joints turns.
        lever_columns: (L * 3,) where its columns go in a flattened (K, 66).
        bone_dirs: (N, 3, S) what shape changes of the bones that spans depend on, by weight.
        bone_span, bone_parent: (N,) whose it is, and which of the A joints turns the bone.
    """

    sliced: SlicedBody
    matrix: Tensor
    levers: Tensor
    lever_mass: Tensor
    lever_span: Tensor
    lever_joint: Tensor
    lever_columns: Tensor
    bone_dirs: Tensor
    bone_span: Tensor
    bone_parent: Tensor

    @classmethod
    def of(
        cls,
        body: BodyData,
        spans: Sequence[Span] = (*SPANS, TRUNK),
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> "DepthSpans":
        """Prepare a body for some spans, the last of them the trunk."""
        points = sorted({name for span in spans for name in (*span.start, *span.end)})
        sliced = slice_body(body, tuple(points), dtype=dtype, device=device)
        ids = sliced.joint_ids.tolist()
        joint_of = {name: ids.index(FIT_KEYPOINTS.index(name)) for name in points}
        matrix = sliced.bones_rest.new_zeros(len(spans), len(ids))
        for k, span in enumerate(spans):
            for sign, names in ((-1, span.start), (1, span.end)):
                for name in names:
                    matrix[k, joint_of[name]] = sign / len(names) / span.sd_m
        # (A, A): which joints move with which, and which places turning a joint moves
        follows = torch.eye(len(ids), dtype=dtype, device=device)
        follows[:, 1:] = torch.maximum(follows[:, 1:], sliced.paths)
        follows[:, 0] = 1
        moved = follows - torch.eye(len(ids), dtype=dtype, device=device)
        levers = matrix[:, None] * moved.mT  # (K, A turning, A places)
        span, joint = levers.any(2).nonzero(as_tuple=True)
        levers = levers[span, joint]
        columns = 66 * span + 3 * sliced.joint_ids[joint]
        weight = matrix @ follows  # (K, A): of the bone that ends at each joint
        weight[:, 0] = 0  # the root's place is common to all
        weight[weight.abs() < 1e-9 * weight.abs().max()] = 0
        bone_span, bone = weight.nonzero(as_tuple=True)
        dirs = sliced.bones_dirs.view(sliced.num_shape, -1, 3).permute(1, 2, 0)[bone]
        return cls(
            sliced=sliced,
            matrix=matrix,
            levers=levers,
            lever_mass=levers.sum(1),
            lever_span=span,
            lever_joint=joint,
            lever_columns=(columns[:, None] + torch.arange(3, device=device)).flatten(),
            bone_dirs=weight[bone_span, bone, None, None] * dirs,
            bone_span=bone_span,
            bone_parent=sliced.parents[bone],
        )

    def values(self, joints: Tensor, direction: Tensor) -> Tensor:
        """Return (B, K) from the joints (B, A, 3) and the spans' directions (B, K, 3)."""
        return ((self.matrix @ joints) * direction).sum(2)

    def jacobian(self, state: SlicedState, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Differentiate the values.

        Args:
            state: Of ``sliced``.
            direction: (B, K, 3).

        Returns:
            (B, K, 66) by axis-angle of the body's joints, the root's by a small rotation applied
            on the left, and (B, K, S) by shape. Moving the body changes no difference.
        """
        batch, spans = direction.shape[:2]
        axes = state.rotations[:, self.sliced.parents] @ state.tangents
        axes[:, 0] = torch.eye(3, dtype=axes.dtype, device=axes.device)
        lever = self.levers @ state.joints
        lever = lever - self.lever_mass[:, None] * state.joints[:, self.lever_joint]
        turned = torch.linalg.cross(lever, direction[:, self.lever_span])
        turned = (turned[:, :, None] @ axes[:, self.lever_joint]).flatten(1)
        pose = turned.new_zeros(batch, spans * 66)
        pose[:, self.lever_columns] = turned
        looked = direction[:, self.bone_span, None] @ state.rotations[:, self.bone_parent]
        stretched = (looked @ self.bone_dirs)[:, :, 0]
        shape = stretched.new_zeros(batch, spans, stretched.shape[2])
        shape.index_add_(1, self.bone_span, stretched)
        return pose.view(batch, spans, 66), shape


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
        direction: (B, K, 3) in which depth is counted. The guess is of a crop and does not know
            where in the photo it was: along the line of sight. The trunk's: the optical axis,
            level where the camera is.
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
        joints = spans.sliced.joint_ids  # the first points of the convention are the joints
        depth = world[:, joints, 2]
        target = torch.nan_to_num(depth) @ spans.matrix.mT
        # a span is as sure as the least sure of its points
        sure = torch.where(depth.isfinite(), confidence[:, joints], 0)
        sure = torch.where(spans.matrix != 0, sure[:, None], torch.inf).amin(2).square()
        target[:, -1] = 0
        sure[:, -1] = 1 / (1 + (roll / _UPRIGHT_ROLL) ** 4)
        direction = sight[:, None].repeat(1, len(spans.matrix), 1)
        direction[:, -1] = sight.new_tensor([0.0, 0.0, 1.0])
        return cls(spans, target, sure, sight.new_ones(len(spans.matrix)), direction)

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
