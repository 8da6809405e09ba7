"""The lifter's network: a residual perceptron with several answers about depth.

In the spirit of the inverse-kinematics networks of Zhou et al. 2021 (section 3.2), but from 2D
points, which do not tell whether a limb comes forward or goes back. So the body's pose is answered
several times over (as in multiple choice learning, Guzman-Rivera et al. 2012), with a score each;
shape, hands and face, which the answers share, once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bodymodel.rotations import rot6d_to_rotmat

NUM_BODY_ROTATIONS = 22  # the root and the body's 21 joints
NUM_HAND_ROTATIONS = 30


@dataclass(frozen=True)
class LifterConfig:
    """Sizes of the network."""

    num_points: int
    width: int = 512
    blocks: int = 4
    answers: int = 4
    num_betas: int = 10
    num_expression: int = 10


@dataclass(frozen=True, eq=False)
class Lifted:
    """What the network says of B persons, in the frame of the camera that looks at them (view.py).

    Attributes:
        rotations: (B, K, 22, 3, 3) root and body, relative to the parent; K answers.
        place: (B, K, 3) pelvis: x and y over depth in units of the spread, and the logarithm of
            depth times spread (metres).
        scores: (B, K) logits of which answer is right.
        hands: (B, 30, 3, 3) left, then right, whole rotations (the mean hand included).
        jaw: (B, 3, 3).
        betas: (B, num_betas). expression: (B, num_expression).
    """

    rotations: Tensor
    place: Tensor
    scores: Tensor
    hands: Tensor
    jaw: Tensor
    betas: Tensor
    expression: Tensor


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, width)
        self.narrow = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(nn.functional.gelu(self.widen(self.norm(x))))


class LifterNet(nn.Module):
    """Features of a view (view.look_at) to SMPL-X.

    Args:
        config: Sizes.
    """

    def __init__(self, config: LifterConfig) -> None:
        super().__init__()
        self.config = config
        self._per_answer = 6 * NUM_BODY_ROTATIONS + 3 + 1
        shared = 6 * (NUM_HAND_ROTATIONS + 1) + config.num_betas + config.num_expression
        self.enter = nn.Linear(3 * config.num_points + 1, config.width)
        self.blocks = nn.ModuleList(_Block(config.width) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, config.answers * self._per_answer + shared)
        nn.init.normal_(self.leave.weight, std=0.01)
        with torch.no_grad():  # every rotation starts near the identity, and no two answers alike
            bias = self.leave.bias.normal_(std=0.02)
            answers = bias[: config.answers * self._per_answer].view(config.answers, -1)
            answers[:, : 6 * NUM_BODY_ROTATIONS] += self._identities(NUM_BODY_ROTATIONS)
            rest = bias[config.answers * self._per_answer :]
            rest[: 6 * (NUM_HAND_ROTATIONS + 1)] += self._identities(NUM_HAND_ROTATIONS + 1)

    @staticmethod
    def _identities(count: int) -> Tensor:
        from bodymodel.rotations import rotmat_to_rot6d

        return rotmat_to_rot6d(torch.eye(3)).flatten().repeat(count)

    def forward(self, features: Tensor) -> Lifted:
        """(B, 3 P + 1) -> Lifted."""
        config = self.config
        x = self.enter(features)
        for block in self.blocks:
            x = block(x)
        out = self.leave(self.norm(x))
        split = config.answers * self._per_answer
        answers = out[:, :split].view(-1, config.answers, self._per_answer)
        pose, place, score = answers.split([6 * NUM_BODY_ROTATIONS, 3, 1], -1)
        hands, jaw, betas, expression = out[:, split:].split(
            [6 * NUM_HAND_ROTATIONS, 6, config.num_betas, config.num_expression], -1
        )
        return Lifted(
            rotations=rot6d_to_rotmat(pose.unflatten(-1, (NUM_BODY_ROTATIONS, 6))),
            place=place,
            scores=score[..., 0],
            hands=rot6d_to_rotmat(hands.unflatten(-1, (NUM_HAND_ROTATIONS, 6))),
            jaw=rot6d_to_rotmat(jaw),
            betas=betas,
            expression=expression,
        )
