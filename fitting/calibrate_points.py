"""Learn where each keypoint convention puts its points on the body.

    python -m fitting.calibrate_points --photos samples/ [--renders 300]

MediaPipe's places come from rendered people, whose pose is known. Those of annotators and of
OpenPose come from labelled photos, whose pose is what MediaPipe's calibrated points say: people are
few there, so the places stay near SMPL-X's where they contradict it little. Only numbers are kept:
``bodymodel/data/point_places.json``.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from curation.samples import PersonObservation
from fitting.point_calibration import PointSamples, calibrate, neighbours, signed_errors

__all__ = ["CalibrateConfig", "labelled_samples", "rendered_samples"]

MEDIAPIPE = "mediapipe_holistic543"
SETS: dict[str, tuple[str, ...]] = {
    "lsp": ("lsp14",),
    "openpose": ("openpose137", "openpose_body25", "openpose_coco18", "coco17",
                 "coco_wholebody133"),
}  # fmt: skip
"""By set of places, the conventions that share it: OpenPose learned from COCO's labels. Of MPII's
labels there are too few at hand."""

_NOISE_M, _PRIOR_M = 0.05, 0.05  # of labels on photos: what one click is off, how far places are


@dataclass(frozen=True)
class CalibrateConfig:
    """What to learn from."""

    photos: Path | None = None
    """Folder of data sets with labels, one a subfolder; without it only MediaPipe is calibrated."""
    renders: int = 300
    """Rendered people."""
    seed: int = 100
    """Of the rendered people."""
    out: Path = Path("bodymodel/data/point_places.json")
    """Where the places go."""


def rendered_samples(count: int, seed: int, folder: Path) -> PointSamples:
    """Render people, or take those that are there, and let MediaPipe look at them."""
    from fitting.demo import DemoConfig, make_demo

    make_demo(DemoConfig(folder, count, seed, (-15.0, 15.0)))
    seen = list(_observe(folder, "mediapipe"))
    return _samples([(o, o.truth, o.keypoints_2d) for o in seen])


def labelled_samples(photos: Path) -> dict[str, PointSamples]:
    """Return labelled people by set of places, posed as MediaPipe's calibrated points say."""
    from bodymodel.files import load_body
    from curation.datasets import open_dataset
    from curation.evidence import from_labels
    from fitting.fit import Fitter
    from fitting.rows import fit_target

    found: dict[str, list] = {name: [] for name in SETS}
    folders = [p for p in sorted(photos.iterdir()) if p.is_dir()]
    for folder in folders:
        try:
            labels = {
                (sample.image_id, person.person_index): person
                for sample in open_dataset(folder, None).iter_samples()
                for person in sample.people
            }
        except ValueError:
            continue
        if not labels:
            continue
        for seen in _observe(folder, "mediapipe"):
            person = labels.get((seen.image_id, seen.person_index))
            if seen.status != "ok" or person is None:
                continue
            for name, conventions in SETS.items():
                sets = [k for _, k in person.keypoints if k.convention in conventions]
                for keypoints in sets[:1]:
                    one = from_labels(type(person)(0, None, ((1, keypoints),)))
                    found[name].append((seen, one.points))
    fitter = Fitter(load_body("open", "smplx", "neutral"), conventions=(MEDIAPIPE,))
    out = {}
    for name, people in found.items():
        fits = fitter.fit([fit_target(seen, None) for seen, _ in people])
        good = [
            (seen, fit.params, points)
            for (seen, points), fit in zip(people, fits, strict=True)
            if fit.status == "ok" and fit.residual_part_px["body"] < 0.02 * fit.person_height_px
        ]
        if good:
            out[name] = _samples(good)
    return out


def _observe(folder: Path, source: str) -> Iterator[PersonObservation]:
    from curation.datasets import open_dataset
    from curation.observe import observe

    dataset = open_dataset(folder, None)
    return (o for o in observe(dataset.iter_samples(), source=source) if o.status == "ok")


def _samples(people: list) -> PointSamples:
    """Stack (observation, parameters, points seen) into samples; places are SMPL-X's own."""
    from bodymodel.files import load_body
    from curation.reproject import Reprojector
    from fitting.rows import fit_target

    reprojector = Reprojector.for_body(load_body("open", "smplx", "neutral"))
    focal, center, points, seen = [], [], [], []
    for observation, params, keypoints in people:
        target = fit_target(observation, None)
        focal.append(params.get("focal_px", target.focal_px))
        center.append(params.get("center_px", target.center_px))
        row = {k: v for k, v in params.items() if k not in ("body_sha256", "body_name")}
        points.append(reprojector.points(row))
        seen.append(keypoints)
    count = len(people)
    return PointSamples(
        np.stack(points), np.stack(seen), np.array(focal, float).reshape(count),
        np.array(center, float).reshape(count, 2),
    )  # fmt: skip


def names_of(conventions: tuple[str, ...]) -> tuple[str, ...]:
    """Return the calibrated points that conventions have, in the order of ``fit``."""
    has = {name for convention in conventions for name in CONVENTIONS[convention]}
    return tuple(name for name in FIT_KEYPOINTS if name in has and neighbours(name))


def learn(samples: PointSamples, which: str) -> tuple[dict[str, dict[str, float]], dict]:
    """Calibrate one set of places; errors are of halves that the other half's places are put to."""
    names = names_of((MEDIAPIPE,) if which == "mediapipe" else SETS[which])
    options = {} if which == "mediapipe" else {"noise_m": _NOISE_M, "prior_m": _PRIOR_M}
    rows = np.arange(len(samples.points))
    halves = [samples.take(rows[k::2]) for k in (0, 1)]
    crossed = [calibrate(half, names, **options) for half in halves]
    report = {}
    for name in signed_errors(samples, {}, names):
        before, after, count = [], [], 0
        for half, other in zip(halves, reversed(crossed), strict=True):
            raw = signed_errors(half, {}, (name,)).get(name)
            put = signed_errors(half, other, (name,)).get(name)
            if raw is not None and put is not None:
                before.append(raw[:2])
                after.append(put[:2])
                count += int(raw[3])
        if before:
            report[name] = {
                "before_mm": np.round(np.mean(before, 0), 1).tolist(),
                "after_mm": np.round(np.mean(after, 0), 1).tolist(),
                "n": count,
            }
    return calibrate(samples, names, **options), report


def main() -> None:
    """Run the command."""
    import tyro

    config = tyro.cli(CalibrateConfig, prog="python -m fitting.calibrate_points",
                      description=__doc__)  # fmt: skip
    places, report = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        samples = rendered_samples(config.renders, config.seed, Path(folder) / "renders")
    places["mediapipe"], report["mediapipe"] = learn(samples, "mediapipe")
    _write(config.out, places, report)  # the photos are fitted with these
    if config.photos is not None:
        from bodymodel.fit_points import known_places

        known_places.cache_clear()
        for name, found in labelled_samples(config.photos).items():
            places[name], report[name] = learn(found, name)
        _write(config.out, places, report)
    sys.stdout.write(json.dumps({"out": str(config.out), "errors": report}) + "\n")


def _write(path: Path, places: dict, report: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"places": places, "signed_errors": report}, indent=1)
    path.write_text(text + "\n")


if __name__ == "__main__":
    main()
