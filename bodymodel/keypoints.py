"""Keypoint conventions as tuples of names, and conversion between them by name. Torch-free.

A convention is nothing but an ordered tuple of names. Two conventions share a point when they
share its name, and the names are those of SMPL-X's 144 keypoints wherever the point is meant to
be the same. A point that SMPL-X does not have keeps a name of its own (``head_top``).

Sharing a name does not make two annotators click on the same spot: hips, shoulders and the neck
of the 2D data sets lie elsewhere than SMPL-X's joints. ``LOOSE_POINTS`` says which.
"""

from dataclasses import dataclass

import numpy as np

from bodymodel.spec import (
    FACE_CONTOUR,
    FACE_LANDMARKS,
    SMPLX_KEYPOINTS,
    mirror_name,
)

__all__ = [
    "CONVENTIONS",
    "FIT_KEYPOINTS",
    "LOOSE_POINTS",
    "Keypoints2D",
    "convert_keypoints",
    "flip_order",
]


_ARMS_LEGS_COCO = (
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
_EYES_EARS_COCO = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_FEET = (
    "left_big_toe", "left_small_toe", "left_heel",
    "right_big_toe", "right_small_toe", "right_heel",
)  # fmt: skip
_OPENPOSE_ARMS = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
_OPENPOSE_LEGS = (
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip


def _hand21(side: str) -> tuple[str, ...]:
    """Wrist, then thumb to pinky, each from root to tip: OpenPose, COCO-WholeBody, MediaPipe."""
    names = [f"{side}_wrist"]
    for finger in ("thumb", "index", "middle", "ring", "pinky"):
        names += [f"{side}_{finger}{k}" for k in (1, 2, 3)] + [f"{side}_{finger}"]
    return tuple(names)


_FACE68 = FACE_CONTOUR + FACE_LANDMARKS

# The vertices of MediaPipe's face mesh that lie on the iBUG-68 points, in iBUG order.
_MEDIAPIPE_FACE68 = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip

_MEDIAPIPE_POSE33 = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer",
    "right_eye_inner", "right_eye", "right_eye_outer", "left_ear", "right_ear",
    "left_mouth_corner", "right_mouth_corner",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_pinky_knuckle", "right_pinky_knuckle",
    "left_index_knuckle", "right_index_knuckle", "left_thumb_knuckle", "right_thumb_knuckle",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    "left_heel", "right_heel", "left_big_toe", "right_big_toe",
)  # fmt: skip


def _mediapipe_face() -> tuple[str, ...]:
    names = [f"mediapipe_face_{i}" for i in range(468)]
    for name, vertex in zip(_FACE68, _MEDIAPIPE_FACE68, strict=True):
        names[vertex] = name
    return tuple(names)


_LSP14 = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder",
    "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
)  # fmt: skip
_COCO17 = _EYES_EARS_COCO + _ARMS_LEGS_COCO
_BODY25 = (*_OPENPOSE_ARMS, "pelvis", *_OPENPOSE_LEGS, *_FEET)
_PUPILS = ("right_pupil", "left_pupil")

FIT_KEYPOINTS: tuple[str, ...] = (*SMPLX_KEYPOINTS, "head_top")
"""What a person's keypoints are stored and fitted in: SMPL-X's 144 and the top of the head."""

CONVENTIONS: dict[str, tuple[str, ...]] = {
    "fit": FIT_KEYPOINTS,
    "smplx144": SMPLX_KEYPOINTS,
    "openpose_body25": _BODY25,
    "openpose_coco18": _OPENPOSE_ARMS + _OPENPOSE_LEGS,
    "openpose_hand21_left": _hand21("left"),
    "openpose_hand21_right": _hand21("right"),
    "openpose_face70": _FACE68 + _PUPILS,
    "openpose137": _BODY25 + _hand21("left") + _hand21("right") + _FACE68 + _PUPILS,
    "coco17": _COCO17,
    "coco_wholebody133": _COCO17 + _FEET + _FACE68 + _hand21("left") + _hand21("right"),
    "mediapipe_pose33": _MEDIAPIPE_POSE33,
    "mediapipe_holistic543": (
        _MEDIAPIPE_POSE33 + _hand21("left") + _hand21("right") + _mediapipe_face()
    ),
    "lsp14": _LSP14,
    "smplx_lsp14": _LSP14,  # LSP's names at SMPL-X's own joints: labels of rendered people
    "mpii16": (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "pelvis", "thorax", "neck", "head_top",
        "right_wrist", "right_elbow", "right_shoulder",
        "left_shoulder", "left_elbow", "left_wrist",
    ),
}  # fmt: skip

