import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodymodel.keypoints import (
    CONVENTIONS,
    FIT_KEYPOINTS,
    LOOSE_POINTS,
    Keypoints2D,
    convert_keypoints,
    flip_order,
)
from bodymodel.spec import FACE_CONTOUR, FACE_LANDMARKS, SMPLX_KEYPOINTS, mirror_name

ALL = sorted(CONVENTIONS)

# The places of the fitting code's OpenPose points in the 144, a published list.
OPENPOSE_BODY = [55, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, *range(56, 66)]
OPENPOSE_LEFT = [20, 37, 38, 39, 66, 25, 26, 27, 67, 28, 29, 30, 68, 34, 35, 36, 69, 31, 32, 33, 70]
OPENPOSE_RIGHT = [
    21,
    52,
    53,
    54,
    71,
    40,
    41,
    42,
    72,
    43,
    44,
    45,
    73,
    49,
    50,
    51,
    74,
    46,
    47,
    48,
    75,
]
WHOLEBODY = [55, 57, 56, 59, 58, 16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8, 60, 61, 62, 63, 64, 65]
FACE68 = [*range(127, 144), *range(76, 127)]


def places(convention):
    return [SMPLX_KEYPOINTS.index(n) for n in CONVENTIONS[convention] if n in SMPLX_KEYPOINTS]


def random_points(convention, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.1, 1, size=(len(CONVENTIONS[convention]), 3))
    return points.astype(np.float32)


def test_sizes_are_in_the_names():
    expected = {
        "fit": 145, "smplx144": 144, "openpose_body25": 25, "openpose_coco18": 18,
        "openpose_hand21_left": 21, "openpose_hand21_right": 21, "openpose_face70": 70,
        "openpose137": 137, "coco17": 17, "coco_wholebody133": 133, "mediapipe_pose33": 33,
        "mediapipe_holistic543": 543, "lsp14": 14, "smplx_lsp14": 14,
        "mpii16": 16,
    }  # fmt: skip
    assert {name: len(points) for name, points in CONVENTIONS.items()} == expected


def test_orders_are_the_published_ones():
    assert places("openpose_body25") == OPENPOSE_BODY
    assert places("openpose_hand21_left") == OPENPOSE_LEFT
    assert places("openpose_hand21_right") == OPENPOSE_RIGHT
    assert places("openpose_face70") == FACE68
    assert places("openpose137") == OPENPOSE_BODY + OPENPOSE_LEFT + OPENPOSE_RIGHT + FACE68
    assert places("coco_wholebody133") == WHOLEBODY + FACE68 + OPENPOSE_LEFT + OPENPOSE_RIGHT
    assert places("coco17") == WHOLEBODY[:17]
    # LSP: right leg up, left leg down, right arm in, left arm out.
    assert places("lsp14") == [8, 5, 2, 1, 4, 7, 21, 19, 17, 16, 18, 20, 12]
    assert CONVENTIONS["lsp14"][13] == CONVENTIONS["mpii16"][9] == "head_top"
    assert places("mpii16") == [8, 5, 2, 1, 4, 7, 0, 12, 21, 19, 17, 16, 18, 20]


def test_mediapipe_against_its_own_enumerations():
    vision = pytest.importorskip("mediapipe.python.solutions.pose")
    hands = pytest.importorskip("mediapipe.python.solutions.hands")
    mine = CONVENTIONS["mediapipe_pose33"]
    renamed = {"foot_index": "big_toe", "thumb": "thumb_knuckle", "index": "index_knuckle",
               "pinky": "pinky_knuckle"}  # fmt: skip
    for landmark in vision.PoseLandmark:
        name = landmark.name.lower()
        side, _, rest = name.partition("_")
        if name in ("mouth_left", "mouth_right"):
            name = f"{rest}_mouth_corner"
        elif rest in renamed:
            name = f"{side}_{renamed[rest]}"
        assert mine[landmark.value] == name
    joints = {"CMC": "1", "MCP": "2", "IP": "3", "TIP": ""}
    others = {"MCP": "1", "PIP": "2", "DIP": "3", "TIP": ""}
    for landmark in hands.HandLandmark:
        if landmark.name == "WRIST":
            continue
        finger, _, joint = landmark.name.rpartition("_")
        finger = finger.lower().removesuffix("_finger")
        number = (joints if finger == "thumb" else others)[joint]
        assert CONVENTIONS["openpose_hand21_left"][landmark.value] == f"left_{finger}{number}"


def test_mediapipe_face_points_lie_on_mediapipes_own_contours():
    mesh = pytest.importorskip("mediapipe.python.solutions.face_mesh_connections")
    at = {n: i for i, n in enumerate(CONVENTIONS["mediapipe_holistic543"])}

    def vertices(names):
        return {at[n] - 33 - 42 for n in names}

    def ends(edges):
        return {v for edge in edges for v in edge}

    assert vertices(FACE_CONTOUR) <= ends(mesh.FACEMESH_FACE_OVAL)
    # The brows' outer ends, 71 and 301, lie beside MediaPipe's brow line.
    assert vertices(FACE_LANDMARKS[1:5]) <= ends(mesh.FACEMESH_RIGHT_EYEBROW)
    assert vertices(FACE_LANDMARKS[5:9]) <= ends(mesh.FACEMESH_LEFT_EYEBROW)
    assert vertices(FACE_LANDMARKS[19:25]) <= ends(mesh.FACEMESH_RIGHT_EYE)
    assert vertices(FACE_LANDMARKS[25:31]) <= ends(mesh.FACEMESH_LEFT_EYE)
    assert vertices(FACE_LANDMARKS[31:]) <= ends(mesh.FACEMESH_LIPS)


