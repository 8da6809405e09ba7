"""Where the 145 points that are fitted lie on a body, as sparse sums of joints and vertices.

A point is a row of weights over the posed joints and a row over the posed vertices. Joints,
single vertices and barycentric landmarks are special cases, and so is any regressor that is
calibrated for one keypoint convention. Torch-free.
"""

from dataclasses import dataclass

import numpy as np

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import (
    FACE_LANDMARKS,
    SMPLX_JOINTS,
    VERTEX_KEYPOINTS,
)

_TOP_VERTICES = 5  # the top of the head is their mean: one vertex alone is a matter of meshing


@dataclass(frozen=True, eq=False)
class FitPoints:
    """The points of FIT_KEYPOINTS on one body, as sums of joints and vertices.

    They are ``joint_weights @ joints + vertex_weights @ vertices[vertex_ids]``.

    Attributes:
        joint_weights: (145, J) float64.
        vertex_ids: (n,) int64, the vertices that any point needs.
        vertex_weights: (145, n) float64. Rows of both are zero for the 17 points of the jaw line,
            which have no fixed place on the body.
    """

    joint_weights: np.ndarray
    vertex_ids: np.ndarray
    vertex_weights: np.ndarray


def fit_points(body: BodyData) -> FitPoints:
    """Return the places of FIT_KEYPOINTS on a SMPL-X body.

    Raises:
        ValueError: If the body is of another family.
    """
    if body.family != "smplx":
        raise ValueError(
            f"keypoints are fitted on smplx bodies, got a {body.family} body; convert it first"
        )
    index = {name: k for k, name in enumerate(FIT_KEYPOINTS)}
    num_vertices = body.v_template.shape[0]
    joint_weights = np.zeros((len(FIT_KEYPOINTS), len(SMPLX_JOINTS)))
    vertex_weights = np.zeros((len(FIT_KEYPOINTS), num_vertices))

    for joint, name in enumerate(SMPLX_JOINTS):
        joint_weights[index[name], joint] = 1
    ids = body.vertex_ids
    for name, vertex in zip(VERTEX_KEYPOINTS, ids, strict=True):
        vertex_weights[index[name], vertex] = 1
    for k, name in enumerate(FACE_LANDMARKS):
        corners = body.faces[body.landmark_faces[k]]
        np.add.at(vertex_weights[index[name]], corners, body.landmark_bary[k])
    top = np.argsort(-body.v_template[:, 1], kind="stable")[:_TOP_VERTICES]
    vertex_weights[index["head_top"], top] = 1 / _TOP_VERTICES

    used = np.flatnonzero(vertex_weights.any(axis=0))
    return FitPoints(joint_weights, used, vertex_weights[:, used])
