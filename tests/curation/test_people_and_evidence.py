import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS, Keypoints2D, convert_keypoints
from bodymodel.spec import keypoint_part, mirror_name
from curation.evidence import (
    HIPS_ALONE,
    LEG_SEEN,
    add_detection,
    from_detection,
    from_labels,
    is_complete,
)
from curation.holistic import CONVENTION, Detection
from curation.people import LIMBS, as_fit, body_gap, keypoint_box, known_names
from curation.samples import KeypointSource, LabelledPerson

INDEX = {name: i for i, name in enumerate(FIT_KEYPOINTS)}
BODY = {  # a person of 100 x 180 pixels, facing the camera: their left is on the right
    "head_top": (50, 0), "nose": (50, 15), "neck": (50, 32),
    "left_eye": (54, 11), "right_eye": (46, 11), "left_ear": (58, 13), "right_ear": (42, 13),
    "left_shoulder": (70, 35), "right_shoulder": (30, 35),
    "left_elbow": (85, 60), "right_elbow": (15, 60),
    "left_wrist": (100, 85), "right_wrist": (0, 85),
    "left_hip": (62, 95), "right_hip": (38, 95),
    "left_knee": (64, 137), "right_knee": (36, 137),
    "left_ankle": (65, 180), "right_ankle": (35, 180),
    "left_heel": (66, 184), "right_heel": (34, 184),
    "left_big_toe": (70, 190), "right_big_toe": (30, 190),
}  # fmt: skip


def place(name):
    """Where a point of any convention lies on this person."""
    if name in BODY:
        return BODY[name]
    part = keypoint_part(name)
    if part in ("left_hand", "right_hand"):
        x, y = BODY[f"{part.removesuffix('_hand')}_wrist"]
        return x + 3, y + 8
    return (50, 18) if part == "face" or "face" in name else (50, 60)


def points_in(convention, offset=(0, 0), confidence=0.9, swap=False):
    points = np.zeros((len(CONVENTIONS[convention]), 3), np.float32)
    for i, name in enumerate(CONVENTIONS[convention]):
        points[i] = (*place(mirror_name(name) if swap else name), confidence)
    points[:, :2] += offset
    return points


def labels(convention="lsp14", points=None, source=KeypointSource.ANNOTATION):
    points = points_in(convention) if points is None else points
    return from_labels(LabelledPerson(0, None, ((source, Keypoints2D(convention, points)),)))


def detection(points=None):
    points = points_in(CONVENTION) if points is None else points
    return Detection(Keypoints2D(CONVENTION, points), np.zeros((33, 3), np.float32))


def sources(evidence, names):
    return {KeypointSource(evidence.source[INDEX[name]]) for name in names}


def test_the_limbs_are_twelve_pairs_of_sides():
    names = [FIT_KEYPOINTS[i] for i in LIMBS]
    assert len(set(names)) == 12
    assert all(names[i + 1] == mirror_name(names[i]) for i in range(0, 12, 2))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_fast_way_to_fit_points_is_the_slow_one(convention):
    rng = np.random.default_rng(1)
    for _ in range(20):
        points = rng.random((len(CONVENTIONS[convention]), 3)).astype(np.float32)
        points[:, 2] = np.maximum(points[:, 2] - 0.5, 0)
        expected, mask = convert_keypoints(points, convention, "fit")
        assert np.array_equal(as_fit(points, convention), expected)
        assert np.array_equal(known_names(convention), mask)


def test_body_gap_is_in_person_sizes():
    person = points_in("fit")
    knees = [INDEX["left_knee"], INDEX["right_knee"]]
    moved = person.copy()
    moved[:, 0] += 38  # 0.2 of 190 pixels
    assert body_gap(person, person) == 0
    assert body_gap(person, moved) == pytest.approx(0.2, abs=1e-3)
    moved = person.copy()
    moved[knees, :2] += 500  # a limb that is wrong does not make another person
    assert body_gap(person, moved) == 0


@given(scale=st.floats(0.05, 50), x=st.floats(-500, 500), y=st.floats(-500, 500))
def test_body_gap_does_not_depend_on_the_photos_size(scale, x, y):
    person, other = points_in("fit"), points_in("fit", (20, 10))
    here, there = person.copy(), other.copy()
    for points in (here, there):
        points[:, :2] = points[:, :2] * np.float32(scale) + np.float32([x, y])
    assert body_gap(here, there) == pytest.approx(body_gap(person, other), abs=1e-3)


