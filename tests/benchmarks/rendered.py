"""Rendered people seen by the detector, for the benchmarks of depth, keypoints and silhouettes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.params import BodyParams
from bodymodel.sliced import slice_body, sliced_forward
from bodymodel.spec import BODY_JOINTS
from curation.datasets import open_dataset
from curation.observe import observe
from fitting.demo import DemoConfig, make_demo
from fitting.rows import fit_target

PARAMETERS = tuple(BodyParams.__dataclass_fields__)


@dataclass(frozen=True, eq=False)
class Rendered:
    """Targets of the people that were found, and their truth."""

    targets: list
    truth: BodyParams
    sizes: list[tuple[int, int]]
    paths: list[Path]


def rendered_people(folder: Path, count: int, seed: int) -> Rendered:
    """Render (once) people before cameras pitched by up to 15 degrees, and detect them."""
    root = folder / f"renders-{seed}-{count}"
    make_demo(DemoConfig(root, count, seed, (-15.0, 15.0)))
    targets, truth, sizes, paths = [], [], [], []
    samples = open_dataset(root, None).iter_samples()
    for seen in observe(samples, source="mediapipe", cache_dir=folder / "cache"):
        if seen.status != "ok":
            continue
        target = fit_target(seen, float(seen.truth["focal_px"]))
        targets.append(target)
        truth.append(seen.truth)
        sizes.append((seen.width, seen.height))
        paths.append(root / seen.image_id)
    stacked = {k: torch.as_tensor(np.stack([t[k] for t in truth])).double() for k in PARAMETERS}
    return Rendered(targets, BodyParams(**stacked), sizes, paths)


class Places:
    """The fit points of bodies with given parameters, SMPL-X's own places."""

    def __init__(self) -> None:
        self.body = load_body("open", "smplx", "neutral")
        self._sliced = slice_body(self.body, dtype=torch.float64)
        self._rows = [FIT_KEYPOINTS.index(n) for n in self._sliced.points]

    def __call__(self, params: BodyParams) -> np.ndarray:
        """(N, 145, 3) metres, camera frame; NaN where none."""
        shape = torch.cat([params.betas, params.expression], 1)
        found = sliced_forward(self._sliced, params.full_pose, shape, params.transl).points
        points = np.full((len(found), len(FIT_KEYPOINTS), 3), np.nan)
        points[:, self._rows] = found.numpy()
        return points


def params_of(results) -> BodyParams:
    """Stack the parameters of fits."""
    return BodyParams(
        **{k: torch.as_tensor(np.stack([r.params[k] for r in results])).double()
           for k in PARAMETERS}
    )  # fmt: skip


def index(name: str) -> int:
    """Place of a point in the fit convention."""
    return FIT_KEYPOINTS.index(name)


def lean_deg(points: np.ndarray) -> np.ndarray:
    """(N,) angle of pelvis to neck against the image plane; positive leans to the camera."""
    trunk = points[:, index("neck")] - points[:, index("pelvis")]
    return np.degrees(np.arcsin(-trunk[:, 2] / np.linalg.norm(trunk, axis=1)))


def mpjpe_mm(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) mean error of the body's joints, pelvis aligned."""
    rows = [index(n) for n in BODY_JOINTS]
    pelvis = index("pelvis")
    a, b = (p[:, rows] - p[:, [pelvis]] for p in (points, truth))
    return 1000 * np.linalg.norm(a - b, axis=2).mean(1)


def body_pct(results) -> np.ndarray:
    """(N,) median residual of the body's points in % of the person's height."""
    return np.array([100 * r.residual_part_px["body"] / r.person_height_px for r in results])
