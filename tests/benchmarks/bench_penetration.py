"""What interpenetration costs a person, and what it does: off, measured, pushed apart.

    python tests/benchmarks/bench_penetration.py [--subjects 64] [--batch 32]

The people are those of bench_reference.py. All three ways fit the same people in one run, one
thread, times of the CPU. Prints a line a way, and one JSON line last. ``parts_ms`` are, on the
people as they are: posing the mesh, and looking for contacts in it.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from made_people import make_people

from bodymodel.files import load_body
from bodymodel.metrics import pa_mpjpe_mm
from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from bodymodel.penetration import find_contacts, make_surface
from bodymodel.triangles import colliding_triangles
from fitting.config import FitConfig
from fitting.fit import Fitter
from fitting.records import FitResult

WAYS = ("off", "measure", "on")


def clock(call, repeats: int = 3) -> float:
    """Median CPU seconds of a call, one to warm up first."""
    call()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return statistics.median(times)


def joint_errors_mm(body, results: list[FitResult], truth: BodyParams) -> np.ndarray:
    """PA-MPJPE of each person's body joints."""
    model = BodyModel(body, dtype=torch.float64)
    stacked = {
        k: torch.as_tensor(np.stack([r.params[k] for r in results])).double() for k in vars(truth)
    }
    with torch.no_grad():
        found, true = (model(p).joints[:, :22] for p in (BodyParams(**stacked), truth))
    return np.array([float(pa_mpjpe_mm(a, b)) for a, b in zip(found, true, strict=True)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--focal-px", type=float, default=1000.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    body = load_body("open")
    people = make_people(body, options.subjects, seed=options.seed, focal_px=options.focal_px)
    count = options.subjects
    figures: dict[str, dict] = {}
    fitters = {way: Fitter(body, FitConfig(interpenetration=way)) for way in WAYS}
    results, seconds = {}, dict.fromkeys(WAYS, 0.0)
    for way in WAYS:
        fitters[way].fit(people.targets[:2])
    for start in range(0, count, options.batch):
        for way in WAYS:  # interleaved: the machine is the same for all
            begin = time.process_time()
            found = fitters[way].fit(people.targets[start : start + options.batch])
            seconds[way] += time.process_time() - begin
            results.setdefault(way, []).extend(found)
    for way in WAYS:
        fits = results[way]
        depth = np.array([r.self_penetration.depth_mm for r in fits])
        error = joint_errors_mm(body, fits, people.params)
        deep = np.array([r.self_penetration.depth_mm > 10 for r in results["measure"]])
        figures[way] = {
            "ms_a_person": 1000 * seconds[way] / count,
            "deeper_than_3_mm": int((depth > 3).sum()),
            "deeper_than_10_mm": int((depth > 10).sum()),
            "deepest_mm": float(np.nanmax(depth)) if np.isfinite(depth).any() else None,
            "body_px": float(np.median([r.residual_part_px["body"] for r in fits])),
            "pa_mpjpe_mm": float(np.median(error)),
            "pa_mpjpe_of_the_deep_mm": float(np.median(error[deep])) if deep.any() else None,
        }
        print(way, json.dumps(figures[way]))

    surface, model = make_surface(body), BodyModel(body)
    params = people.params.map(lambda x: x[: options.batch].float())
    params = replace(params, transl=torch.zeros_like(params.transl))
    size = len(params.transl)
    with torch.no_grad():
        vertices = model(params).vertices
        parts_ms = {
            "pose_mesh": 1000 * clock(lambda: model(params)) / size,
            "contacts": 1000 * clock(lambda: find_contacts(surface, vertices)) / size,
            "colliding_triangles": 1000
            * clock(lambda: [colliding_triangles(surface, v) for v in vertices])
            / size,
        }
    true_depth = np.zeros(size)
    contacts = find_contacts(surface, vertices)
    np.maximum.at(true_depth, contacts.person.numpy(), 1000 * contacts.depth.numpy())
    print(json.dumps({
        "subjects": count, "batch": options.batch, "load": os.getloadavg()[0],
        **figures, "parts_ms": parts_ms,
        "truth_deeper_than_10_mm": int((true_depth > 10).sum()),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
