"""Whether the joints' covariances say how far off the joints are, on made people with known truth.

    python tests/benchmarks/bench_uncertainty.py [--subjects 96]

The share of joints inside the 90 % ellipsoid of their own covariance, and the time that computing
it takes. "volume" is the median geometric mean of an ellipsoid's half-axes at one standard
deviation, mm. Of the pelvis it is the place that counts, of the others that relative to the pelvis.
Prints a table, the coverage by joint, and one JSON line.
"""

import argparse
import json
import time

import numpy as np
import torch
from made_people import MadePeople, RunFitter, make_people

import fitting.results
from bodymodel.files import load_body
from bodymodel.spec import BODY_JOINTS
from curation.reproject import posed_joints
from fitting.config import FitConfig
from fitting.uncertainty import unpack_mm2

NINETY = 6.251389  # of chi square with three degrees of freedom

CASES: dict[str, dict] = {
    "usual noise": {},
    "half of it": {"noise": 0.5},
    "twice": {"noise": 2.0},
    "no hips, no legs": {"lower_body": False},
    "focal length free": {"focal_px": 1800, "assumed_px": 1000, "free": True},
}


def relative(joints: np.ndarray) -> np.ndarray:
    """The pelvis as it is, the others relative to it, (N, 22, 3) mm."""
    return 1000 * np.concatenate([joints[:, :1], joints[:, 1:22] - joints[:, :1]], 1)


def coverage(fitter: RunFitter, people: MadePeople) -> tuple[np.ndarray, float]:
    """(22,) shares inside, and the median size of the ellipsoids."""
    fits = fitter.fit(people.targets)
    found = np.array([posed_joints(fitter.body, fit.params) for fit in fits])
    error = relative(found) - relative(people.joints)
    covariance = unpack_mm2(np.stack([fit.joint_covariance_mm2 for fit in fits]))
    distance = (error * np.linalg.solve(covariance, error[..., None])[..., 0]).sum(-1)
    size = np.median(np.linalg.det(covariance[:, 1:]) ** (1 / 6))
    return (distance < NINETY).mean(0), float(size)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=96)
    parser.add_argument("--seed", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = FitConfig()
    fitter = RunFitter(load_body("open"), config)
    spent = [0.0]
    plain = fitting.results.joint_covariance

    def timed(*arguments):
        begin = time.process_time()
        found = plain(*arguments)
        spent[0] += time.process_time() - begin
        return found

    fitting.results.joint_covariance = timed
    begin = time.process_time()
    rows = {}
    for k, (name, case) in enumerate(CASES.items()):
        wanted = dict(case)
        sd = config.focal.fov_sd if wanted.pop("free", False) else 0.0
        people = make_people(
            fitter.body, options.subjects, seed=options.seed + k, focal_sd=sd, **wanted
        )
        inside, size = coverage(fitter, people)
        rows[name] = {
            "joints": round(float(inside[1:].mean()), 3),
            "least": round(float(inside[1:].min()), 3),
            "most": round(float(inside[1:].max()), 3),
            "pelvis": round(float(inside[0]), 3),
            "volume_mm": round(size, 1),
        }
        print(f"{name:20}" + "".join(f"{k:>10} {v:6.3g}" for k, v in rows[name].items()))
        by_joint = zip(BODY_JOINTS, inside, strict=True)
        print("   " + " ".join(f"{n} {v:.2f}" for n, v in by_joint), flush=True)
    share = spent[0] / (time.process_time() - begin)
    print(
        json.dumps({"subjects": options.subjects, "cases": rows, "share_of_time": round(share, 4)})
    )


if __name__ == "__main__":
    main()
