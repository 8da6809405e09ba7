"""What weights for photos know, one JSON line: bench_photo_net.py CHECKPOINT [--photos DIR].

Mean pose, body network alone and body with parts on people it has not seen: rendered ones in poses
of subjects left out of training (PA-MPJPE in mm, PCK), and photos with labels nobody trained on
(PCK at 5 and 10 % of the person's box). The mean pose is the training set's, upright, facing the
camera, filling the box as the mean person does: where the network starts.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import keypoint_part
from regressor.augment import AugmentConfig, make_batch
from regressor.checkpoints import load_model
from regressor.datasets import open_labels
from regressor.figures import person_figures
from regressor.mixture import hold_out
from regressor.synthetic import SyntheticConfig, SyntheticPeople, make_people

BATCH = 25


def answers(model, pictures):
    """The three that are compared: names -> Regressed."""
    output = model(pictures)
    start = model.layouts["body"].split(model.body.head.mean.expand(len(pictures.source), -1))
    found = {"mean pose": model.assemble(start, pictures.body_crop), "body": output.body}
    if output.crops:
        found["body and parts"] = output.final
    return found


@torch.no_grad()
def compare(model, source, most, share=0.0):
    """Names of answers -> figures, means over persons; only of photos held out, if a share is."""
    config, sums = model.config, {}
    chosen = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int))
    if share:
        chosen = np.array(sorted(hold_out([source], share, 0)[0]))
    rows = [FIT_KEYPOINTS.index(name) for name in model.point_names]
    of_body = torch.tensor([keypoint_part(name) == "body" for name in model.point_names])
    of_hands = torch.tensor(["hand" in keypoint_part(name) for name in model.point_names])
    for first in range(0, len(chosen), BATCH):
        examples = [source[int(k)] for k in chosen[first : first + BATCH]]
        batch = make_batch(
            examples, AugmentConfig.none(), config.body_size, 3 * config.body_size,
            np.random.default_rng(0),
        ).to("cpu")  # fmt: skip
        truth, box = batch.targets, torch.tensor([e.side_px for e in examples])
        known = truth.keypoints_2d[:, rows]
        seen = (known[..., 2] > 0.1) & of_body
        for name, found in answers(model, batch.pictures).items():
            figures = person_figures(
                model.points, found.points, found.points_px,
                truth.keypoints_3d, truth.keypoints_2d, box,
            )  # fmt: skip
            off = (found.points_px - known[..., :2]).norm(dim=-1) / box[:, None]
            for share in (0.05, 0.1):
                right = ((off < share) & seen).sum(1) / seen.sum(1)
                figures[f"pck_{share:g}"] = right.float()
            of_hand = (known[..., 2] > 0.1) & of_hands
            figures["hands_2d_pct"] = 100 * (off * of_hand).sum(1) / of_hand.sum(1)
            del figures["pck_error"]
            for figure, values in figures.items():
                kept = sums.setdefault(name, {}).setdefault(figure, [])
                kept.extend(values[torch.isfinite(values)].tolist())
    return {
        name: {k: round(float(np.mean(v)), 3) for k, v in figures.items() if v}
        | {"persons": len(chosen)}
        for name, figures in sums.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--people", type=Path, help="rendered people; made anew if not given")
    parser.add_argument("--mocap", type=Path, help="their poses; those of the package if not given")
    parser.add_argument("--photos", action="append", default=[], help="labels, [LAYOUT:]FOLDER")
    parser.add_argument(
        "--held-out", type=float, default=0.0,
        help="of the photos, only those that regressor.train --held-out SHARE (seed 0) leaves out",
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=300)
    args = parser.parse_args()
    body = load_body()
    model, checkpoint = load_model(body, args.checkpoint)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        people = args.people
        if people is None:
            people = Path(folder)
            make_people(
                SyntheticConfig(
                    people, args.count, size=320, seed=991, mocap=args.mocap, held_out=True
                )
            )
        results["rendered"] = compare(model, SyntheticPeople.open(people), args.count)
        for photos in args.photos:
            results[photos] = compare(model, open_labels(photos, body), args.count, args.held_out)
    for name, table in results.items():
        print(name)
        figures = list(next(iter(table.values())))
        print(" " * 16 + "".join(f"{figure:>15s}" for figure in figures))
        for answer, values in table.items():
            print(f"{answer:16s}" + "".join(f"{values[figure]:15.3f}" for figure in figures))
    print(json.dumps({"photo_net": results, "steps": checkpoint.notes.get("step", "")}))


if __name__ == "__main__":
    main()
