"""Depth, one JSON line: python tests/benchmarks/bench_depth.py [--photos samples/] [--without ...].

Rendered people before pitched cameras, seen by the detector: signed lean of the trunk, depth order
of knee and hip and of elbow and shoulder. With --photos: the lean of those who stand in shapy/, the
knees of those who sit, and the residuals of LSPET's gymnasts on LSPET's own labels.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from made_people import RunFitter
from rendered import Places, body_pct, index, lean_deg, mpjpe_mm, params_of, rendered_people

from curation.datasets import open_dataset
from curation.observe import observe
from fitting.config import FitConfig
from fitting.rows import fit_target

STAND, SIT = ("00", "03", "05", "08", "12"), ("11", "14")


def ablate(config, without):
    """Return the settings without some terms."""
    off = {"world": {"w_world": 0.0}, "upright": {"w_upright": 0.0}}
    for name in set(without) & set(off):
        config = replace(
            config,
            coarse=tuple(replace(s, **off[name]) for s in config.coarse),
            flip=replace(config.flip, **off[name]),
            fine=tuple(replace(s, **off[name]) for s in config.fine),
        )
    return config


def prepared(targets, without):
    """Return the targets without calibrated places, if that is left out."""
    return [replace(t, conventions=()) for t in targets] if "places" in without else targets


def on_renders(fitter, places, people, without):
    fits = fitter.fit(prepared(people.targets, without))
    points, truth = places(params_of(fits)), places(people.truth)
    error = lean_deg(points) - lean_deg(truth)
    right = total = 0
    for a, b in (("hip", "knee"), ("shoulder", "elbow")):
        for side in ("left", "right"):
            first, second = index(f"{side}_{a}"), index(f"{side}_{b}")
            true = truth[:, second, 2] - truth[:, first, 2]
            found = points[:, second, 2] - points[:, first, 2]
            far = np.abs(true) >= 0.1
            right += int((true * found > 0)[far].sum())
            total += int(far.sum())
    return {
        "people": len(fits),
        "lean_mean_deg": round(float(error.mean()), 2),
        "lean_p90_deg": round(float(np.quantile(np.abs(error), 0.9)), 2),
        "depth_order": round(right / total, 3),
        "pairs": total,
        "mpjpe_median_mm": round(float(np.median(mpjpe_mm(points, truth))), 1),
        "body_pct": round(float(np.nanmedian(body_pct(fits))), 2),
    }


def seen_in(folder, source, cache):
    samples = open_dataset(folder, "folder" if source == "mediapipe" else None).iter_samples()
    return [o for o in observe(samples, source=source, cache_dir=cache) if o.status == "ok"]


def on_photos(fitter, places, photos, without, cache):
    shapy = {o.image_id[-6:-4]: o for o in seen_in(photos / "shapy", "mediapipe", cache)}
    sd = fitter.config.focal.fov_sd  # nobody knows these photos' focal lengths: as a run does
    targets = [fit_target(o, None, free_sd=sd) for o in shapy.values()]
    fits = fitter.fit(prepared(targets, without))
    points = dict(zip(shapy, places(params_of(fits)), strict=True))
    lean = {n: round(float(lean_deg(points[n][None])[0]), 1) for n in STAND}
    knees = {
        n: [round(float(points[n][index(f"{s}_knee"), 2] - points[n][index(f"{s}_hip"), 2]), 2)
            for s in ("left", "right")]
        for n in SIT
    }  # fmt: skip
    gymnasts = seen_in(photos / "lspet_mini", "annotations", cache)
    targets = [fit_target(o, None, free_sd=sd) for o in gymnasts]
    fits = fitter.fit(prepared(targets, without))
    pct = body_pct(fits)
    return {
        "lean_of_who_stand_deg": lean,
        "knee_before_hip_of_who_sit_m": knees,
        "lspet_body_pct": [round(float(np.quantile(pct, q)), 2) for q in (0.5, 0.9, 1)],
        "lspet_ok": sum(f.status == "ok" for f in fits),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--folder", type=Path, help="renders and detections are kept here")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--without", nargs="*", default=[], choices=("world", "upright", "places"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        places = Places()
        fitter = RunFitter(places.body, ablate(FitConfig(), options.without))
        line = {"name": "depth", "without": options.without}
        if options.count:
            people = rendered_people(folder, options.count, options.seed)
            line |= on_renders(fitter, places, people, options.without)
        if options.photos:
            line |= on_photos(fitter, places, options.photos, options.without, folder / "cache")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
