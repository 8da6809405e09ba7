"""What is known of depth beside the keypoints: a detector's 3D guess, and that trunks are upright.

A detector's 3D landmarks (MediaPipe's "world" landmarks) are no truth, but they know what no
projection tells: that the knees of who sits are before the hips. They count as differences of depth
along bones, each with its measured error. Trunks that are upright in the picture hardly lean to the
camera or away, since most people and most cameras are upright; who leans far is let go. The
solver's own term (fitting.depth) does the same.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.sliced import SlicedBody, slice_body, sliced_forward, sliced_jacobian
from regressor.lifter.network import NUM_BODY_ROTATIONS

__all__ = ["DepthKnown", "DepthSpans"]

_SPANS = (
    *(
        ((f"{side}_{start}",), (f"{side}_{end}",), sd_m)
        for start, end, sd_m in (
            ("hip", "knee", 0.088),
            ("knee", "ankle", 0.092),
            ("shoulder", "elbow", 0.078),
            ("elbow", "wrist", 0.078),
        )
        for side in ("left", "right")
    ),
    (("left_hip", "right_hip"), ("left_shoulder", "right_shoulder"), 0.072),
    (("left_hip",), ("right_hip",), 0.025),
    (("left_shoulder",), ("right_shoulder",), 0.054),
)
"""From where to where, and the error of MediaPipe's guess in metres (fitting.depth.SPANS)."""

_TRUNK = ("pelvis", "neck")
_TRUNK_M = 0.5
_POINTS = tuple(sorted({name for a, b, _ in _SPANS for name in (*a, *b)} | {*_TRUNK}))
_ROWS = [FIT_KEYPOINTS.index(name) for name in _POINTS]
_GUESS_LIMIT = 6.0  # errors beyond which a guess is hardly believed
_UPRIGHT_LIMIT = 2.5  # leans beyond so many times the usual are meant
_UPRIGHT_ROLL = 0.5  # radians of roll in the picture at which the pull is down to a half


@dataclass(frozen=True, eq=False)
class DepthKnown:
    """What is known of N bodies.

    Attributes:
        target: (N, K) differences of depth in units of their errors, the trunk's last.
        weight: (N, K), 0 where nothing is known.
        sight: (N, 3) unit vector to the person, along which the guess's depth is counted.
    """

    target: Tensor
    weight: Tensor
    sight: Tensor

    def take(self, index: Tensor) -> "DepthKnown":
        """Return some of them."""
        return DepthKnown(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


class DepthSpans:
    """Differences of depth on one body.

    Args:
        body: The body.
        upright: Lean of trunks, root mean square of the sine.
        device: Where it computes.
    """

    def __init__(self, body: BodyData, upright: float, device: torch.device | str) -> None:
        self._sliced: SlicedBody = slice_body(body, _POINTS, device=device)
        place = {name: k for k, name in enumerate(self._sliced.points)}
        matrix = torch.zeros(len(_SPANS) + 1, len(place), 2)  # along the sight, along z
        for k, (start, end, sd_m) in enumerate(_SPANS):
            for sign, names in ((-1, start), (1, end)):
                for name in names:
                    matrix[k, place[name], 0] = sign / len(names) / sd_m
        matrix[-1, place["neck"], 1] = 1 / (upright * _TRUNK_M)
        matrix[-1, place["pelvis"], 1] = -1 / (upright * _TRUNK_M)
        self._matrix = matrix.to(device)
        self._ends = [place[name] for name in _TRUNK]
        limit = torch.full((len(matrix),), _GUESS_LIMIT)
        limit[-1] = _UPRIGHT_LIMIT
        self._limit = limit.square().to(device)

    def known(
        self, pose: Tensor, shape: Tensor, sight: Tensor, world: Tensor, confidence: Tensor
    ) -> DepthKnown:
        """Gather what is known.

        Args:
            pose: (N, 55, 3) of answers; how upright they are decides how the trunk is pulled.
            shape: (N, S).
            sight: (N, 3) unit vectors to the persons.
            world: (N, 145, 3) ``fit`` points, metres, z away from the camera; NaN where unknown.
            confidence: (N, 145) of the same points in the picture.
        """
        depth = world[:, _ROWS, 2]
        along = self._matrix[..., 0]
        target = depth.nan_to_num() @ along.mT
        # a span is as sure as the least sure of its points
        sure = torch.where(depth.isfinite(), confidence[:, _ROWS].clamp(0, 1), 0)
        sure = torch.where(along != 0, sure[:, None], torch.inf).amin(2).square()
        ends = sliced_forward(self._sliced, pose, shape, pose.new_zeros(len(pose), 3)).points
        trunk = ends[:, self._ends[1]] - ends[:, self._ends[0]]
        roll = torch.atan2(trunk[:, 0], -trunk[:, 1])
        target[:, -1] = 0
        sure[:, -1] = 1 / (1 + (roll / _UPRIGHT_ROLL) ** 4)
        return DepthKnown(target, sure, sight)

    def term(
        self, pose: Tensor, shape: Tensor, known: DepthKnown, num_betas: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return cost (N,), half its gradient (N, U) and Gauss-Newton matrix (N, U, U).

        The unknowns are a small turn of the root on the left, 21 axis-angles, betas, and the
        translation, on which none of it depends.
        """
        zero = pose.new_zeros(len(pose), 3)
        posed = sliced_forward(self._sliced, pose, shape, zero)
        count = posed.points.shape[1]
        axes = torch.stack([known.sight, zero + zero.new_tensor([0, 0, 1])], 1)  # (N, 2, 3)
        depths = posed.points @ axes.mT  # (N, P, 2)
        off = torch.einsum("kpr,npr->nk", self._matrix, depths) - known.target
        squared, limit = off.square(), self._limit
        # Geman & McClure 1987
        cost = (known.weight * squared * limit / (limit + squared)).sum(1)
        strength = known.weight.sqrt() * limit / (limit + squared)

        rows = axes[:, None].expand(-1, count, -1, -1).contiguous()
        by_pose, by_shape, _ = sliced_jacobian(self._sliced, posed, rows, root_on_manifold=True)
        width = min(by_pose.shape[2], NUM_BODY_ROTATIONS)
        jacobian = pose.new_zeros(len(pose), count * 2, 3 * NUM_BODY_ROTATIONS + num_betas + 3)
        jacobian[..., : 3 * width] = by_pose[:, :, :width].flatten(2)
        first = 3 * NUM_BODY_ROTATIONS
        jacobian[..., first : first + num_betas] = by_shape[..., :num_betas]
        jacobian = strength[..., None] * (self._matrix.flatten(1) @ jacobian)
        gradient = (jacobian.mT @ (off * strength)[..., None])[..., 0]
        return cost, gradient, jacobian.mT @ jacobian
