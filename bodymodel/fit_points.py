"""Where the 145 points that are fitted lie on a body, as sparse sums of joints and vertices.

SMPL-X says where its joints are; what detectors and annotators call a hip or an ear lies
centimetres elsewhere. ``data/point_places.json`` says where, by convention, as weighted sums of
SMPL-X's own points (``python -m fitting.calibrate_points`` makes it), so it holds for every body.

A point is a row of weights over the posed joints and a row over the posed vertices. Joints,
single vertices and barycentric landmarks are special cases, and so is any regressor that is
calibrated for one keypoint convention. Torch-free.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from bodymodel.body import BodyData
from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from bodymodel.spec import (
    FACE_LANDMARKS,
    SMPLX_JOINTS,
    VERTEX_KEYPOINTS,
)

__all__ = [
    "PLACE_SETS",
    "FitPoints",
    "convention_mixes",
    "fit_points",
    "known_places",
    "mix_points",
]

PLACE_SETS: dict[str, str] = {
    "openpose_body25": "openpose",
    "openpose_coco18": "openpose",
    "openpose137": "openpose",
    "coco17": "openpose",  # OpenPose learned from COCO's labels
    "coco_wholebody133": "openpose",
    "mediapipe_pose33": "mediapipe",
    "mediapipe_holistic543": "mediapipe",
    "lsp14": "lsp",
}
"""Whose places each convention of ``keypoints.CONVENTIONS`` has; the others have SMPL-X's own."""

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


@cache
def known_places() -> dict[str, dict[str, dict[str, float]]]:
    """Return the shipped places: by set, by point, the weights of SMPL-X's own points."""
    path = resources.files("bodymodel") / "data" / "point_places.json"
    return json.loads(path.read_text())["places"]


def convention_mixes(conventions: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Return how points of some conventions are mixed from SMPL-X's.

    Args:
        conventions: Keys of keypoints.CONVENTIONS; a point is where the first that has it puts it.

    Raises:
        ValueError: If a convention is unknown.
    """
    mixes: dict[str, dict[str, float]] = {}
    taken: set[str] = set()
    for convention in conventions:
        if convention not in CONVENTIONS:
            raise ValueError(
                f"unknown keypoint convention {convention!r}; known: {sorted(CONVENTIONS)}"
            )
        places = known_places().get(PLACE_SETS.get(convention, ""), {})
        mixes |= {
            n: m for n, m in places.items() if n in CONVENTIONS[convention] and n not in taken
        }
        taken.update(CONVENTIONS[convention])
    return mixes


def mix_points(places: FitPoints, mixes: Mapping[str, Mapping[str, float]]) -> FitPoints:
    """Return places with some points replaced by weighted sums of others.

    Args:
        places: Of :func:`fit_points`.
        mixes: By point, the weights of the points it is mixed from, as they are in ``places``.
    """
    index = {name: k for k, name in enumerate(FIT_KEYPOINTS)}
    matrix = np.eye(len(index))
    for name, mix in mixes.items():
        matrix[index[name]] = 0
        for source, weight in mix.items():
            matrix[index[name], index[source]] = weight
    return FitPoints(
        matrix @ places.joint_weights, places.vertex_ids, matrix @ places.vertex_weights
    )


def fit_points(body: BodyData, conventions: tuple[str, ...] = ()) -> FitPoints:
    """Return the places of FIT_KEYPOINTS on a SMPL-X body.

    Args:
        body: The body.
        conventions: Where points come from, as in :func:`convention_mixes`; none for SMPL-X's own
            places.

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
    places = FitPoints(joint_weights, used, vertex_weights[:, used])
    return mix_points(places, convention_mixes(conventions)) if conventions else places
