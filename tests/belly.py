"""A person whose left hand is inside the belly, and what a camera sees of that."""

import numpy as np
import torch

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.params import BodyParams
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import slice_body, sliced_forward
from fitting.prepared import FINE_POINTS
from fitting.records import FitTarget


def turn(*rotvec: float) -> torch.Tensor:
    return rotvec_to_rotmat(torch.tensor(rotvec, dtype=torch.float64))


def hand_in_belly(body: BodyData, yaw: float = 0.0) -> BodyParams:
    """One person, 4 m before the camera, turned by ``yaw`` from facing it."""
    params = BodyParams.zeros(1, dtype=torch.float64)
    of = body.joints.index
    params.body_pose[0, of("left_shoulder") - 1] = rotmat_to_rotvec(
        turn(0, 0, -1.1) @ turn(1.2, 0, 0)
    )
    params.body_pose[0, of("left_elbow") - 1, 1] = -1.6
    params.body_pose[0, of("right_shoulder") - 1, 2] = 1.1
    params.global_orient[0] = rotmat_to_rotvec(turn(3.14159, 0, 0) @ turn(0, yaw, 0))
    params.transl[0] = torch.tensor([0, 0.2, 4.0])
    return params


def seen(body: BodyData, params: BodyParams, noise_px: float = 1.0) -> FitTarget:
    """Its keypoints with noise, 900 px focal length, 640 x 800."""
    sliced = slice_body(body, FINE_POINTS, dtype=torch.float64)
    shape = torch.cat([params.betas, params.expression], 1)
    points = sliced_forward(sliced, params.full_pose, shape, params.transl).points[0].numpy()
    pixels = 900 * points[:, :2] / points[:, 2:] + [320, 400]
    pixels += noise_px * np.random.default_rng(0).normal(size=pixels.shape)
    keypoints = np.zeros((len(FIT_KEYPOINTS), 3), np.float32)
    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    keypoints[rows, :2], keypoints[rows, 2] = pixels, 1
    return FitTarget(keypoints, 900.0, np.array([320.0, 400.0]), 800.0)