def test_body_gap_forgives_confused_sides():
    person, confused = points_in("fit"), points_in("fit", swap=True)
    assert body_gap(person, confused) == 0


def test_body_gap_is_unknown_without_three_common_limbs():
    one, other = points_in("lsp14"), points_in("lsp14")
    one, other = (Keypoints2D("lsp14", p).to("fit").points for p in (one, other))
    other[LIMBS[2:], 2] = 0
    assert np.isnan(body_gap(one, other))
    assert np.isnan(body_gap(np.zeros((145, 3)), one))


def test_the_box_of_what_is_present():
    points = np.array([[1, 2, 0.5], [5, 9, 0.1], [100, 100, 0]])
    assert keypoint_box(points).tolist() == [1, 2, 5, 9]
    assert np.isnan(keypoint_box(points[2:])).all()


def test_of_two_sources_the_first_that_has_the_name_gives_the_point():
    first = points_in("coco17", confidence=0.5)
    first[0, 2] = 0
    person = LabelledPerson(
        0,
        None,
        (
            (KeypointSource.ANNOTATION, Keypoints2D("coco17", first)),
            (
                KeypointSource.WHOLEBODY,
                Keypoints2D("coco_wholebody133", points_in("coco_wholebody133")),
            ),
        ),
    )
    evidence = from_labels(person)
    assert sources(evidence, ["left_wrist", "left_ear"]) == {KeypointSource.ANNOTATION}
    assert sources(evidence, ["left_index1", "mouth_top"]) == {KeypointSource.WHOLEBODY}
    assert sources(evidence, ["nose"]) == {KeypointSource.NONE}  # looked for and not seen
    assert evidence.points[INDEX["left_wrist"], 2] == 0.5
    only = from_labels(person, frozenset((KeypointSource.WHOLEBODY,)))
    assert sources(only, ["left_wrist", "nose"]) == {KeypointSource.WHOLEBODY}
    assert from_labels(person, frozenset((KeypointSource.OPENPOSE,))).is_empty
    assert ((evidence.source == 0) == (evidence.points[:, 2] == 0)).all()


def test_within_one_source_it_is_enough_that_the_other_set_saw_the_point():
    body, hand = points_in("openpose_body25"), points_in("openpose_hand21_left", confidence=0.4)
    body[CONVENTIONS["openpose_body25"].index("left_wrist")] = 0
    sets = (("openpose_body25", body), ("openpose_hand21_left", hand))
    person = LabelledPerson(
        0, None, tuple((KeypointSource.OPENPOSE, Keypoints2D(c, p)) for c, p in sets)
    )
    assert from_labels(person).points[INDEX["left_wrist"], 2] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("convention", "complete"),
    [("lsp14", False), ("mpii16", False), ("coco17", False), ("openpose_body25", False),
     ("openpose137", True), ("coco_wholebody133", True)],
)  # fmt: skip
def test_complete_labels_are_those_with_hands_and_face_even_if_unseen(convention, complete):
    nothing = np.zeros((len(CONVENTIONS[convention]), 3))
    assert is_complete(labels(convention)) == is_complete(labels(convention, nothing)) == complete


def test_the_detector_adds_what_the_labels_cannot_say():
    both = add_detection(labels(), detection())
    annotated = CONVENTIONS["lsp14"]
    assert sources(both, annotated) == {KeypointSource.ANNOTATION}
    added = [
        "nose",
        "left_ear",
        "left_big_toe",
        "right_heel",
        "left_index1",
        "right_pinky",
        "lip_top",
    ]
    assert sources(both, added) == {KeypointSource.MEDIAPIPE}
    assert ((both.source == 0) == (both.points[:, 2] == 0)).all()


def test_a_joint_that_the_annotator_left_out_stays_out():
    points = points_in("lsp14")
    ankle = CONVENTIONS["lsp14"].index("left_ankle")
    points[ankle] = 0
    both = add_detection(labels(points=points), detection())
    assert sources(both, ["left_ankle"]) == {KeypointSource.NONE}
    assert sources(both, ["left_heel"]) == {KeypointSource.MEDIAPIPE}


def test_another_persons_detection_adds_nothing():
    alone = labels()
    both = add_detection(alone, detection(points_in(CONVENTION, (120, 0))))
    assert np.array_equal(both.points, alone.points)
    assert np.array_equal(both.source, alone.source)


