"""Where the hand's and the head's network start when there is no body to start from.

In a whole person they start from what the body network said, which is off in its own ways. Hands
and heads alone have only the mean, and a network that always started there would not learn to
correct anything else. So ExPose moves the start about (paper, section 3.3; supplement, section 2;
probabilities of the released ``conf.yaml``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from regressor.examples import Modality
from regressor.targets import Targets


@dataclass(frozen=True, eq=False)
class Conditioning:
    """How starts are drawn.

    Attributes:
        hand_mean: (45,) the right hand's mean pose, axis-angle.
        hand_components: (K, 45) what fingers are moved along, coefficients N(0, 1).
        share: How often each of them is drawn, independently.
        hand_turn_deg: The hand's rotation to the camera: evenly up to this far, about the axis of
            the true one.
        head_turn_deg: The head's.
        jaw_deg: The jaw opens evenly up to this far.
        deviation: Of shape and expression.
    """

    hand_mean: np.ndarray
    hand_components: np.ndarray
    share: float = 0.3
    hand_turn_deg: float = 90.0
    head_turn_deg: float = 45.0
    jaw_deg: float = 45.0
    deviation: float = 1.0

    @classmethod
    def of_body(cls, body: BodyData, components: int = 3) -> "Conditioning":
        """As released: along the first three components of the right hand."""
        return cls(body.hand_means[1], body.hand_components[1, :components])

    def draw(
        self, targets: Targets, modality: Modality, rng: np.random.Generator
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return starts of hands or heads by the names of their layout: values, and for whom.

        Args:
            targets: Of B parts; the axis of their rotation is used where it is known.
            modality: Which part.
            rng: What draws.
        """
        batch = len(targets.betas)
        hand = modality is Modality.HAND

        def some() -> Tensor:
            return torch.from_numpy(rng.random(batch) < self.share)

        def normal(count: int) -> Tensor:
            return torch.from_numpy(rng.standard_normal((batch, count)).astype(np.float32))

        limit = math.radians(self.hand_turn_deg if hand else self.head_turn_deg)
        angle = torch.from_numpy(rng.uniform(-limit, limit, (batch, 1)).astype(np.float32))
        axis = torch.nn.functional.normalize(rotmat_to_rotvec(targets.rotations[:, 0]), dim=-1)
        turned = some() & (targets.rotation_weight[:, 0] > 0)
        starts: dict[str, tuple[Tensor, Tensor]] = {
            "wrist" if hand else "neck": (rotvec_to_rotmat(axis * angle)[:, None], turned),
            "betas": (self.deviation * normal(10 if hand else 100), some()),
        }
        if hand:
            moved = normal(len(self.hand_components)) @ torch.from_numpy(self.hand_components)
            fingers = torch.from_numpy(self.hand_mean) + moved
            starts["hand_pose"] = (rotvec_to_rotmat(fingers.view(batch, 15, 3)), some())
        else:
            jaw = torch.zeros(batch, 1, 3)
            opened = rng.uniform(0, math.radians(self.jaw_deg), batch)
            jaw[:, 0, 0] = torch.from_numpy(opened.astype(np.float32))
            starts["jaw_pose"] = (rotvec_to_rotmat(jaw), some())
            starts["expression"] = (self.deviation * normal(50), some())
        return starts


def start_of(
    mean: Mapping[str, Tensor], drawn: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Return the mean with what was drawn in its place.

    Args:
        mean: By name, each with batch dimension B.
        drawn: Of ``Conditioning.draw``.
    """
    out = dict(mean)
    for name, (value, who) in drawn.items():
        who = who.view(-1, *(1,) * (value.dim() - 1))
        out[name] = torch.where(who, value, mean[name])
    return out