LOOSE_POINTS: frozenset[str] = frozenset(
    ("pelvis", "left_hip", "right_hip", "neck", "head_top", "left_shoulder", "right_shoulder")
)
"""Points whose definition in the 2D conventions is centimetres away from SMPL-X's joint."""


@dataclass(frozen=True)
class Keypoints2D:
    """Named image points of one person.

    Attributes:
        convention: A key of CONVENTIONS.
        points: (K, 3) float32: x px, y px, confidence 0-1. The origin is the top-left corner of
            the top-left pixel, x right, y down. Confidence 0 means absent; x and y are then 0.
    """

    convention: str
    points: np.ndarray

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise ValueError(
                f"unknown keypoint convention {self.convention!r}; known: {sorted(CONVENTIONS)}"
            )
        expected = (len(CONVENTIONS[self.convention]), 3)
        points = np.asarray(self.points, dtype=np.float32)
        if points.shape != expected:
            raise ValueError(
                f"{self.convention} keypoints must be {expected}, got {points.shape}; "
                "use the convention whose points these are"
            )
        # A point that is not finite is a point that was not seen.
        present = np.isfinite(points).all(-1) & (points[:, 2] > 0)
        points = np.where(present[:, None], points, np.float32(0))
        points[:, 2] = np.minimum(points[:, 2], 1)
        object.__setattr__(self, "points", points)

    def to(self, convention: str) -> "Keypoints2D":
        """Return these points in another convention; points it lacks get confidence 0."""
        points, _ = convert_keypoints(self.points, self.convention, convention)
        return Keypoints2D(convention, points)


def convert_keypoints(points: np.ndarray, src: str, dst: str) -> tuple[np.ndarray, np.ndarray]:
    """Reorder points from one convention to another by name.

    Where the source names a point twice (a wrist of the body and the root of a hand), the more
    confident one is taken.

    Args:
        points: (..., K_src, C), the last channel is the confidence.
        src: Convention of the points, a key of CONVENTIONS.
        dst: Convention wanted.

    Returns:
        (..., K_dst, C) points, zero where the source has no such point, and the mask (K_dst,) of
        the names that the source has.

    Raises:
        ValueError: If a convention is unknown or K_src is not its size.
    """
    for name in (src, dst):
        if name not in CONVENTIONS:
            raise ValueError(f"unknown keypoint convention {name!r}; known: {sorted(CONVENTIONS)}")
    points = np.asarray(points)
    if points.ndim < 2 or points.shape[-2] != len(CONVENTIONS[src]):
        raise ValueError(
            f"{src} keypoints must be (..., {len(CONVENTIONS[src])}, C), got {points.shape}"
        )
    where: dict[str, list[int]] = {}
    for index, name in enumerate(CONVENTIONS[src]):
        where.setdefault(name, []).append(index)

    out = np.zeros((*points.shape[:-2], len(CONVENTIONS[dst]), points.shape[-1]), points.dtype)
    mask = np.zeros(len(CONVENTIONS[dst]), bool)
    for index, name in enumerate(CONVENTIONS[dst]):
        if name not in where:
            continue
        mask[index] = True
        candidates = points[..., where[name], :]
        best = np.argmax(candidates[..., -1], axis=-1)[..., None, None]
        out[..., index, :] = np.take_along_axis(candidates, best, axis=-2)[..., 0, :]
    return out, mask


def flip_order(convention: str) -> np.ndarray:
    """Return the (K,) permutation that names the mirrored person's points; an involution.

    A point without a mirror image in the convention stays where it is.
    """
    names = CONVENTIONS[convention]
    first: dict[str, int] = {}
    second: dict[str, int] = {}
    for index, name in enumerate(names):
        (second if name in first else first)[name] = index
    order = np.arange(len(names))
    for index, name in enumerate(names):
        table = second if second.get(name) == index else first
        order[index] = table.get(mirror_name(name), index)
    return order
