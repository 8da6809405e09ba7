"""What the SMPL family's members are made of: names, parents, sizes. Torch-free.

The orders are facts of the published file formats (SMPL-X: 55 joints, 144 keypoints).
Left and right are the person's own.
"""

from dataclasses import dataclass
from typing import Literal

Family = Literal["smplx", "smplh", "smpl", "mano", "flame"]
Gender = Literal["neutral", "female", "male"]

_FINGERS = ("index", "middle", "pinky", "ring", "thumb")  # the order of MANO and SMPL-X joints
_TIPS = ("thumb", "index", "middle", "ring", "pinky")  # the order of the finger tip vertices

BODY_JOINTS: tuple[str, ...] = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2",
    "left_ankle", "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar",
    "right_collar", "head", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist",
)  # fmt: skip
"""The 22 joints that SMPL, SMPL-H and SMPL-X share; pelvis is the root."""


def _hand(side: str) -> tuple[str, ...]:
    return tuple(f"{side}_{finger}{k}" for finger in _FINGERS for k in (1, 2, 3))


LEFT_HAND_JOINTS = _hand("left")
RIGHT_HAND_JOINTS = _hand("right")
FACE_JOINTS = ("jaw", "left_eye_smplhf", "right_eye_smplhf")

SMPLX_JOINTS = BODY_JOINTS + FACE_JOINTS + LEFT_HAND_JOINTS + RIGHT_HAND_JOINTS
SMPLH_JOINTS = BODY_JOINTS + LEFT_HAND_JOINTS + RIGHT_HAND_JOINTS
SMPL_JOINTS = (*BODY_JOINTS, "left_hand", "right_hand")
MANO_JOINTS = ("wrist", *(f"{finger}{k}" for finger in _FINGERS for k in (1, 2, 3)))
FLAME_JOINTS = ("root", "neck", "jaw", "left_eye_smplhf", "right_eye_smplhf")

_BODY_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)


def _hand_parents(wrist: int, first: int) -> tuple[int, ...]:
    return tuple(
        wrist if k == 0 else first + 3 * finger + k - 1 for finger in range(5) for k in range(3)
    )


SMPLX_PARENTS = (*_BODY_PARENTS, 15, 15, 15, *_hand_parents(20, 25), *_hand_parents(21, 40))
SMPLH_PARENTS = _BODY_PARENTS + _hand_parents(20, 22) + _hand_parents(21, 37)
SMPL_PARENTS = (*_BODY_PARENTS, 20, 21)
MANO_PARENTS = (-1, *_hand_parents(0, 1))
FLAME_PARENTS = (-1, 0, 1, 1, 1)

# --- the 89 SMPL-X keypoints that are not joints -------------------------------------------

VERTEX_KEYPOINTS: tuple[str, ...] = (
    "nose", "right_eye", "left_eye", "right_ear", "left_ear",
    "left_big_toe", "left_small_toe", "left_heel",
    "right_big_toe", "right_small_toe", "right_heel",
    *(f"left_{finger}" for finger in _TIPS), *(f"right_{finger}" for finger in _TIPS),
)  # fmt: skip
"""Single vertices, keypoints 55..75 of SMPL-X; a finger's bare name is its tip."""

SMPLX_VERTEX_IDS: tuple[int, ...] = (
    9120, 9929, 9448, 616, 6, 5770, 5780, 8846, 8463, 8474, 8635,
    5361, 4933, 5058, 5169, 5286, 8079, 7669, 7794, 7905, 8022,
)  # fmt: skip
"""The vertex of each of VERTEX_KEYPOINTS in SMPL-X's topology."""

SMPLH_VERTEX_IDS: tuple[int, ...] = (
    332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787,
    2746, 2319, 2445, 2556, 2673, 6191, 5782, 5905, 6016, 6133,
)  # fmt: skip
"""The vertex of each of VERTEX_KEYPOINTS in the topology of SMPL and SMPL-H."""

