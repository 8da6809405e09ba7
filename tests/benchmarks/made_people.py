"""Made people for benchmarks: poses of motion capture, random shapes, detector-like noise.

Poses are those of CMU subjects whose number is divisible by 5, which a prior trained by the
project's own split has not seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.mocap import packaged_motion
from bodymodel.params import BodyParams
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import slice_body, sliced_forward
from bodymodel.spec import keypoint_part
from fitting.config import FitConfig
from fitting.fit import Fitter
from fitting.inits import lifted_starts
from fitting.records import FitResult, FitTarget
from fitting.reference_energy import OPENPOSE_POINTS
from regressor.lifter.predict import load_lifter

NOISE_PX = {"body": 3.0, "left_hand": 1.5, "right_hand": 1.5, "face": 1.5}
SEEN = np.array([name in OPENPOSE_POINTS for name in FIT_KEYPOINTS])
LOWER = ("hip", "knee", "ankle", "toe", "heel", "pelvis")


@dataclass(frozen=True, eq=False)
class MadePeople:
    """What was made.

    Attributes:
        targets: What a solver is given.
        params: The true parameters.
        points: (N, 145, 3) true points, metres, camera frame; NaN where undefined.
        joints: (N, 55, 3) true joints, metres, camera frame.
        focal_px: (N,) true.
    """

    targets: list[FitTarget]
    params: BodyParams
    points: np.ndarray
    joints: np.ndarray
    focal_px: np.ndarray


class RunFitter(Fitter):
    """What ``fitting.run`` does with targets: starts of the lifter compete with the headings."""

    def __init__(self, body: BodyData, config: FitConfig | None = None) -> None:
        super().__init__(body, replace(config or FitConfig(), given_starts="compete"))
        self.lifter = load_lifter(body)

    def fit(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        starts = lifted_starts(self.lifter, targets)
        return super().fit([replace(t, starts=s) for t, s in zip(targets, starts, strict=True)])


def real(x) -> torch.Tensor:
    return torch.as_tensor(np.array(x, np.float64))


def random_people(body: BodyData, count: int, rng: np.random.Generator) -> BodyParams:
    """Upright in the camera, headings within +-75 degrees of it, random shape, hands and face."""
    poses = packaged_motion().split()[1]
    pick = rng.permutation(len(poses.body_pose))
    pick = np.resize(pick, count)
    yaw, zero = np.radians(rng.uniform(-75, 75, count)), np.zeros(count)
    root = rotvec_to_rotmat(real([math.pi, 0, 0]))
    root = root @ rotvec_to_rotmat(real(np.stack([zero, yaw, zero], 1)))
    root = root @ rotvec_to_rotmat(real(poses.global_orient[pick]))
    hands = body.hand_means[:, None] + np.einsum(
        "hnc,hcd->hnd", 0.4 * rng.normal(size=(2, count, 6)), body.hand_components[:, :6]
    )
    jaw = np.abs(rng.normal(0, 0.08, count))
    eyes = real(rng.normal(0, 0.1, (count, 3)))
    return BodyParams(
        global_orient=rotmat_to_rotvec(root),
        body_pose=real(poses.body_pose[pick]),
        jaw_pose=real(np.stack([jaw, zero, zero], 1)),
        leye_pose=eyes,
        reye_pose=eyes,
        left_hand_pose=real(hands[0]).view(count, 15, 3),
        right_hand_pose=real(hands[1]).view(count, 15, 3),
        betas=real(rng.normal(size=(count, body.num_betas))),
        expression=real(rng.normal(size=(count, body.num_expression))),
        transl=real(np.zeros((count, 3))),
    )


def make_people(
    body: BodyData,
    count: int,
    *,
    seed: int = 0,
    focal_px: np.ndarray | float = 1000.0,
    assumed_px: np.ndarray | float | None = None,
    focal_sd: float = 0.0,
    size_px: tuple[int, int] = (600, 800),
    fill: np.ndarray | float = 0.75,
    noise: float = 1.0,
    lower_body: bool = True,
) -> MadePeople:
    """Photograph random people so that they fill a share of the picture's height or width.

    Args:
        body: The body.
        count: N.
        seed: Of everything.
        focal_px: True, (N,) or one.
        assumed_px: What the solver is told; the true one if None.
        focal_sd: Likewise.
        size_px: Width and height of the picture.
        fill: Share of the picture; above 1 the person goes beyond it.
        noise: Factor on NOISE_PX.
        lower_body: Whether hips, legs and feet are seen.
    """
    rng = np.random.default_rng(seed)
    params = random_people(body, count, rng)
    focal = np.broadcast_to(np.asarray(focal_px, float), (count,))
    fill = np.broadcast_to(np.asarray(fill, float), (count,))
    sliced = slice_body(body, dtype=torch.float64)
    shape = torch.cat([params.betas, params.expression], 1)
    points = sliced_forward(sliced, params.full_pose, shape, params.transl).points
    low, high = points.amin(1), points.amax(1)
    size = (high - low)[:, :2] / (real(fill)[:, None] * real(size_px))
    depth = real(focal) * size.amax(1) + (high - low)[:, 2] / 2
    transl = torch.cat([-(low + high)[:, :2] / 2, depth[:, None]], 1)
    transl[:, 2] -= (low + high)[:, 2] / 2
    transl[:, :2] += (depth / real(focal))[:, None] * real(rng.uniform(-30, 30, (count, 2)))
    params = BodyParams(**{**vars(params), "transl": transl})
    state = sliced_forward(sliced, params.full_pose, shape, params.transl)
    points = state.points

    center = np.array(size_px) / 2
    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    clean = np.full((count, len(FIT_KEYPOINTS), 2), np.nan)
    clean[:, rows] = (real(focal)[:, None, None] * points[..., :2] / points[..., 2:]).numpy()
    clean += center
    sigma = noise * np.array([NOISE_PX[keypoint_part(name)] for name in FIT_KEYPOINTS])
    noisy = clean + sigma[:, None] * rng.normal(size=clean.shape)
    keypoints = np.zeros((count, len(FIT_KEYPOINTS), 3), np.float32)
    confidence = rng.uniform(0.5, 1, (count, SEEN.sum()))
    keypoints[:, SEEN, :2] = noisy[:, SEEN]
    keypoints[:, SEEN, 2] = confidence
    if not lower_body:
        gone = [k for k, n in enumerate(FIT_KEYPOINTS) if any(w in n for w in LOWER)]
        keypoints[:, gone] = 0
    told = focal if assumed_px is None else np.broadcast_to(assumed_px, (count,))
    targets = [
        FitTarget(k, float(f), center, float(size_px[1]), focal_sd)
        for k, f in zip(keypoints, told, strict=True)
    ]
    true_points = np.full((count, len(FIT_KEYPOINTS), 3), np.nan)
    true_points[:, rows] = points.numpy()
    joints = np.zeros((count, 55, 3))
    joints[:, sliced.joint_ids.numpy()] = (state.joints + transl[:, None]).numpy()
    return MadePeople(targets, params, true_points, joints, focal)
