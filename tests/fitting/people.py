"""Made people: keypoints of known bodies before a known camera."""

import math

import numpy as np
import torch

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.params import BodyParams
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import slice_body, sliced_forward
from fitting.prepared import FINE_POINTS
from fitting.records import FitTarget

FOCAL_PX = 900.0
CENTER_PX = np.array([320.0, 400.0])


def make_people(
    body: BodyData,
    count: int,
    *,
    noise_px: float = 1.0,
    seed: int = 0,
    betas: torch.Tensor | None = None,
) -> tuple[list[FitTarget], BodyParams, np.ndarray]:
    """Return targets, the true parameters and the true points (count, 145, 3) in metres."""
    rng = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=rng, dtype=torch.float64)

    pose = 0.12 * torch.randn(count, 21, 3, generator=rng, dtype=torch.float64)
    pose[:, 15, 2] -= uniform(0.4, 1.3, count)  # left shoulder down
    pose[:, 16, 2] += uniform(0.4, 1.3, count)
    pose[:, 17, 1] = -uniform(0.1, 1.4, count)  # elbows
    pose[:, 18, 1] = uniform(0.1, 1.4, count)
    pose[:, 0, 0] = -uniform(0.0, 0.7, count)  # hips forward
    pose[:, 1, 0] = -uniform(0.0, 0.7, count)
    pose[:, 3, 0] = uniform(0.05, 1.0, count)  # knees
    pose[:, 4, 0] = uniform(0.05, 1.0, count)
    heading = uniform(-1.0, 1.0, count)
    zero = torch.zeros_like(heading)
    upright = torch.tensor([math.pi, 0, 0], dtype=torch.float64)
    root = rotvec_to_rotmat(upright) @ rotvec_to_rotmat(torch.stack([zero, heading, zero], 1))
    params = BodyParams.zeros(
        count,
        num_betas=body.num_betas,
        num_expression=body.num_expression,
        dtype=torch.float64,
    )
    params = BodyParams(
        **{
            **vars(params),
            "global_orient": rotmat_to_rotvec(root),
            "body_pose": pose,
            "betas": torch.randn(count, body.num_betas, generator=rng, dtype=torch.float64)
            if betas is None
            else betas,
            "transl": torch.tensor([0.05, 0.1, 4.0], dtype=torch.float64).expand(count, 3),
        }
    )
    sliced = slice_body(body, dtype=torch.float64)
    shape = torch.cat([params.betas, params.expression], 1)
    points = sliced_forward(sliced, params.full_pose, shape, params.transl).points
    pixels = FOCAL_PX * points[..., :2] / points[..., 2:] + torch.as_tensor(CENTER_PX)
    pixels = pixels + noise_px * torch.randn(pixels.shape, generator=rng, dtype=torch.float64)

    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    keypoints = np.zeros((count, len(FIT_KEYPOINTS), 3), np.float32)
    keypoints[:, rows, :2] = pixels.numpy()
    keypoints[:, [FIT_KEYPOINTS.index(name) for name in FINE_POINTS], 2] = 1
    keypoints[keypoints[..., 2] == 0] = 0
    truth = np.full((count, len(FIT_KEYPOINTS), 3), np.nan)
    truth[:, rows] = points.numpy()
    return [FitTarget(k, FOCAL_PX, CENTER_PX) for k in keypoints], params, truth
