import subprocess
import sys

import pytest

from bodymodel.spec import (
    BODY_JOINTS,
    FACE_CONTOUR,
    FACE_LANDMARKS,
    FAMILIES,
    LEFT_HAND_JOINTS,
    PARTS,
    RIGHT_HAND_JOINTS,
    SMPLX_JOINTS,
    SMPLX_KEYPOINTS,
    VERTEX_KEYPOINTS,
    keypoint_part,
    mirror_name,
)


def test_sizes_are_the_published_ones():
    sizes = {family: len(spec.joints) for family, spec in FAMILIES.items()}
    assert sizes == {"smplx": 55, "smplh": 52, "smpl": 24, "mano": 16, "flame": 5}
    assert len(SMPLX_KEYPOINTS) == 144
    assert (len(VERTEX_KEYPOINTS), len(FACE_LANDMARKS), len(FACE_CONTOUR)) == (21, 51, 17)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_trees_are_trees(family):
    spec = FAMILIES[family]
    assert len(spec.parents) == len(spec.joints)
    assert spec.parents[0] == -1
    assert all(0 <= parent < joint for joint, parent in enumerate(spec.parents) if joint)
    assert len(set(spec.joints)) == len(spec.joints)
    assert len(spec.vertex_ids) in (0, len(VERTEX_KEYPOINTS))
    assert len(set(spec.vertex_ids)) == len(spec.vertex_ids)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_trees_are_symmetric(family):
    """The mirror image of a joint hangs on the mirror image of its parent."""
    spec = FAMILIES[family]
    for joint, parent in enumerate(spec.parents[1:], start=1):
        mirror = spec.joints.index(mirror_name(spec.joints[joint]))
        assert spec.parents[mirror] == spec.joints.index(mirror_name(spec.joints[parent]))


def test_shared_joints_hang_on_the_same_parent_in_every_family():
    def parent_of(family, name):
        spec = FAMILIES[family]
        return spec.joints[spec.parents[spec.joints.index(name)]]

    for name in BODY_JOINTS[1:]:
        assert parent_of("smplx", name) == parent_of("smplh", name) == parent_of("smpl", name)
    for name in LEFT_HAND_JOINTS + RIGHT_HAND_JOINTS:
        assert parent_of("smplx", name) == parent_of("smplh", name)


def test_fingers_are_chains_from_the_wrist():
    spec = FAMILIES["smplx"]
    for finger in ("index", "middle", "pinky", "ring", "thumb"):
        chain = [spec.joints.index(f"left_{finger}{k}") for k in (1, 2, 3)]
        assert spec.joints[spec.parents[chain[0]]] == "left_wrist"
        assert [spec.parents[j] for j in chain[1:]] == chain[:2]


def test_names_are_unique_and_mirroring_is_an_involution_within_them():
    assert len(set(SMPLX_KEYPOINTS)) == 144
    for name in SMPLX_KEYPOINTS:
        assert mirror_name(name) in SMPLX_KEYPOINTS
        assert mirror_name(mirror_name(name)) == name
    assert mirror_name("left_wrist") == "right_wrist"
    assert mirror_name("pelvis") == "pelvis"


def test_mirroring_the_face_reverses_it_row_by_row():
    """iBUG's points run across the face, so a mirrored face is each row backwards."""
    contour = [mirror_name(n) for n in FACE_CONTOUR]
    assert contour == list(reversed(FACE_CONTOUR))
    brows, bridge, wings = FACE_LANDMARKS[:10], FACE_LANDMARKS[10:14], FACE_LANDMARKS[14:19]
    assert [mirror_name(n) for n in brows] == list(reversed(brows))
    assert [mirror_name(n) for n in bridge] == list(bridge)
    assert [mirror_name(n) for n in wings] == list(reversed(wings))
    # The pairs of iBUG-68 within the eyes, mouth and inner lip, by number.
    pairs = {36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46, 48: 54, 49: 53, 50: 52, 51: 51,
             55: 59, 56: 58, 57: 57, 60: 64, 61: 63, 62: 62, 65: 67, 66: 66}  # fmt: skip
    for a, b in pairs.items():
        assert mirror_name(FACE_LANDMARKS[a - 17]) == FACE_LANDMARKS[b - 17]


def test_parts():
    counts = {part: sum(keypoint_part(n) == part for n in SMPLX_KEYPOINTS) for part in PARTS}
    # 22 joints, nose, eyes, ears and six feet; fingers 15 + 5 tips; jaw and eyeballs on the face.
    assert counts == {"body": 33, "left_hand": 20, "right_hand": 20, "face": 71}
    assert keypoint_part("left_wrist") == "body"
    assert keypoint_part("head_top") == "body"


def test_against_the_published_names():
    names = pytest.importorskip("smplx.joint_names")
    published = list(names.JOINT_NAMES)
    assert published[:55] == list(SMPLX_JOINTS)
    assert published[:144] == list(SMPLX_KEYPOINTS)
    assert list(names.SMPLH_JOINT_NAMES[:52]) == list(FAMILIES["smplh"].joints)


def test_names_load_without_torch():
    code = (
        "import sys, bodymodel.spec, bodymodel.keypoints, bodymodel.body;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_offers_its_public_names_without_loading_torch():
    code = (
        "import sys, bodymodel; from bodymodel import load_body, BodyData, Keypoints2D;"
        "assert 'torch' not in sys.modules; from bodymodel import *; BodyModel; BodyParams"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
