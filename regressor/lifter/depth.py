"""What is known of depth beside the keypoints: a detector's 3D guess, and that trunks are upright.

A guess counts as differences of depth along bones (bodymodel.depth_spans). Trunks that are upright
in the picture hardly lean to the camera or away, since most people and most cameras are upright;
who leans far is let go. The solver's own term (fitting.depth) does the same.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.depth_spans import DepthSpans
from bodymodel.sliced import sliced_forward

__all__ = ["DepthKnown", "DepthPull"]

_GUESS_LIMIT = 6.0  # errors beyond which a guess is hardly believed
_UPRIGHT_LIMIT = 2.5  # leans beyond so many times the usual are meant


@dataclass(frozen=True, eq=False)
class DepthKnown:
    """What is known of N bodies.

    Attributes:
        target: (N, K) differences of depth in the spans' units, the trunk's last.
        weight: (N, K), 0 where nothing is known.
        direction: (N, K, 3) along which depth is counted.
    """

    target: Tensor
    weight: Tensor
    direction: Tensor

    def take(self, index: Tensor) -> "DepthKnown":
        """Return some of them."""
        return DepthKnown(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


class DepthPull:
    """Pulls one body's differences of depth to what is known.

    Args:
        body: The body.
        upright: Lean of trunks, root mean square of the sine.
        device: Where it computes.
        dtype: In what precision.
    """

    def __init__(
        self,
        body: BodyData,
        upright: float,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._spans = DepthSpans.of(body, dtype=dtype, device=device)
        ids = self._spans.sliced.joint_ids.tolist()
        self._trunk = ids.index(0), ids.index(12)  # pelvis, neck
        limit = self._spans.matrix.new_full((len(self._spans.matrix),), _GUESS_LIMIT)
        limit[-1] = _UPRIGHT_LIMIT * upright
        self._limit = limit.square()
        self._upright = upright

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
        joints = sliced_forward(
            self._spans.sliced, pose, shape, pose.new_zeros(len(pose), 3)
        ).joints
        pelvis, neck = self._trunk
        trunk = joints[:, neck] - joints[:, pelvis]
        roll = torch.atan2(trunk[:, 0], -trunk[:, 1])
        target, weight = self._spans.known(world, confidence.clamp(0, 1), roll)
        weight[:, -1] /= self._upright**2
        return DepthKnown(target, weight, self._spans.directions(sight))

    def term(
        self, pose: Tensor, shape: Tensor, known: DepthKnown, num_betas: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return cost (N,), half its gradient (N, U) and Gauss-Newton matrix (N, U, U).

        The unknowns are a small turn of the root on the left, 21 axis-angles, betas, and the
        translation, on which none of it depends.
        """
        posed = sliced_forward(self._spans.sliced, pose, shape, pose.new_zeros(len(pose), 3))
        off = self._spans.values(posed.joints, known.direction) - known.target
        squared, limit = off.square(), self._limit
        # Geman & McClure 1987
        cost = (known.weight * squared * limit / (limit + squared)).sum(1)
        strength = known.weight.sqrt() * limit / (limit + squared)
        by_pose, by_shape = self._spans.jacobian(posed, known.direction)
        nothing = pose.new_zeros(*off.shape, 3)
        jacobian = torch.cat([by_pose, by_shape[..., :num_betas], nothing], 2)
        jacobian = strength[..., None] * jacobian
        gradient = (jacobian.mT @ (off * strength)[..., None])[..., 0]
        return cost, gradient, jacobian.mT @ jacobian
