"""Which part of the body each vertex and face belongs to, and which parts may not meet. Torch-free.

A part is what one joint carries. Parts that are neighbours in the skeleton always touch, and bend
into each other where skinning creases: their overlap says nothing, so such pairs are passed over.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from bodymodel.pickles import load_model_pickle

__all__ = [
    "IGNORED_PAIRS",
    "PUBLISHED_PAIRS",
    "REGIONS",
    "BodyParts",
    "body_parts",
    "published_parts",
    "region_of",
]

PUBLISHED_PAIRS: tuple[tuple[str, str], ...] = (
    ("spine3", "left_shoulder"), ("spine3", "right_shoulder"),
    ("spine2", "left_shoulder"), ("spine2", "right_shoulder"),
    ("left_hip", "right_hip"), ("neck", "jaw"),
)  # fmt: skip
"""Pairs that SMPLify-X's settings pass over besides parent and child (Pavlakos et al. 2019)."""

IGNORED_PAIRS: tuple[tuple[str, str], ...] = (
    *PUBLISHED_PAIRS,
    ("spine1", "left_shoulder"), ("spine1", "right_shoulder"),  # armpits reach down to there
    ("left_wrist", "left_thumb2"), ("right_wrist", "right_thumb2"),  # the ball of the thumb
)  # fmt: skip
"""Those that are passed over here."""

REGIONS: tuple[str, ...] = (
    "trunk", "head", "left_upper_arm", "left_forearm", "left_hand", "right_upper_arm",
    "right_forearm", "right_hand", "left_thigh", "left_shin", "left_foot", "right_thigh",
    "right_shin", "right_foot",
)  # fmt: skip
"""What people call the parts."""

_REGION_OF_JOINT = {
    "neck": "head", "head": "head", "jaw": "head",
    "shoulder": "upper_arm", "elbow": "forearm", "hip": "thigh", "knee": "shin",
    "ankle": "foot", "foot": "foot",
}  # fmt: skip
_TRUNK = ("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar")


@dataclass(frozen=True, eq=False)
class BodyParts:
    """The parts of a body's surface.

    Attributes:
        vertex_part: (V,) int64, a joint each.
        face_part: (F,) int64.
        may_meet: (J, J) bool, symmetric: pairs of parts whose overlap counts.
        joints: (J,) names.
    """

    vertex_part: np.ndarray
    face_part: np.ndarray
    may_meet: np.ndarray
    joints: tuple[str, ...]


def region_of(joint: str) -> str:
    """Return which of REGIONS a joint's part is in; fingers are the hand."""
    if joint in _TRUNK:
        return "trunk"
    if "eye" in joint:
        return "head"
    side, _, rest = joint.partition("_")
    if side not in ("left", "right"):
        return _REGION_OF_JOINT[joint]
    return f"{side}_{_REGION_OF_JOINT.get(rest, 'hand')}"


def body_parts(body: BodyData, ignored: tuple[tuple[str, str], ...] = IGNORED_PAIRS) -> BodyParts:
    """Return the parts of a body by its skinning weights.

    A vertex is the part of the joint that moves it most, a face that of the joint that moves its
    corners most. Passed over are a part with itself, parent and child, children of one parent
    (finger webs, collars and neck), and further pairs.

    Args:
        body: The body.
        ignored: Pairs of joints to pass over.
    """
    vertex_part = body.weights.argmax(1)
    face_part = body.weights[body.faces].sum(1).argmax(1)
    return BodyParts(
        vertex_part.astype(np.int64),
        face_part.astype(np.int64),
        _may_meet(body.parents, body.joints, ignored),
        body.joints,
    )


def published_parts(path: str | Path, body: BodyData) -> BodyParts:
    """Return the parts of the official ``smplx_parts_segm.pkl`` (keys ``segm``, ``parents``).

    Args:
        path: The file; it is read as data, never run.
        body: Of the same topology.

    Raises:
        ValueError: If it is damaged, names code, or is of another mesh.
    """
    content = load_model_pickle(path)
    count, num_joints = len(body.faces), len(body.joints)
    arrays = []
    for key in ("segm", "parents"):
        try:
            array = np.asarray(content.get(key), np.int64).reshape(-1)
        except (TypeError, ValueError):
            array = np.zeros(0, np.int64)
        if len(array) != count or array.min() < -1 or array.max() >= num_joints:
            raise ValueError(
                f"{path}: {key!r} must give one of {num_joints} joints to each of the {count} "
                f"faces, got {len(array)} numbers; is it of another body?"
            )
        arrays.append(array)
    face_part, face_parent = arrays
    may_meet = _may_meet(body.parents, body.joints, IGNORED_PAIRS)
    has_parent = face_parent >= 0
    pair = face_part[has_parent], face_parent[has_parent]
    may_meet[pair] = may_meet[pair[::-1]] = False
    votes = np.zeros((len(body.v_template), num_joints))
    for corner in range(3):
        np.add.at(votes, (body.faces[:, corner], face_part), 1)
    return BodyParts(votes.argmax(1), face_part, may_meet, body.joints)


def _may_meet(
    parents: tuple[int, ...], joints: tuple[str, ...], ignored: tuple[tuple[str, str], ...]
) -> np.ndarray:
    above = np.asarray(parents)
    allowed = (above[:, None] != above) | (above[:, None] < 0)
    np.fill_diagonal(allowed, False)
    for joint, parent in enumerate(parents):
        if parent >= 0:
            allowed[joint, parent] = allowed[parent, joint] = False
    for first, second in ignored:
        if first in joints and second in joints:
            a, b = joints.index(first), joints.index(second)
            allowed[a, b] = allowed[b, a] = False
    return allowed
