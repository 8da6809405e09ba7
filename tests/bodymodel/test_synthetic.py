"""Rendered people: regions, what is hidden, and that everything comes from the seed."""

import numpy as np
import pytest
import torch

from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.synthetic import (
    Outfit,
    dress,
    head_top_vertex,
    is_hidden,
    make_backdrop,
    photograph,
    random_lighting,
    random_outfit,
)

RED, GREEN, BLUE, BLACK, GREY = (*np.eye(3).tolist(), [0.0] * 3, [0.5] * 3)


def outfit(**changes):
    plain = {"skin": RED, "hair": BLACK, "shirt": GREEN, "trousers": BLUE, "shoes": GREY}
    return Outfit(**{**plain, "sleeve": 1.0, "leg": 1.9, **changes})


def vertices_near(body, joint, radius=0.07):
    rest = body.v_template
    at = (body.joint_regressor @ rest)[body.joints.index(joint)]
    return np.linalg.norm(rest - at, axis=-1) < radius


def share(colors, where, color):
    """Of the vertices, how many have this channel as their strongest."""
    return (colors[where].argmax(-1) == int(np.argmax(color))).mean()


def test_clothes_are_where_clothes_are(open_body):
    colors = dress(open_body, outfit(), np.random.default_rng(0))
    assert colors.shape == open_body.v_template.shape
    assert ((colors >= 0) & (colors <= 1)).all()
    assert share(colors, vertices_near(open_body, "spine3", 0.2), GREEN) > 0.9
    assert share(colors, vertices_near(open_body, "left_knee", 0.1), BLUE) > 0.9
    assert share(colors, vertices_near(open_body, "right_index3", 0.03), RED) == 1
    assert share(colors, vertices_near(open_body, "left_wrist", 0.05), RED) == 1
    bald = dress(open_body, outfit(hair=GREEN), np.random.default_rng(0))
    assert share(bald, head_top_vertex(open_body), GREEN) == 1


def test_sleeves_and_legs_are_as_long_as_said(open_body):
    short = dress(open_body, outfit(sleeve=0.5, leg=0.8), np.random.default_rng(0))
    long = dress(open_body, outfit(sleeve=1.9, leg=1.9), np.random.default_rng(0))
    elbow = vertices_near(open_body, "left_elbow", 0.06)
    rest = open_body.v_template
    joint_at = dict(zip(open_body.joints, open_body.joint_regressor @ rest, strict=True))
    ankle, knee = joint_at["right_ankle"], joint_at["right_knee"]
    height = (rest[:, 1] - ankle[1]) / (knee[1] - ankle[1])
    calf = (height > 0.25) & (height < 0.75) & (np.abs(rest[:, 0] - ankle[0]) < 0.12)
    assert share(short, elbow, RED) > 0.95 and share(long, elbow, GREEN) > 0.95
    assert share(short, calf, RED) > 0.95 and share(long, calf, BLUE) > 0.95


def test_other_families_are_refused(open_body):
    from dataclasses import replace

    with pytest.raises(ValueError, match="SMPL-X"):
        dress(replace(open_body, family="smpl"), outfit(), np.random.default_rng(0))


def stand(body, yaw):
    params = BodyParams.zeros()
    turn = torch.tensor([0.0, yaw, 0.0])
    flip = rotvec_to_rotmat(torch.tensor([np.pi, 0.0, 0.0]))
    params.global_orient.copy_(rotmat_to_rotvec(flip @ rotvec_to_rotmat(turn)))
    params.transl[2] = 4.0
    with torch.no_grad():
        out = BodyModel(body)(params)
    names = body.joints
    return out.vertices.numpy(), {n: out.joints[k].numpy() for k, n in enumerate(names)}


def test_joints_of_a_facing_person_are_seen_and_those_behind_are_hidden(open_body):
    names = ("left_shoulder", "right_shoulder", "left_hip", "right_hip", "left_knee", "right_knee")
    reach = np.array((0.14, 0.14, 0.20, 0.20, 0.12, 0.12))
    vertices, joints = stand(open_body, 0.0)
    points = np.stack([joints[n] for n in names])
    assert not is_hidden(vertices, open_body.faces, points, reach).any()
    # From the person's right, the left knee is behind the right one.
    vertices, joints = stand(open_body, np.pi / 2)
    points = np.stack([joints[n] for n in names])
    hidden = dict(zip(names, is_hidden(vertices, open_body.faces, points, reach), strict=True))
    assert hidden["left_hip"] != hidden["right_hip"]
    assert hidden["left_knee"] != hidden["right_knee"]
    near = "left" if joints["left_knee"][2] < joints["right_knee"][2] else "right"
    assert not hidden[f"{near}_knee"]


def test_a_point_that_nothing_covers_is_seen():
    triangle = np.array([(-1, -1, 3), (1, -1, 3), (0, 1, 3)], np.float32)
    faces = np.array([[0, 1, 2]])
    points = np.array([(0, 0, 3.05), (0, 0, 3.5), (5, 0, 3.5), (0, 0, 2.0)])
    got = is_hidden(triangle, faces, points, np.full(4, 0.1))
    np.testing.assert_array_equal(got, (False, True, False, False))
    nothing = is_hidden(triangle * np.nan, faces, points, np.full(4, 0.1))
    assert not nothing.any()


def test_photo_is_the_backdrop_where_nobody_is_and_comes_from_the_seed(toy_body):
    vertices, _ = stand(toy_body, 0.3)

    def shoot(seed):
        rng = np.random.default_rng(seed)
        backdrop = make_backdrop(rng, 120, 160)
        colors = dress(toy_body, random_outfit(rng), rng)
        picture = photograph(
            vertices, toy_body.faces, colors, backdrop, 300, (60, 80), random_lighting(rng), rng
        )
        return picture, backdrop

    picture, backdrop = shoot(3)
    assert picture.shape == (160, 120, 3) and picture.dtype == np.uint8
    difference = np.abs(picture / 255.0 - backdrop).max(-1)
    assert np.median(difference[:10]) < 0.03
    assert (difference > 0.1).mean() > 0.02
    np.testing.assert_array_equal(picture, shoot(3)[0])
    assert (picture != shoot(4)[0]).any()
