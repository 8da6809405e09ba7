"""What each round of the loop gains, one JSON line: python tests/benchmarks/bench_loop.py.

Fit, review, train on what was accepted, fit again from what the regressor sees: the README's loop,
by the README's commands, on a demo set (rendered people, known truth, poses that no training has
seen). In place of a person a reviewer who knows the truth accepts a fit when its joints are within
--accept-mm of it. Round 0 fits from the headings alone; the next rounds from the headings and the
regressor of the round before. A last fit, from the headings and the keypoint lifter, is what
``fitting.run`` does by itself.

Columns: fits accepted; joints' error of all fits, median and 90th percentile (mm); share of the
fits at the least energy (0.1 %) that any round found; of the regressor that the round had, on
people rendered in poses of held-out subjects: error after Procrustes alignment (mm) and in the
picture (per cent of the box). Round 0 has the weights that come with the package.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from bodymodel.files import load_body
from curation.decisions import Decision, DecisionStore, default_url
from curation.store import FitStore
from fitting.demo import DemoConfig, make_demo
from fitting.run import main as fit
from regressor.checkpoints import load_model
from regressor.figures import held_out_figures
from regressor.synthetic import SyntheticConfig, SyntheticPeople, make_people
from regressor.train import main as train
from regressor.weights import BUNDLED, weights_file

REVIEWER = "truth"


def fitted(people: Path, out: Path, init: str) -> list[dict]:
    """Fit the people, or read what was fitted; rows in the photos' order."""
    if fit([str(people), "--out", str(out), "--init", init, "--overlays", "0"]) != 0:
        raise SystemExit(f"fitting {people} from {init} failed")
    rows = [row for row in FitStore(out).iter_rows() if row["has_fit"]]
    return sorted(rows, key=lambda row: (row["image_id"], row["person_index"]))


def review(rows: list[dict], store: Path, accept_mm: float) -> int:
    """Accept what is right; return how many."""
    decisions = DecisionStore(default_url(store))
    good = [row["status"] == "ok" and row["mpjpe_mm"] <= accept_mm for row in rows]
    for row, is_good in zip(rows, good, strict=True):
        verdict = "accept" if is_good else "reject"
        decisions.append(Decision(row["fit_id"], REVIEWER, verdict))
    decisions.close()
    return sum(good)


@torch.no_grad()
def regressor_figures(weights: Path, people: SyntheticPeople) -> dict[str, float]:
    """On people whose truth is known."""
    model, _ = load_model(load_body(), weights)
    size = 2 * model.config.body_size
    return held_out_figures(model, [people], [range(len(people))], 25, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="people to label")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300, help="of training, a round")
    parser.add_argument("--accept-mm", type=float, default=80.0)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        people, others = Path(folder) / "people", Path(folder) / "others"
        make_demo(DemoConfig(people, args.count, args.seed))
        unseen = make_people(SyntheticConfig(others, 100, size=320, seed=992, held_out=True))
        rounds, stores = [], []
        weights = weights_file(BUNDLED)
        init = "keypoints"
        for number in range(args.rounds + 1):
            stores.append(Path(folder) / f"fits-{number}")
            rows = fitted(people, stores[-1], init)
            accepted = review(rows, stores[-1], args.accept_mm)
            rounds.append({"start": init.split(":")[0], "rows": rows, "accepted": accepted})
            rounds[-1] |= regressor_figures(weights, unseen)
            if number == args.rounds:
                break
            out = Path(folder) / f"regressor-{number}"
            command = [
                str(stores[-1]), "--out", str(out), "--steps", str(args.steps), "--part-steps",
                str(args.steps // 2), "--start", str(weights), "--check-every", str(args.steps),
                "--mixed-precision", "--schedule", "cosine",
            ]  # fmt: skip
            if train(command) != 0:
                raise SystemExit("training failed")
            weights = out / "model.safetensors"
            init = f"regressor:{weights}"
        rows = fitted(people, Path(folder) / "fits-lifter", "lifter")
        rounds.append({"start": "lifter", "rows": rows})
        rounds[-1]["accepted"] = review(rows, Path(folder) / "fits-lifter", args.accept_mm)
    print_table(rounds, args.count)


def print_table(rounds: list[dict], count: int) -> None:
    """A row a round, then JSON."""
    energies = np.array([[row["energy_total"] for row in r["rows"]] for r in rounds])
    at_best = (energies <= energies.min(0) * 1.001 + 1e-6).mean(1)
    out = []
    for number, (r, share) in enumerate(zip(rounds, at_best, strict=True)):
        error = np.array([row["mpjpe_mm"] for row in r["rows"]])
        out.append(
            {
                "round": number if "pa_mpjpe_mm" in r else "-",
                "starts": r["start"],
                "accepted": int(r["accepted"]),
                "mpjpe_mm": round(float(np.median(error)), 1),
                "mpjpe_90_mm": round(float(np.percentile(error, 90)), 1),
                "at_best": round(float(share), 3),
                "regressor_pa_mm": round(r.get("pa_mpjpe_mm", float("nan")), 1),
                "regressor_2d_pct": round(r.get("error_2d_pct", float("nan")), 2),
            }
        )
    print("".join(f"{name:>17s}" for name in out[0]))
    for values in out:
        print("".join(f"{value!s:>17s}" for value in values.values()))
    print(json.dumps({"loop": out, "people": count}))


if __name__ == "__main__":
    main()
