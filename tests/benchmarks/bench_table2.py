"""ExPose's Table 2 on rendered people, one JSON line: bench_table2.py [--seeds 3] [--steps 600].

Three ways to the same people, equal steps for each network, tiny encoders:
``body``: the body network alone; ``crops``: hand and head networks that learned in crops around the
true parts from the body's mean, then looked where the body network says (the published "crops
without fine-tuning"); ``tuned``: the same networks, taught on for half as many steps in the body
network's own crops and from its own answers, the body network fixed. Errors of the hands: PA-MPJPE
in mm, and fingers' rotations in degrees; of the face PA in mm. Small and large say how many pixels
of the body's crop a hand has: the gain ought to vanish where they are many.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bodymodel.files import load_body
from regressor.augment import AugmentConfig
from regressor.crops import box_around
from regressor.expose import PART_NAMES, Expose, ExposeConfig
from regressor.expose_loss import expose_loss
from regressor.figures import person_figures
from regressor.kept import KeptSource, PictureMemory
from regressor.losses import LossWeights, rotation_angle
from regressor.mean_pose import mean_parameters
from regressor.mixture import Mixture
from regressor.synthetic import SyntheticConfig, make_people

BATCH = 16
FINGERS = slice(25, 55)


def true_boxes(model, batch):
    """Where the parts are, from the labels; parts that are not seen get the body's crop."""
    from bodymodel.keypoints import FIT_KEYPOINTS

    rows = torch.tensor([FIT_KEYPOINTS.index(name) for name in model.point_names])
    points = batch.targets.keypoints_2d[:, rows]
    crop, boxes = batch.pictures.body_crop, {}
    for name in PART_NAMES:
        of_part = points[:, model.part_points(name)]
        center, side = box_around(of_part[..., :2], of_part[..., 2] > 0, 2.0)
        seen = side > 0
        boxes[name] = (
            torch.where(seen[:, None], center, crop.center_px),
            torch.where(seen, side, crop.side_px),
        )
    return boxes


def teach(model, people, steps, seed, boxes=None):
    """Learn for some steps with a rate that falls to nothing."""
    config = model.config
    mixture = Mixture(
        [people], [1.0], BATCH, AugmentConfig(), config.body_size, 2 * config.body_size + 64, seed
    )
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learned, lr=1e-3)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for step in range(steps):
        batch = mixture[step].to("cpu")
        output = model(batch.pictures, boxes(model, batch) if boxes else None)
        loss = sum(
            expose_loss(model, output, batch.pictures, batch.targets, LossWeights()).values()
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 5.0)
        optimiser.step()
        fall.step()


@torch.no_grad()
def measure(model, people, which):
    """Means over held-out people, of the body network's answer or the final one."""
    config, sums = model.config, {}
    mixture = Mixture(
        [people], [1.0], len(people), AugmentConfig.none(), config.body_size,
        2 * config.body_size + 64, 0,
    )  # fmt: skip
    batch = mixture[0].to("cpu")
    model.eval()
    found = getattr(model(batch.pictures), which)
    targets = batch.targets
    box = batch.pictures.body_crop.side_px / AugmentConfig().body_margin
    sums = person_figures(
        model.points, found.points, found.points_px,
        targets.keypoints_3d, targets.keypoints_2d, box,
    )  # fmt: skip
    angle = rotation_angle(found.rotations[:, FINGERS], targets.rotations[:, FINGERS])
    wanted = {name: sums[name].nanmean() for name in ("hand_pa_mm", "face_pa_mm", "pa_mpjpe_mm")}
    wanted["fingers_deg"] = angle.mean().rad2deg()
    return {name: round(float(value), 2) for name, value in wanted.items()}


def one_seed(body, people, held, body_size, steps, seed):
    """Names of ways -> figures."""
    torch.manual_seed(seed)
    config = replace(
        ExposeConfig.tiny(), body_size=body_size, hand_size=64, head_size=64,
        dropout=0.0, body_activation=True,
    )  # fmt: skip
    mean = mean_parameters(body, people)
    alone = Expose(body, replace(config, parts=False), mean)
    teach(alone, people, steps, seed)
    model = Expose(body, config, mean)
    # the parts are taught apart from the body: from its mean, in crops around the truth
    model.body.requires_grad_(False)
    teach(model, people, steps, seed, true_boxes)
    model.body.load_state_dict(alone.body.state_dict())
    figures = {"body": measure(model, held, "body"), "crops": measure(model, held, "final")}
    teach(model, people, steps // 2, seed + 1000)
    figures["tuned"] = measure(model, held, "final")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--people", type=int, default=600)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 192], help="body crop, px")
    parser.add_argument("--folder", type=Path, help="keeps the rendered people")
    args = parser.parse_args()
    body, results = load_body(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        memory = PictureMemory(4 << 30)
        people, held = (
            KeptSource(
                make_people(
                    SyntheticConfig(
                        folder / name, count, size=320, seed=seed, held_out=name == "held"
                    )
                ),
                memory,
            )
            for name, count, seed in (
                ("people", args.people, 41),
                ("held", max(50, args.people // 4), 42),
            )
        )
        for size in args.sizes:
            runs = [one_seed(body, people, held, size, args.steps, s) for s in range(args.seeds)]
            table = {}
            for way in runs[0]:
                values = {k: np.array([run[way][k] for run in runs]) for k in runs[0][way]}
                table[way] = {
                    # 95 % interval of the mean over seeds: Student's t, two degrees of freedom
                    k: [round(float(v.mean()), 2), round(float(4.30 * v.std(ddof=1) / 3**0.5), 2)]
                    if args.seeds == 3
                    else [round(float(v.mean()), 2), None]
                    for k, v in values.items()
                }
            results[f"{size}px"] = table
            for way, values in table.items():
                print(f"{size:4d} px {way:6s}", values, flush=True)
    print(json.dumps({"table2": results, "steps": args.steps, "seeds": args.seeds}))


if __name__ == "__main__":
    main()
