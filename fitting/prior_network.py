"""Train the open prior (``fitting.learned_prior``): a few thousand steps of a small network.

Two losses share one energy. Denoising score matching (Vincent 2011) on poses with noise makes its
slope that of the data's density, so that its size means something beside the keypoints; telling
poses from corrupted ones (logistic) makes it high where nobody has ever been. The poses are
recombined by limb and enlarged (``fitting.corruptions``): ten recorded people do too little.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from bodymodel.skeleton import mirror_pose
from fitting import corruptions
from fitting.learned_prior import TAIL, LearnedPrior
from fitting.prior_training import fit_gaussians, mirror_rows, recording_noise

__all__ = ["TrainingConfig", "train_prior"]


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained."""

    hidden: tuple[int, ...] = (32, 32)
    """Units of each hidden layer; each has a mirrored twin, so there are twice as many."""
    residuals: int = 8
    """Outputs; again twice as many."""
    rounds: int = 32
    """Draws of new poses and learning, every ``redraw``-th with new corruptions."""
    redraw: int = 4
    """Rounds that use one set of poses."""
    steps: int = 100
    """Of the optimiser in a round."""
    batch: int = 512
    """Poses a step, half of them for each loss."""
    pool: int = 40_000
    """Poses drawn at once."""
    learning_rate: float = 6e-3
    """The highest; it rises and falls once."""
    recombined: float = 0.5
    """Chance that a limb comes from another frame."""
    enlarged: float = 0.2
    """How much larger movements may be."""
    noise: float = 0.35
    """Of score matching, in standard deviations of the data."""
    learn_share: bool = False
    """Whether the tail may be made weaker than the Gaussian that it comes from."""
    seed: int = 0
    """Of everything random."""


