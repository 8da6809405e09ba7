"""A row alone gives back the points and the pixels: checked against sums written out one by one."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bodymodel.spec import FACE_CONTOUR, SMPLX_KEYPOINTS
from curation.reproject import (
    Reprojector,
    posed_joints,
    posed_vertices,
    rotvec_to_rotmat,
    trunk_lean_deg,
)
from curation.run_writer import RunWriter
from curation.store import FitStore
from tests.fit_rows import example_row, run_info
from tests.random_body import random_body, random_params, random_points


def forward_by_hand(body, params):
    """Loper et al. 2015 as written: homogeneous matrices, one joint and one vertex at a time."""
    rest = body.v_template.astype(float).copy()
    for k, value in enumerate(params["betas"]):
        rest += value * body.shapedirs[:, :, k]
    for k, value in enumerate(params["expression"]):
        rest += value * body.exprdirs[:, :, k]
    joints = body.joint_regressor.astype(float) @ rest
    names = (
        "global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose",
        "left_hand_pose", "right_hand_pose",
    )  # fmt: skip
    pose = np.concatenate([params[name].reshape(-1, 3) for name in names])
    rotations = Rotation.from_rotvec(pose).as_matrix()
    world = []
    for j, parent in enumerate(body.parents):
        local = np.eye(4)
        local[:3, :3] = rotations[j]
        local[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    feature = np.concatenate([(r - np.eye(3)).ravel() for r in rotations[1:]])
    vertices = []
    for v in range(len(rest)):
        point = np.append(rest[v] + body.posedirs[v].astype(float) @ feature, 1)
        total = np.zeros(4)
        for j in range(len(world)):
            back = np.eye(4)
            back[:3, 3] = -joints[j]
            total += body.weights[v, j] * (world[j] @ back @ point)
        vertices.append(total[:3])
    transl = params["transl"].astype(float)
    return np.array([w[:3, 3] for w in world]) + transl, np.array(vertices) + transl


@pytest.mark.parametrize("seed", range(3))
def test_forward_is_the_papers(seed):
    body = random_body(seed)
    params = random_params(body, seed)
    joints, vertices = forward_by_hand(body, params)
    np.testing.assert_allclose(posed_joints(body, params), joints, atol=1e-6)
    np.testing.assert_allclose(posed_vertices(body, params), vertices, atol=1e-6)


def test_rotations_at_every_angle():
    axes = np.random.default_rng(0).normal(size=(50, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    for angle in (0, 1e-12, 1e-6, 1e-3, 1, np.pi, 5):
        expected = Rotation.from_rotvec(axes * angle).as_matrix()
        np.testing.assert_allclose(rotvec_to_rotmat(axes * angle), expected, atol=1e-13)


def test_a_stored_row_reprojects_to_a_hundredth_of_a_pixel(tmp_path):
    body = random_body(1)
    places = random_points(body)
    reprojector = Reprojector(body, places)
    contour = [SMPLX_KEYPOINTS.index(name) for name in FACE_CONTOUR]
    defined = np.setdiff1d(np.arange(145), contour)
    rows, seen = [], []
    for seed in range(5):
        params = random_params(body, seed)
        joints, vertices = forward_by_hand(body, params)
        points = places.joint_weights @ joints
        points += places.vertex_weights @ vertices[places.vertex_ids]
        focal, center = np.float32(1234.5), np.array([960.0, 540.5], np.float32)
        projected = focal * points[:, :2] / np.where(points[:, 2:], points[:, 2:], np.nan) + center
        keypoints = np.column_stack([projected + np.array([3, 4]), np.ones(len(projected))])
        keypoints[contour] = 0
        keypoints[7] = 0
        seen.append(projected)
        rows.append(
            example_row(
                seed,
                **params,
                focal_px=focal,
                center_px=center,
                keypoints_2d=keypoints,
                body_sha256=body.sha256,
                body_name=body.name,
            )
        )
    info = run_info(tmp_path, body_sha256=body.sha256, body_name=body.name)
    with RunWriter(FitStore(tmp_path), info) as writer:
        writer.write(rows)
    for row, projected in zip(FitStore(tmp_path).iter_rows(), seen, strict=True):
        again = reprojector.project(row)
        assert np.isnan(again[contour]).all()
        assert np.abs(again[defined] - projected[defined]).max() < 0.01
        residuals = reprojector.residuals(row)
        assert np.isnan(residuals[7])
        np.testing.assert_allclose(residuals[np.setdiff1d(defined, [7])], 5, atol=0.01)


def test_another_body_or_no_fit_is_refused():
    body = random_body(1)
    reprojector = Reprojector(body, random_points(body))
    row = random_params(body) | {"body_sha256": "f" * 64, "body_name": "mine"}
    with pytest.raises(ValueError, match=r"fitted with body mine .* load the row's own body"):
        reprojector.points(row)
    row = random_params(body) | {"transl": np.full(3, np.nan)}
    with pytest.raises(ValueError, match="holds no fit"):
        reprojector.points(row)
    with pytest.raises(ValueError, match="betas has 12 components"):
        reprojector.points(random_params(body) | {"betas": np.zeros(12)})


def test_points_behind_the_camera_are_nan():
    body = random_body(1)
    reprojector = Reprojector(body, random_points(body))
    row = random_params(body, depth_m=-4) | {"focal_px": 1000, "center_px": np.zeros(2)}
    assert np.isnan(reprojector.project(row)).all()


def test_other_families_have_their_own_joints():
    body = random_body(2, family="smplh")
    assert posed_joints(body, random_params(body)).shape == (52, 3)


def test_trunk_lean_is_positive_toward_the_camera():
    body = random_body(0)
    joints = np.zeros((55, 3))
    neck = body.joints.index("neck")
    joints[neck] = [0, -0.5, -0.5]
    assert trunk_lean_deg(joints, body) == pytest.approx(45)
    joints[neck] = [0, -0.5, 0]
    assert trunk_lean_deg(joints, body) == pytest.approx(0)
