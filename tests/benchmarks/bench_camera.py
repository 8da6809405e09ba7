"""What focal length and missing legs do to depth and shape, on made people with known truth.

    python tests/benchmarks/bench_camera.py [--subjects 96]

Held-out poses of motion capture, random shapes, noise of 3 px (body) and 1.5 px (hands, face),
photos of 600 x 800. "depth" is the pelvis's distance over the true one; for an unknown focal
length it can be no better than the focal length itself. Prints a table and one JSON line.
"""

import argparse
import json
import time

import numpy as np
import torch
from made_people import MadePeople, RunFitter, make_people

from bodymodel.files import load_body
from curation.reproject import posed_joints
from fitting.config import FitConfig

CASES: dict[str, dict] = {
    "known, 1000 px": {},
    "known, 5000 px": {"focal_px": 5000},
    "true 5000, told 1000": {"focal_px": 5000, "assumed_px": 1000},
    "true 1000, told 5000": {"assumed_px": 5000},
    "true 700, told 1000": {"focal_px": 700, "assumed_px": 1000},
    "true 5000, free": {"focal_px": 5000, "assumed_px": 1000, "free": True},
    "true 1800, free": {"focal_px": 1800, "assumed_px": 1000, "free": True},
    "true 1000, free": {"assumed_px": 1000, "free": True},
    "true 700, free": {"focal_px": 700, "assumed_px": 1000, "free": True},
    "crop 4000, told 1000": {"focal_px": 4000, "assumed_px": 1000, "fill": 1.3},
    "crop 4000, free": {"focal_px": 4000, "assumed_px": 1000, "fill": 1.3, "free": True},
    "no hips, no legs, known 1000": {"lower_body": False},
    "no hips, no legs, known 5000": {"lower_body": False, "focal_px": 5000},
}


def measure(fitter: RunFitter, people: MadePeople) -> dict[str, float]:
    """Fit everybody and say how far off they are."""
    begin = time.process_time()
    fits = fitter.fit(people.targets)
    seconds = time.process_time() - begin
    found = np.array([posed_joints(fitter.body, fit.params)[:22] for fit in fits])
    true = people.joints[:, :22]
    depth = found[:, 0, 2] / true[:, 0, 2]
    off = (found - found[:, :1]) - (true - true[:, :1])
    mpjpe = 1000 * np.linalg.norm(off, axis=-1).mean(1)
    beta = np.array([fit.params["betas"][0] for fit in fits]) - people.params.betas[:, 0].numpy()
    focal = np.array([fit.focal_px for fit in fits]) / people.focal_px
    return {
        "depth_median": np.median(depth),
        "depth_off_median": np.median(np.abs(depth - 1)),
        "depth_p5": np.percentile(depth, 5),
        "depth_p95": np.percentile(depth, 95),
        "beta0_bias": beta.mean(),
        "beta0_off_median": np.median(np.abs(beta)),
        "beta0_off_p90": np.percentile(np.abs(beta), 90),
        "focal_median": np.median(focal),
        "mpjpe_median_mm": np.median(mpjpe),
        "mpjpe_mean_mm": mpjpe.mean(),
        "cpu_s": seconds / len(fits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = FitConfig()
    fitter = RunFitter(load_body("open"), config)
    rows = {}
    for name, case in CASES.items():
        wanted = dict(case)
        sd = config.focal.fov_sd if wanted.pop("free", False) else 0.0
        people = make_people(
            fitter.body, options.subjects, seed=options.seed, focal_sd=sd, **wanted
        )
        rows[name] = {k: round(float(v), 4) for k, v in measure(fitter, people).items()}
        if len(rows) == 1:
            print(f"{'':30}" + "".join(f"{k[:13]:>14}" for k in rows[name]))
        print(f"{name:30}" + "".join(f"{v:14.3f}" for v in rows[name].values()), flush=True)
    print(json.dumps({"subjects": options.subjects, "cases": rows}))


if __name__ == "__main__":
    main()