class _Twins(nn.Module):
    """The network, with every unit beside one that sees the mirrored pose.

    Weights between layers are [[P, Q], [Q, P]], so mirroring the input swaps the halves of each
    layer and |g|^2 stays.
    """

    def __init__(self, config: TrainingConfig, gaussian: tuple[np.ndarray, np.ndarray]):
        super().__init__()
        mean, precision = (torch.tensor(x, dtype=torch.float32) for x in gaussian)
        self.register_buffer("mean", mean)
        self.register_buffer("precision", precision)
        self.register_buffer("spread", torch.linalg.inv(precision).diagonal().sqrt())
        self.register_buffer("mirror", torch.tensor(mirror_rows(np.eye(63)), dtype=torch.float32))
        widths = (63, *config.hidden, config.residuals)
        self.same, self.other, self.bias = (nn.ParameterList() for _ in range(3))
        for k, (before, after) in enumerate(pairwise(widths)):
            size = (before if k == 0 else 2 * before) ** -0.5
            self.same.append(nn.Parameter(size * torch.randn(after, before)))
            self.other.append(
                nn.Parameter(size * torch.randn(after, before) if k else torch.empty(0))
            )
            self.bias.append(nn.Parameter(0.1 * torch.randn(after)))
        self.log_share = nn.Parameter(torch.zeros(()), requires_grad=config.learn_share)
        # of the logistic loss alone: E is in its own units
        self.offset = nn.Parameter(torch.tensor(20.0))
        self.log_slope = nn.Parameter(torch.tensor(-1.5))

    def matrices(self) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of the layers, twins written out; the input is x - mean."""
        first = self.same[0] / self.spread
        out = [(torch.cat([first, first @ self.mirror]), self.bias[0].repeat(2))]
        for same, other, bias in zip(self.same[1:], self.other[1:], self.bias[1:], strict=True):
            weight = torch.cat([torch.cat([same, other], 1), torch.cat([other, same], 1)])
            out.append((weight, bias.repeat(2)))
        return out

    def forward(self, pose: Tensor) -> Tensor:
        """(B, 63) -> (B,) energies."""
        delta = pose - self.mean
        hidden = delta
        layers = self.matrices()
        for weight, bias in layers[:-1]:
            hidden = torch.tanh(hidden @ weight.mT + bias)
        residual = hidden @ layers[-1][0].mT + layers[-1][1]
        gaussian = (delta @ self.precision * delta).sum(-1)
        tail = TAIL * torch.log1p(self.log_share.exp() * gaussian / TAIL)
        return 0.5 * (tail + residual.square().sum(-1))

    def prior(self) -> LearnedPrior:
        """What was learnt, in float64."""
        with torch.no_grad():
            layers = [(w.double().clone(), b.double().clone()) for w, b in self.matrices()]
            precision = (self.log_share.exp() * self.precision).double()
        weights, biases = zip(*layers, strict=True)
        return LearnedPrior(self.mean.double(), precision, weights, biases)


class _Poses:
    """Draws of poses as people may have them, and of corrupted ones."""

    def __init__(
        self, pose: np.ndarray, weights: np.ndarray, config: TrainingConfig,
        rng: np.random.Generator,
    ):  # fmt: skip
        self._pose, self._weights, self._config, self._rng = pose, weights, config, rng
        self._noise = 0.7 * recording_noise().reshape(21, 3)

    def draw(self, count: int) -> np.ndarray:
        """(count, 21, 3): frames, mirrored at random, some recombined, enlarged or lessened."""
        rng, out = self._rng, []
        for _ in range(5):
            frames = rng.choice(len(self._pose), -(-count // 5), p=self._weights)
            pose = self._pose[frames]
            is_mirrored = rng.random(len(pose)) < 0.5
            pose[is_mirrored] = mirror_pose(pose[is_mirrored])
            rate = self._config.recombined * (rng.random() < 0.7)
            out.append(corruptions.recombine_limbs(pose, rng, rate))
        return corruptions.enlarge(np.concatenate(out)[:count], rng, self._config.enlarged)

    def recorded(self, pose: np.ndarray) -> Tensor:
        """(F, 63) with noise where the recording says nothing, so that nothing is learnt there."""
        noise = self._rng.normal(size=pose.shape) * self._noise
        return torch.tensor((pose + noise).reshape(-1, 63), dtype=torch.float32)

    def corrupted(self, count: int, gaussian: tuple[np.ndarray, np.ndarray]) -> Tensor:
        """(about count, 63)."""
        rng, share = self._rng, count // 6
        makers = (
            corruptions.shuffle_some_joints, corruptions.turn_some_joints,
            corruptions.turn_limbs_over, corruptions.turn_limbs_over, corruptions.shake_joints,
            corruptions.bend_hinges_backwards,
        )  # fmt: skip
        out = [self.recorded(make(self.draw(share), rng)) for make in makers]
        mean, precision = gaussian
        root = np.linalg.inv(np.linalg.cholesky(precision))
        samples = rng.normal(size=(share, 63)) @ root * rng.uniform(0.7, 1.3, size=(share, 1))
        return torch.cat([*out, torch.tensor(mean + samples, dtype=torch.float32)])


def train_prior(
    pose: np.ndarray,
    weights: np.ndarray,
    config: TrainingConfig | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> LearnedPrior:
    """Train the open prior. Under a minute on one core.

    Args:
        pose: (F, 21, 3) axis-angle.
        weights: (F,) of the frames, sum 1.
        config: How.
        say: Told the losses now and then.
    """
    config = config or TrainingConfig()
    rng = np.random.default_rng(config.seed)
    poses = _Poses(np.asarray(pose, np.float64), weights, config, rng)
    drawn = poses.draw(config.pool)
    model = fit_gaussians(drawn, np.full(len(drawn), 1 / len(drawn)))
    gaussian = (model.means[0], model.whitening[0].T @ model.whitening[0])
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        net = _Twins(config, gaussian)
        optimiser = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.learning_rate, total_steps=config.rounds * config.steps
        )
        for turn in range(config.rounds):
            if turn % config.redraw == 0:
                real = poses.recorded(poses.draw(config.pool))
                false = poses.corrupted(config.pool, gaussian)
            for _ in range(config.steps):
                score = _score_loss(net, _some(real, config.batch // 2), config.noise)
                logistic = _logistic_loss(
                    net, _some(real, config.batch // 2), _some(false, config.batch // 2)
                )
                optimiser.zero_grad()
                (score + logistic).backward()
                optimiser.step()
                schedule.step()
            if turn % 8 == 7:
                say(f"round {turn + 1}: score {score.item():.3f}, logistic {logistic.item():.3f}")
    return net.prior()


def _some(rows: Tensor, count: int) -> Tensor:
    return rows[torch.randint(len(rows), (count,))]


def _score_loss(net: _Twins, pose: Tensor, noise: float) -> Tensor:
    """How far the energy's slope is from pointing back at the pose that noise was added to."""
    shift = torch.randn_like(pose)
    sd = noise * net.spread
    moved = (pose + sd * shift).requires_grad_()
    (slope,) = torch.autograd.grad(net(moved).sum(), moved, create_graph=True)
    return (sd * slope - shift).square().mean()


def _logistic_loss(net: _Twins, real: Tensor, false: Tensor) -> Tensor:
    energy = net(torch.cat([real, false]))
    is_real = torch.cat([torch.ones(len(real)), torch.zeros(len(false))])
    return binary_cross_entropy_with_logits(net.log_slope.exp() * (net.offset - energy), is_real)
