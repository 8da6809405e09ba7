"""How the lifter is trained: several answers compete, a bank of people is drawn anew."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regressor.lifter.network import Lifted, LifterConfig, LifterNet
from regressor.lifter.people import People, Shown, draw_people, show
from regressor.lifter.predict import POINTS, save_lifter
from regressor.lifter.skeleton import Skeleton
from regressor.lifter.view import View, look_at

if TYPE_CHECKING:
    from regressor.lifter.train import TrainLifter


@dataclass(frozen=True, eq=False)
class LifterLoss:
    """Losses (B, K) by answer and (B,) shared, and how far the joints are.

    Attributes:
        answers: (B, K) loss of each answer.
        shared: (B,) loss of shape, hands and face.
        joints_m: (B, K) mean distance of the 22 joints from the truth's, roots at the origin.
    """

    answers: Tensor
    shared: Tensor
    joints_m: Tensor


def lifter_loss(lifted: Lifted, view: View, shown: Shown, skeleton: Skeleton) -> LifterLoss:
    """Compare with the truth in the frame of the camera that looks at the person."""
    truth = shown.people
    root = view.rotation @ shown.root
    pelvis = (view.rotation @ shown.pelvis[..., None])[..., 0]
    wanted = torch.cat([root[:, None], truth.rotations[:, 1:]], 1)[:, None]
    turned = (lifted.rotations - wanted).square().sum((-1, -2))  # (B, K, 22), 8 sin^2(angle / 2)
    turned = turned[..., 0] + turned[..., 1:].mean(-1)

    joints = skeleton(lifted.rotations, lifted.betas[:, None])
    real = skeleton(wanted, truth.betas[:, None])
    apart = (joints - real).norm(dim=-1).mean(-1)

    depth = pelvis[:, 2]
    place = torch.cat(
        [pelvis[:, :2] / (depth * view.spread)[:, None], (depth * view.spread).log()[:, None]], 1
    )
    off = (lifted.place - place[:, None]).abs()
    z = lifted.place[..., 2].exp() / view.spread[:, None]
    own = torch.cat(
        [lifted.place[..., :2] * (view.spread[:, None] * z)[..., None], z[..., None]], -1
    )
    seen = _project(joints + own[..., None, :]) - _project(real + pelvis[:, None, None])
    seen = (seen / view.spread[:, None, None, None]).norm(dim=-1).clamp_max(2).mean(-1)
    answers = turned + 10 * apart + 2 * off.sum(-1) + 4 * seen

    hands = (lifted.hands - truth.hands).square().sum((-1, -2)).mean(-1)
    jaw = (lifted.jaw - truth.jaw).square().sum((-1, -2))
    betas = (lifted.betas - truth.betas).square().mean(-1)
    expression = (lifted.expression - truth.expression).square().mean(-1)
    return LifterLoss(answers, hands + jaw + 0.1 * betas + 0.05 * expression, apart)


def _project(points: Tensor) -> Tensor:
    return points[..., :2] / points[..., 2:].clamp_min(0.1)


def total_loss(losses: LifterLoss, scores: Tensor, loose: float = 0.05) -> Tensor:
    """The best answer learns, the others hardly; the scores learn which was best."""
    best, which = losses.answers.min(1)
    answers = (1 - loose) * best + loose * losses.answers.mean(1)
    choice = torch.nn.functional.cross_entropy(scores, which, reduction="none")
    return (answers + 0.2 * choice + losses.shared).mean()


def train(config: "TrainLifter") -> None:
    """Train, save, and print how it does on the held-out subjects."""
    from bodymodel.files import load_body
    from bodymodel.mocap import load_mocap, plausible_frames, retarget

    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    body = load_body()
    motion = retarget(load_mocap(config.mocap))
    learn, held_out = motion.take(plausible_frames(motion)).split()
    net = LifterNet(LifterConfig(num_points=len(POINTS))).to(config.device)
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    )
    skeleton = Skeleton(body, net.config.num_betas).to(config.device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.steps,
        pct_start=min(0.3, 500 / config.steps), anneal_strategy="cos",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(config.seed)
    test = draw_people(body, held_out, POINTS, 1000, np.random.default_rng(1))
    started = time.monotonic()
    for step in range(config.steps):
        if step % config.refresh == 0:
            bank = draw_people(body, learn, POINTS, config.people, rng)
        index = torch.randint(config.people, (config.batch,), generator=generator)
        shown = show(bank.take(index), POINTS, generator)
        view = look_at(shown.rays, shown.confidence)
        lifted = net(view.features)
        losses = lifter_loss(lifted, view, shown, skeleton)
        loss = total_loss(losses, lifted.scores)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(net)
        if (step + 1) % 500 == 0 or step + 1 == config.steps:
            best, first = evaluate(average.module, skeleton, test)
            print(  # noqa: T201
                f"step {step + 1}  {time.monotonic() - started:.0f} s  loss {loss.item():.3f}  "
                f"held out: best answer {best:.1f} mm, likeliest {first:.1f} mm",
                flush=True,
            )
    notes = {
        "built_by": f"python -m regressor.lifter.train --steps {config.steps} --seed {config.seed}",
        "held_out_mm": f"best {best:.1f}, likeliest {first:.1f}",
        "credit": "The data used in this project was obtained from mocap.cs.cmu.edu. The database "
        "was created with funding from NSF EIA-0196217.",
    }
    save_lifter(config.out, average.module, body.sha256, notes)


@torch.no_grad()
def evaluate(net: LifterNet, skeleton: Skeleton, people: People) -> tuple[float, float]:
    """Return the mean joint error in mm of the best and of the likeliest answer."""
    shown = show(people, POINTS, torch.Generator().manual_seed(7))
    view = look_at(shown.rays, shown.confidence)
    lifted = net(view.features)
    apart = lifter_loss(lifted, view, shown, skeleton).joints_m
    first = apart.gather(1, lifted.scores.argmax(1, keepdim=True))
    return 1000 * float(apart.amin(1).mean()), 1000 * float(first.mean())
