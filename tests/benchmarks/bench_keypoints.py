"""Calibrated keypoints, one JSON line: python tests/benchmarks/bench_keypoints.py.

Mean signed error by point before and after, in millimetres (outwards, upwards), of MediaPipe on
rendered people that the calibration did not see; what the places do to pose and betas. Errors of
annotators' and OpenPose's points are in bodymodel/data/point_places.json, each half of the people
against places learned from the other half.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from made_people import RunFitter
from rendered import Places, body_pct, mpjpe_mm, params_of, rendered_people

from bodymodel.fit_points import convention_mixes
from fitting.calibrate_points import MEDIAPIPE, names_of
from fitting.point_calibration import PointSamples, signed_errors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--folder", type=Path, help="renders and detections are kept here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    places = Places()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        people = rendered_people(folder, options.count, options.seed)
    truth = places(people.truth)
    samples = PointSamples(
        truth,
        np.stack([t.keypoints_2d for t in people.targets]),
        np.array([t.focal_px for t in people.targets]),
        np.stack([t.center_px for t in people.targets]),
    )
    names = names_of((MEDIAPIPE,))
    errors = [
        signed_errors(samples, mixes, names) for mixes in ({}, convention_mixes((MEDIAPIPE,)))
    ]
    by_point = {
        n.removeprefix("left_"): [np.round(e[n][:2], 1).tolist() for e in errors] for n in errors[0]
    }
    line = {
        "name": "keypoints",
        "people": len(truth),
        "mean_error_mm_before_after": [
            round(float(np.mean([e[n][2] for n in e])), 1) for e in errors
        ],
        "by_point_mm_before_after": by_point,
    }
    fitter = RunFitter(places.body)
    for name, targets in (
        ("own", [replace(t, conventions=()) for t in people.targets]),
        ("calibrated", people.targets),
    ):
        fits = fitter.fit(targets)
        params = params_of(fits)
        beta = (params.betas - people.truth.betas).numpy()
        line[name] = {
            "mpjpe_median_mm": round(float(np.median(mpjpe_mm(places(params), truth))), 1),
            "betas0_mean": round(float(beta[:, 0].mean()), 2),
            "betas0_rms": round(float(np.sqrt((beta[:, 0] ** 2).mean())), 2),
            "body_pct": round(float(np.nanmedian(body_pct(fits))), 2),
        }
    file = resources.files("bodymodel") / "data" / "point_places.json"
    learned = json.loads(file.read_text())["signed_errors"]
    line["photos_mean_error_mm_before_after"] = {
        name: [
            round(float(np.mean([np.linalg.norm(p[k]) for p in points.values()])), 1)
            for k in ("before_mm", "after_mm")
        ]
        for name, points in learned.items()
        if name != "mediapipe"
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
