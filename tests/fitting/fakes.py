"""Stand-ins for the data sets, the detector and the solver: quick, and the same every time.

``python -m tests.fitting.fakes DATA ...`` is ``python -m fitting.run`` with them, for tests that
kill it. DELAY_S and FAIL of the environment set how slow the solver is and whom it refuses.
"""

import hashlib
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import PARTS
from curation.samples import KeypointSource, PersonObservation, Sample
from fitting.records import FitResult
from fitting.rooms import Rooms
from fitting.run import main
from tests.random_body import random_body, random_params

K = len(FIT_KEYPOINTS)


def _rng(*parts):
    text = "/".join(map(str, parts)).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "big"))


@dataclass(frozen=True)
class FakeDataset:
    """``count`` photos that are not there; every 7th shows nobody, every 5th two people."""

    root: Path
    images: int = 40
    kind: str = "folder"

    def count(self):
        return self.images

    def iter_samples(self):
        for k in range(self.images):
            name = f"images/{k:04d}.jpg"
            yield Sample(name, self.root / name)


def open_fake(root, kind):
    if not Path(root).is_dir():
        raise ValueError(f"{root} does not exist; give the directory that holds the photos")
    return FakeDataset(Path(root), int(os.environ.get("IMAGES", "40")))


def fake_observe(samples, *, source, workers, cache_dir):
    for sample in samples:
        number = int(sample.path.stem)
        common = {"image_sha256": f"{number:064x}", "width": 640, "height": 480}
        if number % 7 == 3:
            yield PersonObservation(
                sample.image_id, 0, **common, status="no_person", reason="nobody is there"
            )
            continue
        for person in range(1 + (number % 5 == 0)):
            rng = _rng(sample.image_id, person)
            points = np.column_stack([rng.uniform(0, 480, (K, 2)), np.ones(K)])
            yield PersonObservation(
                sample.image_id,
                person,
                **common,
                bbox_xyxy_px=np.array([0, 0, 480, 480], np.float32),
                keypoints_2d=points.astype(np.float32),
                keypoint_source=np.full(K, KeypointSource.ANNOTATION, np.int8),
            )


@dataclass
class FakeFitter:
    """Makes parameters from a hash of the keypoints; refuses people whose first x is FAIL."""

    body: object
    delay_s: float = 0.0
    fails: tuple[int, ...] = ()
    batches: list = None

    def fit(self, targets):
        if self.batches is not None:
            self.batches.append(len(targets))
        if any(int(t.keypoints_2d[0, 0]) in self.fails for t in targets):
            raise ZeroDivisionError("a person that cannot be fitted")
        time.sleep(self.delay_s)
        return [self._one(target) for target in targets]

    def _one(self, target):
        seed = int.from_bytes(hashlib.sha256(target.keypoints_2d.tobytes()).digest()[:4], "big")
        rng = np.random.default_rng(seed)
        residual = rng.uniform(0, 9, K).astype(np.float32)
        return FitResult(
            params=random_params(self.body, seed),
            projected_2d=target.keypoints_2d[:, :2],
            residual_px=residual,
            residual_part_px={part: float(np.median(residual)) for part in PARTS},
            person_height_px=400.0,
            energy={"data": 1.0, "pose_prior": 0.5},
            energy_total=1.5,
            starts=("front", "back"),
            start_energies=np.array([1.5, 3.0], np.float32),
            start_margin=1.0,
            winner="front",
            iterations=12,
            status="not_converged" if seed % 11 == 0 else "ok",
            reason="stopped after 40 iterations" if seed % 11 == 0 else "",
        )


def fake_draw(body, row, photo):
    """Three small pictures without a photo."""
    shade = int(abs(row["transl"][0]) * 100) % 256
    return {view: np.full((60, 80, 3), shade, np.uint8) for view in ("front", "side", "top")}


def fake_body(source, family, gender):
    return random_body(3)


def fake_rooms(delay_s=0.0, fails=(), batches=None, part_s=10.0, observe=fake_observe):
    return Rooms(
        open_dataset=open_fake,
        observe=observe,
        load_body=fake_body,
        make_fitter=lambda body, config, device, dtype, prior: FakeFitter(
            body, delay_s, fails, batches
        ),
        start_torch=lambda wanted: ("cpu", "0"),
        seed=random.seed,
        draw=fake_draw,
        part_s=part_s,
    )


if __name__ == "__main__":
    delay = float(os.environ.get("DELAY_S", "0"))
    sys.exit(main(rooms=fake_rooms(delay, part_s=float(os.environ.get("PART_S", "0.05")))))