def test_a_hand_on_another_wrist_is_dropped_alone():
    points = points_in(CONVENTION)
    points[33:54, :2] += (-60, 10)
    points[15, :2] += (-60, 10)  # the pose's left wrist went with it
    both = add_detection(labels(), detection(points))
    assert sources(both, ["left_index1", "left_thumb"]) == {KeypointSource.NONE}
    assert sources(both, ["right_index1", "nose", "left_heel"]) == {KeypointSource.MEDIAPIPE}


def test_confused_sides_leave_hands_and_feet_out():
    both = add_detection(labels(), detection(points_in(CONVENTION, swap=True)))
    dropped = ["left_index1", "right_index1", "left_heel", "right_big_toe"]
    assert sources(both, dropped) - {KeypointSource.MEDIAPIPE} == {KeypointSource.NONE}
    assert sources(both, ["left_index1", "right_index1"]) == {KeypointSource.NONE}
    assert sources(both, ["nose", "lip_top"]) == {KeypointSource.MEDIAPIPE}


def test_a_face_elsewhere_is_dropped():
    points = points_in(CONVENTION)
    points[:11, :2] += (0, 80)
    points[75:, :2] += (0, 80)
    both = add_detection(labels(), detection(points))
    assert sources(both, ["nose", "lip_top", "left_ear"]) == {KeypointSource.NONE}
    assert sources(both, ["left_index1"]) == {KeypointSource.MEDIAPIPE}


def test_a_detection_alone_is_all_the_detectors():
    evidence = from_detection(detection())
    present = evidence.points[:, 2] > 0
    assert set(evidence.source[present]) == {KeypointSource.MEDIAPIPE}
    empty = labels(points=np.zeros((14, 3)))
    assert np.array_equal(add_detection(empty, detection()).points, evidence.points)


# --- legs that are out of the picture, or behind a table ------------------------------------------


def seen_with(legs, hips=0.98):
    """What is made of a detection whose legs have this confidence."""
    points = points_in(CONVENTION)
    for i, name in enumerate(CONVENTIONS[CONVENTION]):
        if name.endswith(("_knee", "_ankle", "_heel", "_big_toe", "_small_toe", "foot_index")):
            points[i, 2] = legs
        elif name.endswith("_hip"):
            points[i, 2] = hips
    return from_detection(detection(points))


def test_legs_that_the_detector_guesses_do_not_count_and_hips_count_less():
    assert LEG_SEEN < 0.6
    seen, guessed = seen_with(0.6), seen_with(0.4)
    for side in ("left", "right"):
        for name in ("knee", "ankle", "heel", "big_toe"):
            place = INDEX[f"{side}_{name}"]
            assert seen.points[place, 2] == pytest.approx(0.6)
            assert guessed.points[place, 2] == 0 and guessed.source[place] == KeypointSource.NONE
        hip = INDEX[f"{side}_hip"]
        assert seen.points[hip, 2] == pytest.approx(0.98)
        assert guessed.points[hip, 2] == pytest.approx(0.98 * HIPS_ALONE)
    others = [
        i for n, i in INDEX.items() if not n.endswith(("hip", "knee", "ankle", "heel", "toe"))
    ]
    np.testing.assert_array_equal(seen.points[others], guessed.points[others])


def test_a_knee_and_an_ankle_are_enough_to_believe_in_the_hips():
    hips = [INDEX["left_hip"], INDEX["right_hip"]]
    for hidden, share in (
        (("right_knee", "left_ankle"), 1),
        (("left_ankle", "right_ankle"), HIPS_ALONE),
        (("left_knee", "right_knee"), HIPS_ALONE),
    ):
        points = points_in(CONVENTION)
        for name in hidden:
            points[CONVENTIONS[CONVENTION].index(name), 2] = 0.1
        seen = from_detection(detection(points))
        assert not seen.points[[INDEX[name] for name in hidden], 2].any()
        np.testing.assert_allclose(seen.points[hips, 2], 0.9 * share, rtol=1e-6)


def test_labelled_legs_count_whatever_their_confidence():
    points = points_in("coco17", confidence=0.2)
    found = labels("coco17", points).points
    assert found[INDEX["left_knee"], 2] == pytest.approx(0.2)
    assert found[INDEX["left_hip"], 2] == pytest.approx(0.2)
