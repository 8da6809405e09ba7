"""Throughput and memory of the fast solver: python tests/benchmarks/bench_scaling.py

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_scaling.py [--batches 1 64] [--rows 10 1000]

*Batch*: people fitted at once on one core, with all starts, and with one good start (their own fit,
with 2 degrees of noise on every joint); persons a second of CPU time, the median of the repeats.
*Rows*: ``Fitter.fit`` over many batches of 64, each size in a process of its own; persons a second
and the process's peak memory, which must not grow. bench_run.py does the same for a whole run with
reading and storing. Keypoints are given and made as in bench_reference.py. One JSON line last.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from made_people import RunFitter, make_people

from bodymodel.files import load_body
from fitting.fit import Fitter
from fitting.records import FitTarget

PEOPLE = 64


def people() -> tuple[RunFitter, list[FitTarget]]:
    torch.set_num_threads(1)
    body = load_body("open")
    return RunFitter(body), make_people(body, PEOPLE, focal_px=5000.0).targets


def with_starts(fitter: Fitter, targets: list[FitTarget]) -> list[FitTarget]:
    """Give everybody their own fit, disturbed, to start from."""
    rng = np.random.default_rng(0)
    out = []
    for target, fit in zip(targets, fitter.fit(targets), strict=True):
        start = dict(fit.params)
        noise = rng.normal(0, np.radians(2), start["body_pose"].shape)
        start["body_pose"] = start["body_pose"] + noise
        out.append(replace(target, starts=(start,)))
    return out


def rate(fitter: Fitter, targets: list[FitTarget], batch: int, repeats: int) -> float:
    """Persons a second of CPU time, in batches of that size."""
    found = []
    for k in range(repeats):
        # small batches: another person each time
        chosen = [targets[(k * batch + i) % len(targets)] for i in range(batch)]
        begin = time.process_time()
        fitter.fit(chosen)
        found.append(batch / (time.process_time() - begin))
    return round(float(np.median(found)), 1)


def run_rows(count: int) -> None:
    """In a process of its own: fit so many rows, and say what it took."""
    fitter, targets = people()
    fitter.fit(targets[:2])
    begin = time.process_time()
    for first in range(0, count, PEOPLE):
        fitter.fit(targets[: min(PEOPLE, count - first)])
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"persons_per_cpu_s": round(count / seconds, 1), "peak_mib": round(peak)}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16, 64, 256, 512])
    parser.add_argument("--rows", type=int, nargs="*", default=[10, 100, 1000, 10000])
    parser.add_argument("--run-rows", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run_rows:
        return run_rows(options.run_rows)
    fitter, targets = people()
    started = with_starts(fitter, targets)
    line: dict = {"name": "scaling", "device": f"cpu, 1 thread of {os.cpu_count()}"}
    alone = Fitter(fitter.body)
    for name, solver, chosen in (
        ("all_starts", fitter, targets), ("one_good_start", alone, started)
    ):  # fmt: skip
        line[name] = {}
        for batch in options.batches:
            repeats = max(3, min(16, 128 // batch))
            line[name][batch] = rate(solver, chosen, batch, repeats)
            print(f"{name}, batch {batch}: {line[name][batch]} persons a CPU second", flush=True)
    line["rows"] = {}
    for rows in options.rows:
        command = [sys.executable, __file__, "--run-rows", str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        line["rows"][rows] = json.loads(done.stdout.splitlines()[-1])
        print(f"{rows} rows: {line['rows'][rows]}", flush=True)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
