"""Every measure on made data whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bodymodel.keypoints import CONVENTIONS
from regressor.agora_protocol import (
    AgoraParts,
    Person,
    agora_figures,
    match_people,
    person_mm,
)
from regressor.keypoint_ap import Detection, Labelled, keypoint_ap, oks
from regressor.protocols import (
    H36M_TO_J14,
    J14_HIPS,
    PELVIS_ROW,
    Root,
    VertexPart,
    auc,
    f_score,
    face_region,
    joint_errors,
    part_errors,
    pck,
    rigid_alignment,
    scan_to_mesh,
    surface_distances,
)
from tests.spheres import icosphere


def skeleton(seed=0, count=14):
    return np.random.default_rng(seed).normal(0, 0.4, (2, count, 3))


def moved(points, rotvec=(0.3, -1.0, 0.4), scale=1.0, transl=(0.2, 3.0, -1.0)):
    return scale * points @ Rotation.from_rotvec(rotvec).as_matrix().T + np.array(transl)


# --- joints and vertices -----------------------------------------------------------------------


def test_the_tables_are_the_published_ones():
    assert H36M_TO_J14 == (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)
    assert J14_HIPS.indices == (2, 3)


def test_identical_people_have_no_error():
    points = skeleton()
    errors = joint_errors(points, points, J14_HIPS)
    assert errors["mpjpe"].max() == 0
    assert errors["pa_mpjpe"].max() < 1e-9


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(0.2, 5), st.integers(0, 1000))
def test_procrustes_forgets_a_similarity_and_nothing_more(rotvec, scale, seed):
    truth, predicted = skeleton(seed), skeleton(seed + 1)
    plain = joint_errors(predicted, truth, PELVIS_ROW)
    turned = joint_errors(moved(predicted, rotvec, scale), truth, PELVIS_ROW)
    np.testing.assert_allclose(turned["pa_mpjpe"], plain["pa_mpjpe"], rtol=1e-6)
    mirrored = joint_errors(truth * (-1, 1, 1), truth, PELVIS_ROW)
    assert (mirrored["pa_mpjpe"] > 1).all()


def test_alignment_at_a_root_forgets_a_shift_but_no_turn():
    truth = skeleton()
    assert joint_errors(truth + np.array([1, 2, 3]), truth, J14_HIPS)["mpjpe"].max() < 1e-9
    assert joint_errors(moved(truth), truth, J14_HIPS)["mpjpe"].min() > 50


def test_roots_differ_and_joints_can_be_left_out():
    truth = np.zeros((1, 4, 3))
    truth[0, :, 0] = [0, 1, 2, 3]
    predicted = truth.copy()
    predicted[0, 0, 1] += 0.1  # only joint 0 is 100 mm off
    assert joint_errors(predicted, truth, Root("0", (0,)))["mpjpe"][0] == pytest.approx(75)
    assert joint_errors(predicted, truth, Root("1", (1,)))["mpjpe"][0] == pytest.approx(25)
    assert joint_errors(predicted, truth, Root("01", (0, 1)))["mpjpe"][0] == pytest.approx(50)
    kept = joint_errors(predicted, truth, Root("0", (0,)), measured=(1, 2, 3))
    assert kept["mpjpe"][0] == pytest.approx(100)


def test_a_hand_that_is_turned_at_the_wrist_is_right_by_itself():
    """The analytic case: a rod of 100 mm turned by 90 degrees about the wrist at its end."""
    body = np.array([[0.0, 0, 0], [0.5, 0, 0], [0.6, 0, 0]])  # pelvis, wrist, finger tip
    predicted = body.copy()
    predicted[2] = (0.5, 0.1, 0)
    regressor = np.zeros((22, 3))
    regressor[0, 0], regressor[20, 1] = 1, 1
    parts = [VertexPart("all", None, 0), VertexPart("left_hand", np.array([1, 2]), 20)]
    errors = part_errors(predicted[None], body[None], parts, regressor)
    across = 1000 * np.hypot(0.1, 0.1)
    assert errors["pve_left_hand"][0] == pytest.approx(across / 2)
    assert errors["pve_all"][0] == pytest.approx(across / 3)
    assert errors["pa_pve_left_hand"][0] == pytest.approx(0, abs=1e-9)
    assert errors["pa_pve_all"][0] > 1
    shifted = predicted.copy()
    shifted[1:] += (0.3, 0, 0)  # a wrong arm moves the hand along: no error of the hand
    again = part_errors(shifted[None], body[None], parts, regressor)
    assert again["pve_left_hand"][0] == pytest.approx(errors["pve_left_hand"][0])
    assert "pve_all" not in part_errors(predicted[None], body[None], parts, None)


def test_hands_are_averaged():
    vertices = np.random.default_rng(0).normal(size=(3, 10, 3))
    parts = [
        VertexPart("left_hand", np.arange(4), 20),
        VertexPart("right_hand", np.arange(4, 9), 21),
    ]
    errors = part_errors(vertices, vertices[::-1], parts, None)
    middle = (errors["pa_pve_left_hand"] + errors["pa_pve_right_hand"]) / 2
    np.testing.assert_allclose(errors["pa_pve_hands"], middle)


# --- surfaces and points -------------------------------------------------------------------------


def test_distances_are_to_the_surface_not_to_vertices():
    vertices = np.array([[-5.0, -5, 0], [5, -5, 0], [0, 9, 0]]) + 100
    points = np.array([[0.0, 0, 0.25], [0, 0, -2], [0, 0, 0]]) + 100
    away = surface_distances(points, vertices, np.array([[0, 1, 2]]))
    np.testing.assert_allclose(away, [0.25, 2, 0], atol=1e-5)


def test_f_score_by_hand():
    truth = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    predicted = np.array([[0.0, 0.004, 0], [1, 0.006, 0]])
    assert f_score(truth, truth, 0.005) == 1
    # at 5 mm one of two predicted points is right, one of four true ones is found
    assert f_score(predicted, truth, 0.005) == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    assert f_score(predicted + 10, truth, 0.005) == 0


def test_pck_and_the_area_under_it():
    assert pck(np.array([1.0, 2, 3, np.nan]), 2) == pytest.approx(2 / 3)
    assert pck(np.array([[1.0], [4]]), np.array([[1.0], [2]])) == 0.5
    assert np.isnan(pck(np.array([np.nan]), 1))
    each = pck(np.array([[1.0, 3, np.nan], [np.nan] * 3, [1, 1, 9]]), 2, axis=1)
    np.testing.assert_allclose(each, [0.5, np.nan, 2 / 3])
    assert auc(np.zeros((5, 21))) == 1
    assert auc(np.full((5, 21), 0.06)) == 0
    spread = np.linspace(0, 0.05, 2001)[:, None]
    assert auc(spread) == pytest.approx(0.5, abs=2e-3)


# --- faces ----------------------------------------------------------------------------------------

LANDMARKS = np.array([
    [-45.0, 30, 0], [-15, 30, 5], [15, 30, 5], [45, 30, 0], [0, -10, 20], [-25, -35, 10],
    [25, -35, 10],
])  # fmt: skip


def test_seven_landmarks_give_the_motion_back():
    source = moved(LANDMARKS, transl=(5, 7, 9))
    move = rigid_alignment(source, LANDMARKS)
    np.testing.assert_allclose(move(source), LANDMARKS, atol=1e-9)
    assert move.scale == 1
    larger = rigid_alignment(2 * source, LANDMARKS, with_scale=True)
    assert larger.scale == pytest.approx(0.5)
    assert np.linalg.det(rigid_alignment(LANDMARKS * (-1, 1, 1), LANDMARKS).rotation) > 0
    with pytest.raises(ValueError, match="landmarks must be"):
        rigid_alignment(LANDMARKS, LANDMARKS[:6])


def test_the_face_is_a_ball_about_the_nose():
    bridge = LANDMARKS[1:3].mean(0)
    middle = LANDMARKS[4] + 0.3 * (bridge - LANDMARKS[4])
    radius = 0.7 * (90 + np.linalg.norm(bridge - LANDMARKS[4]))
    points = middle + np.array([[0, 0, radius - 0.1], [0, 0, radius + 0.1], [0, radius - 0.1, 0]])
    assert face_region(points, LANDMARKS).tolist() == [True, False, True]


def test_a_scan_of_a_larger_head_is_off_by_the_difference():
    vertices, faces = icosphere(3)
    radius = np.linalg.norm(vertices, axis=1).mean()
    mesh = {"vertices": moved(100 * vertices / radius), "faces": faces,
            "landmarks": moved(LANDMARKS)}  # fmt: skip
    scan = 102 * vertices / radius
    away = scan_to_mesh(scan, LANDMARKS, mesh)
    assert len(away) < len(scan)
    assert away.mean() == pytest.approx(2, abs=0.15)
    assert scan_to_mesh(100 * vertices / radius, LANDMARKS, mesh).max() < 1e-3
    double = mesh | {"vertices": 2 * mesh["vertices"], "landmarks": 2 * mesh["landmarks"]}
    assert scan_to_mesh(100 * vertices / radius, LANDMARKS, double, with_scale=True).max() < 1e-3
    assert scan_to_mesh(100 * vertices / radius, LANDMARKS, double).max() > 1


# --- AGORA ----------------------------------------------------------------------------------------


def person(x=0.0, y=0.0, valid=True, offset=0.0):
    rng = np.random.default_rng(0)
    joints = rng.uniform(0, 100, (24, 2)) + np.array([x, y]) + offset
    space = rng.normal(0, 0.4, (127, 3))
    return Person(joints, space, rng.normal(0, 0.4, (40, 3)), valid)


def test_people_are_matched_by_their_joints_where_boxes_overlap():
    truth = [person(0), person(500)]
    found = [person(500, offset=3), person(0, offset=2)]
    matching = match_people(found, truth)
    assert set(matching.pairs) == {(0, 1), (1, 0)}
    assert matching.missed == () and matching.false_positives == 0
    far = match_people([person(5000)], truth)
    assert far.pairs == () and far.missed == (0, 1) and far.false_positives == 1
    assert match_people([], truth).missed == (0, 1)


def test_the_nearer_of_two_predictions_is_the_person():
    matching = match_people([person(offset=20), person(offset=5)], [person()])
    assert matching.pairs == ((1, 0),) and matching.false_positives == 1


def test_invalid_people_are_neither_found_nor_missed():
    truth = [person(0, valid=False), person(500)]
    matching = match_people([person(0, offset=1), person(500, offset=1)], truth)
    assert matching.pairs == ((1, 1),)
    assert matching.missed == ()
    assert matching.false_positives == 1, "the evaluator counts who falls on the invalid"


def test_a_persons_errors_by_hand():
    truth = person()
    space, vertices = truth.joints_3d + 5, truth.vertices + 5
    parts = AgoraParts(np.arange(10), np.arange(10, 20), np.arange(20, 30), np.arange(30, 40))
    same = person_mm(Person(truth.joints_2d, space, vertices), truth, parts)
    assert max(same.values()) < 1e-6, "moved as a whole: each root takes it away"
    space = truth.joints_3d.copy()
    space[25:40, 1] += 0.016  # the fingers of the left hand, 16 mm
    off = person_mm(Person(truth.joints_2d, space, truth.vertices), truth, parts)
    assert off["mpjpe_left_hand"] == pytest.approx(15), "the wrist counts with 0: 16 * 15 / 16"
    assert off["mpjpe_body"] == 0 and off["mpjpe_right_hand"] == 0


def test_agoras_rounding_by_hand():
    """8 found, 2 missed, 1 too many: F1 = 8 / 9.5 = 0.8421 -> 0.84."""
    one = {f"{kind}_{name}": value for kind in ("mpjpe", "mve") for name, value in (
        ("body", 90.26), ("left_hand", 40.04), ("right_hand", 41.96), ("face", 30.0))}  # fmt: skip
    figures = agora_figures([one] * 8, missed=2, false_positives=1)
    assert figures["f1"] == 0.84
    assert (figures["precision"], figures["recall"]) == (0.89, 0.8)
    assert figures["mpjpe_body"] == 90.3  # of those found
    # of hands and face the missed count as 0: 40.04 * 8 / 10 = 32.03, 33.57, 24.0
    assert figures["mpjpe_left_hand"] == 32.0
    assert figures["mpjpe_right_hand"] == 33.6
    assert figures["mpjpe_face"] == 24.0
    assert figures["mpjpe_full"] == 120.2  # 90.3 + (32.0 + 33.6 + 24.0) / 3 = 120.17
    assert figures["nmje_body"] == 107.5  # 90.3 / 0.84, not 90.26 / 0.8421 = 107.2
    assert figures["nmve_full"] == 143.1  # 120.2 / 0.84
    alone = agora_figures([one] * 8, missed=2, false_positives=1, missed_in_empty=2)
    assert alone["mpjpe_left_hand"] == 40.0


def test_nobody_found_is_no_division_by_zero():
    assert agora_figures([], missed=3, false_positives=0)["f1"] == 0
    assert np.isnan(agora_figures([], missed=3, false_positives=0)["nmje_full"])
    assert np.isnan(agora_figures([], missed=0, false_positives=0)["f1"])


# --- COCO -----------------------------------------------------------------------------------------


def labelled(seed, **more):
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform(20, 180, (17, 2)), rng.integers(0, 3, 17)])
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    box = np.concatenate([low, high - low])
    return Labelled(points, **({"area": 0.5 * float(np.prod(box[2:])), "box_xywh": box} | more))


def test_similarity_by_hand():
    points = np.zeros((17, 3))
    points[0] = (50, 50, 2)
    one = Labelled(points, 1000.0, np.array([0.0, 0, 100, 100]))
    found = np.full((17, 2), 50.0)
    assert oks(Detection(found, 1), one) == 1
    found[0, 0] += 2 * 0.026 * np.sqrt(1000)  # one k sqrt(area): exp(-1/2)
    assert oks(Detection(found, 1), one) == pytest.approx(np.exp(-0.5))
    assert CONVENTIONS["coco17"][0] == "nose"


def test_all_right_is_one_and_nothing_is_zero():
    people = [labelled(k) for k in range(3)]
    right = [Detection(p.keypoints, 0.5) for p in people]
    figures = keypoint_ap([(right, people)])
    assert figures["AP"] == pytest.approx(1) and figures["AR"] == pytest.approx(1)
    assert keypoint_ap([([], people)])["AP"] == 0
    assert keypoint_ap([(right, [])])["AP"] == -1


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_pycocotools(seed, capsys):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    truth, results, pictures = [], [], []
    for image in range(1, 13):
        people = []
        for _ in range(rng.integers(0, 5)):
            shrink = rng.choice([0.1, 0.5, 1.0])
            one = labelled(int(rng.integers(1 << 30)), is_crowd=bool(rng.random() < 0.1))
            points = one.keypoints * (shrink, shrink, 1)
            if rng.random() < 0.15:
                points[:, 2] = 0
            box = one.box_xywh * shrink
            people.append(Labelled(points, one.area * shrink**2, box, one.is_crowd))
        found = []
        for one in people:
            for _ in range(rng.integers(0, 3)):
                noise = rng.choice([0.5, 3, 15]) * np.sqrt(one.area) / 100
                points = one.keypoints[:, :2] + rng.normal(0, noise, (17, 2))
                found.append(Detection(points, round(float(rng.random()), 1)))
        found += [Detection(rng.uniform(0, 200, (17, 2)), float(rng.random()))
                  for _ in range(rng.integers(0, 2))]  # fmt: skip
        pictures.append((found, people))
        for one in people:
            truth.append({
                "id": len(truth) + 1, "image_id": image, "category_id": 1,
                "keypoints": one.keypoints.reshape(-1).tolist(), "area": one.area,
                "bbox": one.box_xywh.tolist(), "iscrowd": int(one.is_crowd),
                "num_keypoints": int((one.keypoints[:, 2] > 0).sum()),
            })  # fmt: skip
        results += [
            {"image_id": image, "category_id": 1, "score": d.score,
             "keypoints": np.column_stack([d.keypoints, np.ones(17)]).reshape(-1).tolist()}
            for d in found
        ]  # fmt: skip
    coco = COCO()
    coco.dataset = {
        "images": [{"id": k} for k in range(1, 13)], "annotations": truth,
        "categories": [{"id": 1, "name": "person"}], "info": {},
    }  # fmt: skip
    coco.createIndex()
    judge = COCOeval(coco, coco.loadRes(results), "keypoints")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    capsys.readouterr()
    mine = list(keypoint_ap(pictures).values())
    np.testing.assert_allclose(mine, judge.stats, atol=1e-9)
    assert 0.05 < mine[0] < 0.95
