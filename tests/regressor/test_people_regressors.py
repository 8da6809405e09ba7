from dataclasses import replace

import numpy as np
import pytest
import torch

from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from curation.reproject import posed_joints
from curation.samples import KnownCamera, PersonObservation
from regressor.checkpoints import save_checkpoint
from regressor.expose import Expose, ExposeConfig
from regressor.people_regressors import (
    KeypointRegressor,
    PhotoRegressor,
    choose_camera,
)


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def by_keypoints(body):
    return KeypointRegressor(body)


@pytest.fixture
def people(rendered):
    """Six people, told apart by where their labels have hips and shoulders."""
    conventions = [("lsp14",), ("openpose137",), (), ("lsp14",), ("openpose137",), ("mpii16",)]
    return [
        PersonObservation(
            rendered[k].key, 0, "", 160, 160,
            keypoints_2d=rendered[k].keypoints_2d, conventions=conventions[k],
        )
        for k in range(6)
    ]  # fmt: skip


def test_people_of_different_conventions_keep_their_places(by_keypoints, people):
    together = by_keypoints(people)
    assert len(together.people) == 6 and not together.refused
    for k, person in enumerate(people):
        alone = by_keypoints([person])
        assert together.people[k].image_id == person.image_id
        for name, values in alone.params.items():
            np.testing.assert_allclose(together.params[name][k], values[0], atol=0.02)
    moved = by_keypoints([replace(people[0], conventions=("openpose137",))])
    assert np.abs(moved.params["body_pose"][0] - together.params["body_pose"][0]).max() > 0.01


def test_a_box_is_made_of_the_keypoints(by_keypoints, people):
    found = by_keypoints(people[:1])
    points = people[0].keypoints_2d
    seen = points[points[:, 2] > 0, :2]
    np.testing.assert_allclose(found.people[0].bbox_xyxy_px, [*seen.min(0), *seen.max(0)])


def test_a_longer_lens_puts_people_farther_away(body, people):
    near, far = (KeypointRegressor(body, focal_px=f)(people[:3]) for f in (200.0, 800.0))
    ratio = far.params["transl"][:, 2] / near.params["transl"][:, 2]
    assert (np.abs(ratio / 4 - 1) < 0.25).all()


def test_cameras_in_their_order_of_trust(people):
    plain = people[0]
    assert choose_camera(plain, None).focal_px == pytest.approx(np.hypot(160, 160))
    assert choose_camera(plain, None).source == "default"
    exif = replace(plain, focal_px=321.0)
    assert (choose_camera(exif, None).focal_px, choose_camera(exif, None).source) == (321, "exif")
    assert choose_camera(exif, 99.0).source == "given"
    known = replace(exif, camera=KnownCamera(500.0, (70.0, 90.0)))
    assert choose_camera(known, 99.0).center_px == (70.0, 90.0)
    assert choose_camera(known, 99.0).source == "dataset"


def test_whoever_cannot_be_looked_at_is_refused_with_a_reason(body, rendered, people, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "tiny.safetensors"
    save_checkpoint(weights, Expose(body, ExposeConfig.tiny()), body.sha256, {})
    regressor = PhotoRegressor(body, weights, rendered[0].picture.path.parent)
    nowhere = replace(people[1], keypoints_2d=np.zeros((len(FIT_KEYPOINTS), 3), np.float32))
    gone = replace(people[2], image_id="gone.jpg")
    found = regressor([people[0], nowhere, gone])
    assert [p.image_id for p in found.people] == [people[0].image_id]
    assert [p.status for p in found.refused] == ["no_person", "image_error"]
    assert all(p.reason for p in found.refused)
    nobody = regressor([nowhere])
    assert not nobody.people and len(nobody.refused) == 1


def test_what_the_network_sees_is_brought_onto_the_keypoints_there_are(body, rendered, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "tiny.safetensors"
    save_checkpoint(weights, Expose(body, ExposeConfig.tiny()), body.sha256, {})
    photos = rendered[0].picture.path.parent
    people = [
        PersonObservation(
            rendered[k].key, 0, "", 160, 160, keypoints_2d=rendered[k].keypoints_2d,
            bbox_xyxy_px=np.array([10, 10, 150, 150], np.float32),
        )
        for k in range(3)
    ]  # fmt: skip
    people[1] = replace(people[1], keypoints_2d=np.zeros((len(FIT_KEYPOINTS), 3), np.float32))
    plain, aligned = (
        PhotoRegressor(body, weights, photos, align=align)(people) for align in (False, True)
    )
    assert len(aligned.people) == 3
    np.testing.assert_array_equal(plain.focal_px, aligned.focal_px)
    rows = [FIT_KEYPOINTS.index(n) for n in ("left_hip", "left_shoulder", "right_shoulder")]

    def off(answered, k):
        params = {name: values[k] for name, values in answered.params.items()}
        joints = posed_joints(body, params)[rows]
        pixels = answered.focal_px[k] * joints[:, :2] / joints[:, 2:] + answered.center_px[k]
        return np.linalg.norm(pixels - people[k].keypoints_2d[rows, :2], axis=1).mean()

    for k in (0, 2):
        assert off(aligned, k) < 0.5 * off(plain, k)
    for name, values in plain.params.items():
        np.testing.assert_array_equal(aligned.params[name][1], values[1], err_msg=name)
