"""Poses from few numbers: principal components against an autoencoder, subjects kept apart.

Not a part of the package: the autoencoder does not halve the error of the components on people it
has not seen (docs/LOG.md), so nothing is built on it.
"""

import numpy as np
import torch
from torch import Tensor, nn

from bodymodel.mocap import Motion
from bodymodel.rotations import rotvec_to_rotmat
from bodymodel.skeleton import mirror_pose
from fitting import corruptions
from fitting import prior_training as training

SIZES = (8, 16, 32)
RECOMBINED = {8: 0.3, 16: 0.3, 32: 0.0}
"""Chance that a limb of a training pose comes from another frame."""


def mean_angle_deg(a: Tensor, b: Tensor) -> float:
    """Between the joints' rotations of (F, 63) poses."""
    a, b = (rotvec_to_rotmat(x.double().view(-1, 21, 3)) for x in (a, b))
    chord = (a - b).square().sum((-1, -2)) / 8
    return float(torch.rad2deg(2 * chord.clamp(0, 1).sqrt().asin()).mean())


class Autoencoder(nn.Module):
    """Principal components, and what networks on either side add to them."""

    def __init__(self, pose: Tensor, size: int, hidden: int = 96):
        super().__init__()
        self.register_buffer("mean", pose.mean(0))
        axes = torch.linalg.svd((pose - self.mean)[::2], full_matrices=False)[2]
        self.register_buffer("axes", axes)
        self.register_buffer("spread", ((pose - self.mean) @ axes.T).std(0))
        self.size = size
        self.project = nn.Parameter(axes[:size].clone())
        self.unproject = nn.Parameter(axes[:size].clone())
        self.encoder, self.decoder = (
            nn.Sequential(
                nn.Linear(before, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                nn.Linear(hidden, after),
            )
            for before, after in ((63, size), (size, 63))
        )  # fmt: skip
        for net in (self.encoder, self.decoder):
            nn.init.zeros_(net[-1].bias)
            with torch.no_grad():
                net[-1].weight *= 0.1

    def components(self, pose: Tensor) -> Tensor:
        """Rebuilt from principal components alone."""
        axes = self.axes[: self.size]
        return self.mean + (pose - self.mean) @ axes.T @ axes

    def forward(self, pose: Tensor) -> Tensor:
        away = pose - self.mean
        spread = self.spread[: self.size]
        white = away @ self.axes.T / self.spread.clamp_min(0.02)
        code = away @ self.project.T / spread + self.encoder(white)
        return self.mean + (code * spread) @ self.unproject + self.decoder(code) @ self.axes


def train(pose: np.ndarray, weights: np.ndarray, size: int, steps: int) -> Autoencoder:
    """Minimise the angles between joints before and after."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    both = np.concatenate([pose, mirror_pose(pose)]).astype(np.float64)
    chance = np.concatenate([weights, weights]) / 2

    def flat(x: np.ndarray) -> Tensor:
        return torch.tensor(x.reshape(len(x), -1), dtype=torch.float32)

    model = Autoencoder(flat(both), size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    moves = flat(both).std(0) > 1e-3
    for step in range(steps):
        if step % 200 == 0:
            drawn = both[rng.choice(len(both), 192 * 200, p=chance)]
            drawn = flat(corruptions.recombine_limbs(drawn, rng, RECOMBINED[size]))
        batch = drawn[step % 200 * 192 :][:192]
        batch = model.mean + (batch - model.mean) * (1 + 0.15 * torch.randn(len(batch), 1))
        noise = 0.01 * torch.randn_like(batch) * moves
        away = (model(batch + noise) - batch).view(-1, 21, 3)
        loss = (away.square().sum(-1) + 1e-6).sqrt().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


def code_table(
    train_set: Motion, test_set: Motion, steps: int = 700
) -> dict[str, dict[str, float]]:
    """Degrees a joint on held-out poses, by size of the code."""
    weights = training.subject_weights(train_set.subject)
    test = torch.tensor(test_set.body_pose[::3].reshape(-1, 63), dtype=torch.float32)
    out: dict[str, dict[str, float]] = {"principal components": {}, "autoencoder": {}}
    for size in SIZES:
        model = train(train_set.body_pose, weights, size, steps)
        with torch.no_grad():
            out["principal components"][str(size)] = round(
                mean_angle_deg(model.components(test), test), 2
            )
            out["autoencoder"][str(size)] = round(mean_angle_deg(model(test), test), 2)
    return out
