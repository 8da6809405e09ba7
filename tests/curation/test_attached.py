import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from curation.datasets import open_dataset
from curation.evidence import from_labels
from curation.observe import observe
from curation.samples import KeypointSource
from tests.curation.drawing import HEIGHT, JOINTS, WIDTH

LSP, BODY25 = CONVENTIONS["lsp14"], CONVENTIONS["openpose_body25"]


def openpose_person(offset=(0.0, 0.0), confidence=0.8):
    body = []
    for name in BODY25:
        x, y = JOINTS.get(name, (0, 0))
        body += [x + offset[0], y + offset[1], confidence if name in JOINTS else 0]
    hand = [v for _ in range(21) for v in (330 + offset[0], 340 + offset[1], 0.5)]
    return {"pose_keypoints_2d": body, "hand_left_keypoints_2d": hand}


@pytest.fixture
def lspet(tmp_path):
    """Two photos of one labelled person each; the left ankle of the first is not labelled."""
    (tmp_path / "images").mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (2 * WIDTH, HEIGHT)).save(tmp_path / f"images/im{number:05d}.jpg")
    joints = np.ones((14, 3, 2))
    joints[:, :2] = np.array([JOINTS[name] for name in LSP])[..., None] + 0.5
    joints[LSP.index("left_ankle"), :, 0] = (-50, -60, 0)
    savemat(tmp_path / "joints.mat", {"joints": joints})
    return tmp_path


def write(root, number, *people):
    folder = root / "keypoints"
    folder.mkdir(exist_ok=True)
    path = folder / f"im{number:05d}_keypoints.json"
    path.write_text(json.dumps({"people": list(people)}))


def test_openpose_files_add_to_the_annotated_person(lspet):
    assert open_dataset(lspet).kind == "lspet"
    far = openpose_person((WIDTH, 0))
    write(lspet, 1, far, openpose_person((4, 3)))
    write(lspet, 2, far)
    dataset = open_dataset(lspet)
    assert dataset.kind == "lspet" and dataset.root == lspet and dataset.count() == 3
    first, second, _ = dataset.iter_samples()
    assert len(first.people) == len(second.people) == 1

    evidence = from_labels(first.people[0])
    at = FIT_KEYPOINTS.index
    assert evidence.source[at("left_wrist")] == KeypointSource.ANNOTATION
    assert evidence.source[at("left_index1")] == KeypointSource.OPENPOSE
    assert evidence.points[at("left_index1"), :2].tolist() == [334, 343]
    assert evidence.source[at("nose")] == KeypointSource.OPENPOSE
    # The annotator has looked for the ankle and not found it.
    assert evidence.source[at("left_ankle")] == KeypointSource.NONE

    # The only detection is somebody else's.
    assert set(np.unique(from_labels(second.people[0]).source)) == {0, KeypointSource.ANNOTATION}


def test_each_source_can_be_asked_for(lspet):
    write(lspet, 1, openpose_person((4, 3)))
    samples = list(open_dataset(lspet).iter_samples())[:1]
    (row,) = observe(samples, source="openpose")
    assert set(np.unique(row.keypoint_source)) == {0, KeypointSource.OPENPOSE}
    (row,) = observe(samples, source="annotations")
    assert set(np.unique(row.keypoint_source)) == {0, 1, KeypointSource.OPENPOSE}


def test_a_photo_that_the_labels_end_before_keeps_its_problem(lspet):
    write(lspet, 3, openpose_person())
    third = list(open_dataset(lspet).iter_samples())[2]
    assert third.problem and not third.people


def test_results_in_cocos_form_add_as_well(lspet):
    keypoints = []
    for name in CONVENTIONS["coco_wholebody133"]:
        x, y = JOINTS.get(name, (0, 0))
        keypoints += [x, y, 0.7 if name in JOINTS else 0]
    keypoints[-3:] = [100, 340, 0.6]  # the tip of the right little finger
    (lspet / "keypoints").mkdir()
    (lspet / "keypoints" / "rtmw.json").write_text(
        json.dumps([{"image_id": "im00002", "keypoints": keypoints, "score": 1.0}])
    )
    _, second, _ = open_dataset(lspet).iter_samples()
    evidence = from_labels(second.people[0])
    assert evidence.source[FIT_KEYPOINTS.index("right_pinky")] == KeypointSource.WHOLEBODY
    assert evidence.source[FIT_KEYPOINTS.index("right_wrist")] == KeypointSource.ANNOTATION


def test_a_damaged_file_costs_its_points_only(lspet, caplog):
    (lspet / "keypoints").mkdir()
    (lspet / "keypoints" / "im00001_keypoints.json").write_text("{")
    first = next(iter(open_dataset(lspet).iter_samples()))
    assert len(first.people[0].keypoints) == 1 and not first.problem
    assert "im00001_keypoints.json is not JSON" in caplog.text