@pytest.mark.parametrize("convention", ALL)
def test_flips_are_involutions_that_mirror_names(convention):
    order = flip_order(convention)
    names = CONVENTIONS[convention]
    np.testing.assert_array_equal(order[order], np.arange(len(names)))
    for index, name in enumerate(names):
        mirrored = names[order[index]]
        assert mirrored == mirror_name(name) or (
            mirrored == name and mirror_name(name) not in names
        )


@pytest.mark.parametrize("convention", [c for c in ALL if "hand21" not in c])
def test_every_convention_has_a_left_for_each_right(convention):
    names = set(CONVENTIONS[convention])
    assert {mirror_name(n) for n in names} == names


def test_a_flipped_hand_of_the_whole_is_the_other_hand():
    """The wrists stand in the body and in the hands; each goes to its own kind."""
    order = flip_order("openpose137")
    assert order[4] == 7
    assert order[25:46].tolist() == list(range(46, 67))


@pytest.mark.parametrize("convention", ALL)
def test_into_the_fits_points_and_back(convention):
    """Nothing that the fit's points know is lost or moved."""
    points = random_points(convention)
    inside, mask = convert_keypoints(points, convention, "fit")
    assert mask.tolist() == [n in CONVENTIONS[convention] for n in FIT_KEYPOINTS]
    assert (inside[~mask] == 0).all()
    back, known = convert_keypoints(inside, "fit", convention)
    names = CONVENTIONS[convention]
    assert known.tolist() == [n in FIT_KEYPOINTS for n in names]
    for index, name in enumerate(names):
        same = [i for i, other in enumerate(names) if other == name]
        best = max(same, key=lambda i: points[i, 2])
        expected = points[best] if known[index] else np.zeros(3)
        np.testing.assert_array_equal(back[index], expected)


@settings(max_examples=60)
@given(st.sampled_from(ALL), st.sampled_from(ALL), st.integers(0, 1000))
def test_flipping_commutes_with_converting(src, dst, seed):
    points = random_points(src, seed)
    if {mirror_name(n) for n in CONVENTIONS[src]} != set(CONVENTIONS[src]):
        return
    if {mirror_name(n) for n in CONVENTIONS[dst]} != set(CONVENTIONS[dst]):
        return
    first, _ = convert_keypoints(points[flip_order(src)], src, dst)
    second = convert_keypoints(points, src, dst)[0][flip_order(dst)]
    np.testing.assert_array_equal(first, second)


def test_of_two_points_of_one_name_the_surer_is_taken():
    points = np.zeros((137, 3), np.float32)
    points[7], points[25] = (1, 1, 0.3), (2, 2, 0.8)  # left wrist of the body and of the hand
    wrist = FIT_KEYPOINTS.index("left_wrist")
    assert convert_keypoints(points, "openpose137", "fit")[0][wrist].tolist()[0] == 2
    points[7, 2] = 0.9
    assert convert_keypoints(points, "openpose137", "fit")[0][wrist].tolist()[0] == 1


def test_leading_dimensions_and_channels_are_kept():
    out, mask = convert_keypoints(np.zeros((5, 2, 17, 4)), "coco17", "fit")
    assert out.shape == (5, 2, 145, 4)
    assert mask.sum() == 17


def test_conversion_errors():
    with pytest.raises(ValueError, match="unknown keypoint convention 'coco'"):
        convert_keypoints(np.zeros((17, 3)), "coco", "fit")
    with pytest.raises(ValueError, match=r"coco17 keypoints must be \(\.\.\., 17, C\)"):
        convert_keypoints(np.zeros((18, 3)), "coco17", "fit")


def test_loose_points_are_points_of_the_fit():
    assert set(FIT_KEYPOINTS) >= LOOSE_POINTS
    assert {mirror_name(n) for n in LOOSE_POINTS} == LOOSE_POINTS


@given(
    hnp.arrays(
        np.float64,
        (17, 3),
        elements=st.floats(allow_nan=True, allow_infinity=True, width=32),
    )
)
def test_keypoints_are_clean_whatever_comes_in(points):
    kept = Keypoints2D("coco17", points).points
    assert kept.dtype == np.float32
    assert np.isfinite(kept).all()
    assert ((kept[:, 2] >= 0) & (kept[:, 2] <= 1)).all()
    assert (kept[kept[:, 2] == 0] == 0).all()
    sound = np.isfinite(points).all(1) & (points[:, 2] > 0)
    np.testing.assert_array_equal(kept[sound, :2], points[sound, :2].astype(np.float32))


def test_keypoints_convert_themselves():
    kept = Keypoints2D("coco17", random_points("coco17")).to("fit")
    assert kept.convention == "fit"
    assert (kept.points[:, 2] > 0).sum() == 17
    with pytest.raises(ValueError, match="openpose_body25 keypoints must be"):
        Keypoints2D("openpose_body25", np.zeros((18, 3)))
    with pytest.raises(ValueError, match="unknown keypoint convention"):
        Keypoints2D("nonsense", np.zeros((18, 3)))