FACE_LANDMARKS: tuple[str, ...] = (
    *(f"right_eye_brow{k}" for k in (1, 2, 3, 4, 5)),
    *(f"left_eye_brow{k}" for k in (5, 4, 3, 2, 1)),
    "nose1", "nose2", "nose3", "nose4",
    "right_nose_2", "right_nose_1", "nose_middle", "left_nose_1", "left_nose_2",
    *(f"right_eye{k}" for k in (1, 2, 3, 4, 5, 6)),
    *(f"left_eye{k}" for k in (4, 3, 2, 1, 6, 5)),
    "right_mouth_1", "right_mouth_2", "right_mouth_3", "mouth_top",
    "left_mouth_3", "left_mouth_2", "left_mouth_1",
    "left_mouth_5", "left_mouth_4", "mouth_bottom", "right_mouth_4", "right_mouth_5",
    "right_lip_1", "right_lip_2", "lip_top", "left_lip_2", "left_lip_1",
    "left_lip_3", "lip_bottom", "right_lip_3",
)  # fmt: skip
"""iBUG-68 points 17..67, in that order: brows, nose, eyes, outer lip, inner lip."""

FACE_CONTOUR: tuple[str, ...] = (
    *(f"right_contour_{k}" for k in range(1, 9)),
    "contour_middle",
    *(f"left_contour_{k}" for k in range(8, 0, -1)),
)
"""iBUG-68 points 0..16: the jaw line, from the person's right to left; depends on the view."""

SMPLX_KEYPOINTS = SMPLX_JOINTS + VERTEX_KEYPOINTS + FACE_LANDMARKS + FACE_CONTOUR
"""The 144 points that ``smplx`` returns with ``use_face_contour=True``, in its order."""


@dataclass(frozen=True)
class FamilySpec:
    """Sizes and orders of one family of body models.

    Attributes:
        num_vertices: Vertices of the template; None where files differ.
        joints: Joint names, in the order of the files' kinematic tree.
        parents: Parent of each joint, -1 for the root; parents come before children.
        vertex_ids: Vertex ids of VERTEX_KEYPOINTS, empty where the family has none.
    """

    num_vertices: int
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    vertex_ids: tuple[int, ...] = ()


FAMILIES: dict[Family, FamilySpec] = {
    "smplx": FamilySpec(10475, SMPLX_JOINTS, SMPLX_PARENTS, SMPLX_VERTEX_IDS),
    "smplh": FamilySpec(6890, SMPLH_JOINTS, SMPLH_PARENTS, SMPLH_VERTEX_IDS),
    "smpl": FamilySpec(6890, SMPL_JOINTS, SMPL_PARENTS, SMPLH_VERTEX_IDS),
    "mano": FamilySpec(778, MANO_JOINTS, MANO_PARENTS),
    "flame": FamilySpec(5023, FLAME_JOINTS, FLAME_PARENTS),
}

# --- the parts that residuals, decisions and losses are reported by -------------------------

Part = Literal["body", "left_hand", "right_hand", "face"]
PARTS: tuple[Part, ...] = ("body", "left_hand", "right_hand", "face")

_LEFT_HAND = frozenset((*LEFT_HAND_JOINTS, *(f"left_{finger}" for finger in _TIPS)))
_RIGHT_HAND = frozenset((*RIGHT_HAND_JOINTS, *(f"right_{finger}" for finger in _TIPS)))
_FACE = frozenset((*FACE_JOINTS, *FACE_LANDMARKS, *FACE_CONTOUR))


def keypoint_part(name: str) -> Part:
    """Return the part that a keypoint belongs to; the wrists, eyes, ears and nose are body."""
    if name in _LEFT_HAND:
        return "left_hand"
    if name in _RIGHT_HAND:
        return "right_hand"
    return "face" if name in _FACE else "body"


def mirror_name(name: str) -> str:
    """Return the name of the point on the other side of the body; midline names are their own."""
    for side, other in (("left", "right"), ("right", "left")):
        if name.startswith(f"{side}_"):
            return other + name[len(side) :]
    return name
