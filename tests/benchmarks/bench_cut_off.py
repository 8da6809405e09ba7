"""People cut off or behind a table, one JSON line: python tests/benchmarks/bench_cut_off.py.

Rendered people with known truth (those of bench_depth.py), whose picture ends at the chest, below
the hips or in the thighs, or who stand behind something brown; seen by the detector, fitted as in a
run. Signed lean of the trunk, and the upper body's error about the neck.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from made_people import RunFitter
from rendered import Places, index, lean_deg, params_of, rendered_people

import curation.evidence
from curation.evidence import from_detection
from curation.holistic import HolisticDetector
from curation.images import read_image
from fitting.config import FitConfig

UPPER = (
    "neck", "head_top", "nose", "pelvis",
    *(f"{side}_{name}" for side in ("left", "right") for name in ("shoulder", "elbow", "hip")),
)  # fmt: skip
# where the picture ends, or the table begins: trunks below the shoulders
CUTS = {"chest": 0.6, "hips": 1.15, "thighs": 1.55}
TABLES = {"table at the hips": 0.95, "table at the chest": 0.6}
BROWN = (110.0, 70.0, 40.0)


def cut(rgb, points_px, name, rng):
    """Return the picture cut or covered, and its corner; None where it cannot be."""
    shoulders = points_px[[index("left_shoulder"), index("right_shoulder")]].mean(0)
    hips = points_px[[index("left_hip"), index("right_hip")]].mean(0)
    trunk = np.linalg.norm(hips - shoulders)
    drop = hips[1] - shoulders[1]
    if drop < 0.4 * trunk:  # who does not stand upright in the picture
        return None
    left, right = (int(np.clip(shoulders[0] + s * trunk, 0, rgb.shape[1])) for s in (-1.3, 1.3))
    head = np.nanmin(points_px[[index("head_top"), index("nose")], 1])
    top = max(0, int(head - 0.3 * trunk))
    end = shoulders[1] + CUTS.get(name, 2.0) * drop
    bottom = int(min(end, rgb.shape[0]))
    if name in TABLES:
        rgb = rgb.copy()
        table = rgb[int(shoulders[1] + TABLES[name] * drop) :]
        noise = rng.normal(0, 12, (*table.shape[:2], 1))
        table[:] = (np.array(BROWN) + noise).clip(0, 255).astype(np.uint8)
    return rgb[top:bottom, left:right], (left, top)


def look(detector, rgb, target, corner):
    """Return the target as it is seen in a part of its picture; None where nobody is."""
    if min(rgb.shape[:2]) < 40:
        return None
    found = detector.person(rgb)
    if found is None:
        return None
    seen = from_detection(found)
    points = seen.points.copy()
    points[points[:, 2] > 0, :2] += corner
    return replace(target, keypoints_2d=points, world_points=seen.world)


def measure(name, people, places, truth, fitter, detector):
    """Return the figures of one way to be hidden."""
    rng = np.random.default_rng(0)
    targets, who = [], []
    count = 0
    for k, (target, path) in enumerate(zip(people.targets, people.paths, strict=True)):
        center = np.asarray(target.center_px)
        points_px = truth[k, :, :2] / truth[k, :, 2:] * target.focal_px + center
        part = cut(read_image(path)[0], points_px, name, rng)
        if part is None:
            continue
        count += 1
        seen = look(detector, part[0], target, part[1])
        if seen is not None:
            targets.append(seen)
            who.append(k)
    fits = fitter.fit(targets)
    fitted = [i for i, fit in enumerate(fits) if fit.status in ("ok", "not_converged")]
    points, true = places(params_of([fits[i] for i in fitted])), truth[[who[i] for i in fitted]]
    lean = lean_deg(points) - lean_deg(true)
    rows, neck = [index(n) for n in UPPER], [index("neck")]
    off = (points[:, rows] - points[:, neck]) - (true[:, rows] - true[:, neck])
    upper = 1000 * np.linalg.norm(off, axis=2).mean(1)
    return {
        "people": count,
        "fitted": len(fitted),
        "lean_mean_deg": round(float(lean.mean()), 1),
        "lean_p90_deg": round(float(np.quantile(np.abs(lean), 0.9)), 1),
        "upper_median_mm": round(float(np.median(upper))),
        "upper_p90_mm": round(float(np.quantile(upper, 0.9))),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--seed", type=int, default=4246)
    parser.add_argument("--folder", type=Path, help="renders and detections are kept here")
    parser.add_argument("--take-all", action="store_true", help="believe what is guessed, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.take_all:
        curation.evidence.LEG_SEEN, curation.evidence.HIPS_ALONE = 0.0, 1.0
    line = {"name": "cut_off", "take_all": options.take_all}
    with tempfile.TemporaryDirectory() as temporary:
        places, detector = Places(), HolisticDetector()
        people = rendered_people(options.folder or Path(temporary), options.count, options.seed)
        fitter, truth = RunFitter(places.body, FitConfig()), places(people.truth)
        for name in (*CUTS, *TABLES):
            line[name] = measure(name, people, places, truth, fitter, detector)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
