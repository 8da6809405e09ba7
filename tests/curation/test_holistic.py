import types

import numpy as np
import pytest

from bodymodel.keypoints import CONVENTIONS
from curation.holistic import (
    FACE_CONFIDENCE,
    HAND_CONFIDENCE,
    LEAST_SHARE,
    detection_from_results,
)
from curation.proposals import body_boxes_of_face, enlarged, is_head_of

SIZE = (400, 200)  # height, width of the crop
POSE = CONVENTIONS["mediapipe_pose33"]
NAMES = CONVENTIONS["mediapipe_holistic543"]
JOINTS = {
    "nose": (100, 50), "left_eye": (105, 45), "right_eye": (95, 45),
    "left_shoulder": (130, 90), "right_shoulder": (70, 90),
    "left_hip": (120, 200), "right_hip": (80, 200),
    "left_wrist": (150, 200), "right_wrist": (50, 200),
}  # fmt: skip


def landmarks(points, visibility=None):
    points = np.asarray(points, float) / (SIZE[1], SIZE[0])
    made = [
        types.SimpleNamespace(x=x, y=y, z=0.25, visibility=0.0 if visibility is None else v)
        for (x, y), v in zip(points, visibility or [0] * len(points), strict=True)
    ]
    return types.SimpleNamespace(landmark=made)


def results(left=None, right=None, face=None, visibility=0.8, **moved):
    joints = JOINTS | moved
    pose = [joints.get(name, (100, 300)) for name in POSE]
    visibilities = visibility if isinstance(visibility, list) else [visibility] * 33
    return types.SimpleNamespace(
        pose_landmarks=landmarks(pose, visibilities),
        pose_world_landmarks=landmarks(np.ones((33, 2))),
        left_hand_landmarks=None if left is None else landmarks(left),
        right_hand_landmarks=None if right is None else landmarks(right),
        face_landmarks=None if face is None else landmarks(face),
    )


def hand(wrist, palm=20.0):
    """21 points, fingers down, the knuckle of the middle finger one palm below the wrist."""
    points = np.tile(np.asarray(wrist, float), (21, 1))
    points[1:, 1] += np.linspace(0.5, 1.5, 20) * palm
    points[9, 1] = wrist[1] + palm
    return points


def face(nose, count=468):
    points = np.tile(np.asarray(nose, float), (count, 1))
    points[:, 0] += np.linspace(-15, 15, count)
    points[4] = nose
    return points


def parts(detection):
    points = detection.keypoints.points
    return points[:33], points[33:54], points[54:75], points[75:]


def test_points_go_to_the_full_image_under_their_names():
    left, right = hand((150, 200)), hand((50, 200))
    found = detection_from_results(results(left, right, face((100, 50))), SIZE, (1000, 500))
    pose, left_hand, right_hand, mesh = parts(found)
    points = dict(zip(POSE, pose, strict=True))
    for name, (x, y) in JOINTS.items():
        assert points[name][:2] == pytest.approx((x + 1000, y + 500), abs=1e-3), name
    assert points["nose"][2] == pytest.approx(0.8)
    assert left_hand[:, :2] == pytest.approx(left + np.array([1000, 500]), abs=1e-3)
    assert right_hand[:, :2] == pytest.approx(right + np.array([1000, 500]), abs=1e-3)
    assert NAMES[33:54] == CONVENTIONS["openpose_hand21_left"]
    assert mesh[4, :2] == pytest.approx((1100, 550), abs=1e-3) and len(mesh) == 468
    assert found.world.shape == (33, 3) and (found.world[:, 2] == 0.25).all()


def test_the_hands_and_the_face_are_believed_by_their_root():
    found = detection_from_results(results(hand((150, 200)), None, face((100, 50))), SIZE)
    _, left, right, mesh = parts(found)
    assert left[:, 2] == pytest.approx(HAND_CONFIDENCE * 0.8)
    assert not right.any()
    assert mesh[:, 2] == pytest.approx(FACE_CONFIDENCE * 0.8)
    faint = detection_from_results(results(hand((150, 200)), visibility=0.01), SIZE)
    assert parts(faint)[1][:, 2] == pytest.approx(HAND_CONFIDENCE * LEAST_SHARE)


def test_a_hand_of_a_few_pixels_is_believed_less():
    small = detection_from_results(results(hand((150, 200), palm=8.0)), SIZE)
    assert parts(small)[1][:, 2] == pytest.approx(HAND_CONFIDENCE * 0.8 * 8 / 16)


@pytest.mark.parametrize(
    "wrong",
    [hand((150, 150)), hand((150, 200), palm=1.0), hand((150, 200), palm=90.0)],
    ids=["far from the wrist", "a dot", "as long as the trunk"],
)
def test_a_hand_that_contradicts_the_pose_is_dropped(wrong):
    found = detection_from_results(results(wrong, hand((50, 200))), SIZE)
    _, left, right, _ = parts(found)
    assert not left.any() and (right[:, 2] > 0).all()


def test_of_two_hands_in_one_place_the_nearer_to_its_wrist_stays():
    together = {"left_wrist": (100, 200), "right_wrist": (110, 200)}
    found = detection_from_results(results(hand((101, 200)), hand((103, 200)), **together), SIZE)
    _, left, right, _ = parts(found)
    assert (left[:, 2] > 0).all() and not right.any()
    apart = detection_from_results(
        results(hand((100, 200), 20), hand((120, 200), 20), **together), SIZE
    )
    assert all((part[:, 2] > 0).all() for part in parts(apart)[1:3])


def test_a_face_far_from_the_nose_is_dropped():
    assert not parts(detection_from_results(results(face=face((100, 120))), SIZE))[3].any()


def test_the_mesh_with_irises_has_ten_points_more():
    found = detection_from_results(results(face=face((100, 50), 478)), SIZE)
    assert len(found.keypoints.points) == 543


def test_points_outside_the_crop_were_not_seen():
    found = detection_from_results(results(left_knee=(-5, 300), right_knee=(100, 401)), SIZE)
    points = dict(zip(POSE, parts(found)[0], strict=True))
    assert not points["left_knee"].any() and not points["right_knee"].any()
    assert points["left_ankle"][2] > 0


def test_nobody():
    assert detection_from_results(types.SimpleNamespace(pose_landmarks=None), SIZE) is None


def test_a_face_lies_on_the_head_it_belongs_to():
    person = detection_from_results(results(), SIZE)
    # MediaPipe's face box is about as wide as the ears; these points' mean is the head's middle.
    middle = person.keypoints.points[:11, :2].mean(0)
    box = np.array([*(middle - 15), *(middle + 15), 0.9])
    assert is_head_of(box, person)
    assert not is_head_of(box + np.array([40, 0, 40, 0, 0]), person)


def test_bodies_hang_below_faces():
    usual, wide = body_boxes_of_face(np.array([90, 40, 110, 60, 0.9]))
    assert (wide[:2] < usual[:2]).all() and (wide[2:] > usual[2:]).all()
    for box in (usual, wide):
        assert (box[0] + box[2]) / 2 == 100
        assert box[3] - 50 > 3 * (50 - box[1]) - 1
    assert enlarged(np.array([0, 0, 10, 20]), 1.5).tolist() == [-5, -5, 15, 25]
