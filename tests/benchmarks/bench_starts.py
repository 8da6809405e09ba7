"""What the lifter's starts are worth, one JSON line: python tests/benchmarks/bench_starts.py.

The same people are fitted from the headings, from the lifter's answers alone, and from both as a
run does. Reported of each: the share that ends within 0.1 % and 1 % of the least energy that any of
them found, CPU seconds a person on one thread (batches of 64), the energy's mean, and the error of
the body's joints about the pelvis where the truth is known.

People are made (made_people.make_people); --photos DATA takes a folder with labels instead, seen as
``fitting.run`` would see it.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from made_people import MadePeople, make_people

from bodymodel.files import load_body
from curation.datasets import open_dataset
from curation.observe import observe
from curation.reproject import posed_joints
from fitting.config import FitConfig
from fitting.fit import Fitter
from fitting.inits import lifted_starts
from fitting.records import FitTarget
from fitting.rows import fit_target
from regressor.lifter.predict import load_lifter

BATCH = 64


def targets_of(folder: Path) -> list[FitTarget]:
    sd = FitConfig().focal.fov_sd
    people = observe(open_dataset(folder).iter_samples(), workers=1)
    return [fit_target(person, free_sd=sd) for person in people if person.status == "ok"]


def measure(fitter: Fitter, targets: list[FitTarget], people: MadePeople | None) -> dict:
    """Energies (N,), seconds a person, joint errors."""
    begin = time.process_time()
    fits = [
        fit
        for first in range(0, len(targets), BATCH)
        for fit in fitter.fit(targets[first : first + BATCH])
    ]
    out = {
        "energy": np.array([sum(fit.energy.values()) for fit in fits]),
        "cpu_s": (time.process_time() - begin) / len(targets),
        "not_converged": sum(fit.status != "ok" for fit in fits),
    }
    if people is not None:
        found = np.array([posed_joints(fitter.body, fit.params)[:22] for fit in fits])
        away = (found - found[:, :1]) - (people.joints[:, :22] - people.joints[:, :1])
        error = 1000 * np.linalg.norm(away, axis=2).mean(1)
        out |= {"mpjpe_mm": error.mean(), "mpjpe_90_mm": np.percentile(error, 90)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photos", type=Path, help="a data set; nobody is made then")
    options = parser.parse_args()
    torch.set_num_threads(1)
    body = load_body("open")
    people = None
    if options.photos:
        targets = targets_of(options.photos)
    else:
        people = make_people(body, options.subjects, seed=options.seed)
        targets = people.targets
    starts = lifted_starts(load_lifter(body), targets)
    lifted = [replace(t, starts=s) for t, s in zip(targets, starts, strict=True)]
    one = [replace(t, starts=s[:1]) for t, s in zip(targets, starts, strict=True)]
    alone, both = Fitter(body), Fitter(body, FitConfig(given_starts="compete"))
    heading = Fitter(body, FitConfig(headings=("front",)))
    alone.fit(targets[:2])
    found = {
        "one heading": measure(heading, targets, people),
        "headings": measure(alone, targets, people),
        "lifter, its likeliest alone": measure(alone, one, people),
        "lifter alone": measure(alone, lifted, people),
        "headings and lifter": measure(both, lifted, people),
    }
    best = np.min([f["energy"] for f in found.values()], axis=0)
    line = {}
    print(f"{'starts':28}  0.1 %    1 %       s   energy not conv.  MPJPE, 90 %")
    for name, figures in found.items():
        energy = figures.pop("energy")
        figures |= {
            "best_0.1pct": float(np.mean(energy <= 1.001 * best)),
            "best_1pct": float(np.mean(energy <= 1.01 * best)),
            "energy": float(energy.mean()),
        }
        line[name] = {k: round(float(v), 4) for k, v in figures.items()}
        print(
            f"{name:28} {figures['best_0.1pct']:6.3f} {figures['best_1pct']:6.3f}"
            f" {figures['cpu_s']:7.4f} {figures['energy']:8.1f} {figures['not_converged']:9d}"
            f"  {figures.get('mpjpe_mm', np.nan):.1f}, {figures.get('mpjpe_90_mm', np.nan):.1f}"
        )
    print(json.dumps({"name": "starts", "persons": len(targets), **line}))


if __name__ == "__main__":
    main()
