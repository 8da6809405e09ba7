"""Differences of depth between places of the body: what 3D guesses and leans are counted by.

Used by whatever knows something of depth beside the picture: a detector's 3D landmarks are no truth
(learned, in metres of some average person), but they know what no projection tells: that the knees
of who sits are before the hips. So they count as differences of depth along bones, each with its
own measured error; of their size and their image nothing is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.sliced import SlicedBody, SlicedState, slice_body

__all__ = ["SPANS", "TRUNK", "DepthSpans", "Span"]


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


_UPRIGHT_ROLL = 0.5  # radians of roll in the picture at which a trunk is half upright


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

    def known(self, world: Tensor, confidence: Tensor, roll: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a 3D guess says of the spans, and how sure that is, (B, K) each.

        Args:
            world: (B, 145, 3) ``fit`` points in metres, z away from the camera; NaN where unknown.
            confidence: (B, 145) 0-1 of the same points in the image.
            roll: (B,) radians by which the trunk is turned in the picture, 0 is head up.

        Returns:
            The spans' values, 0 where nothing is known and for the trunk, which is upright; and
            their weights, 0 where nothing is known, for the trunk how upright it is in the picture.
        """
        joints = self.sliced.joint_ids  # the first points of the convention are the joints
        depth = world[:, joints, 2]
        target = torch.nan_to_num(depth) @ self.matrix.mT
        # a span is as sure as the least sure of its points
        sure = torch.where(depth.isfinite(), confidence[:, joints], 0)
        sure = torch.where(self.matrix != 0, sure[:, None], torch.inf).amin(2).square()
        target[:, -1] = 0
        sure[:, -1] = 1 / (1 + (roll / _UPRIGHT_ROLL) ** 4)
        return target, sure

    def directions(self, sight: Tensor) -> Tensor:
        """Return (B, K, 3) in which depth is counted, of (B, 3) unit vectors to the persons.

        A guess is of a crop and does not know where in the photo it was: along the line of sight.
        The trunk's: the optical axis, level where the camera is.
        """
        direction = sight[:, None].repeat(1, len(self.matrix), 1)
        direction[:, -1] = sight.new_tensor([0.0, 0.0, 1.0])
        return direction
