"""Conversions in the project's store of fits."""

import json
import pickle

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from bodymodel.model import BodyModel
from conversion.fits import in_camera
from conversion.run import main
from curation.schema import fit_columns
from curation.store import FitStore
from tests.conversion.people import smpl_people


def run(capsys, *arguments):
    status = main([*map(str, arguments), "--from-models", "open", "--to-models", "open"])
    return status, json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_moving_a_body_into_the_camera(smplx):
    """The moved body's vertices are the body's vertices, moved."""
    rng = np.random.default_rng(0)
    pose, betas = rng.normal(size=(2, 55, 3)) * 0.3, rng.normal(size=(2, 10))
    transl = rng.normal(size=(2, 3))
    camera = np.zeros((2, 3, 4))
    camera[..., :3] = Rotation.from_rotvec(rng.normal(size=(2, 3))).as_matrix()
    camera[..., 3] = rng.normal(size=(2, 3))
    model = BodyModel(smplx, torch.float64)

    def posed(pose, transl):
        out = model.forward_pose(torch.tensor(pose), torch.tensor(betas))
        return out.vertices.numpy() + transl[:, None]

    rest = model.forward_pose(torch.zeros(2, 55, 3).double(), torch.tensor(betas)).joints[:, 0]
    moved = pose.copy()
    moved[:, 0], there = in_camera(pose[:, 0], transl, rest.numpy(), camera)
    wanted = posed(pose, transl) @ camera[..., :3].swapaxes(1, 2) + camera[:, None, :, 3]
    np.testing.assert_allclose(posed(moved, there), wanted, atol=1e-6)


@pytest.fixture
def sequence(tmp_path):
    """A 3DPW sequence of three frames, seen from the side and from 4 m."""
    pose, betas, _ = smpl_people(3, size=0.1)
    camera = np.tile(np.eye(4), (3, 1, 1))
    camera[:, :3, :3] = np.diag([1, -1, -1])
    camera[:, 2, 3] = 4
    inner = np.array([[1900.0, 0, 540], [0, 1900, 960], [0, 0, 1]])
    content = {
        "poses": [pose.reshape(3, 72)], "betas": [betas[0]], "trans": [np.zeros((3, 3))],
        "genders": ["n"], "img_frame_ids": np.arange(3), "sequence": "street", "cam_poses": camera,
        "cam_intrinsics": inner,
    }  # fmt: skip
    with (tmp_path / "street.pkl").open("wb") as file:
        pickle.dump(content, file, protocol=2)
    return tmp_path / "street.pkl"


def test_rows_with_a_camera(sequence, tmp_path, capsys, smplx):
    from PIL import Image

    folder = tmp_path / "imageFiles" / "street"
    folder.mkdir(parents=True)
    Image.new("RGB", (1080, 1920)).save(folder / "image_00001.jpg")
    out = tmp_path / "out"
    status, line = run(capsys, sequence, "--out", out, "--images", tmp_path)
    assert status == 0 and line["fits"] == 3
    store = FitStore(out / "fits")
    rows = list(store.iter_rows())
    assert set(rows[0]) == {c.name for c in fit_columns()}
    assert [r["image_path"] for r in rows] == [
        f"imageFiles/street/image_0000{k}.jpg" for k in range(3)
    ]
    assert (rows[1]["width"], rows[1]["height"]) == (1080, 1920) and rows[1]["image_sha256"]
    assert rows[0]["width"] == 0 and not store.unreadable
    for row in rows:
        assert row["has_fit"] and row["status"] == "ok" and row["focal_source"] == "given"
        assert row["focal_px"] == 1900 and row["center_px"].tolist() == [540, 960]
        assert 3.5 < row["transl"][2] < 4.5 and row["energy"]["v2v_mean_mm"] < 1.5
        x0, y0, x1, y1 = row["bbox_xyxy_px"]
        assert row["has_bbox"] and 300 < y1 - y0 < 1100 and 0 < x0 < 540 < x1 < 1080
    # what curation makes of a row is the body in its photo
    from curation.reproject import posed_vertices

    mesh = posed_vertices(smplx, rows[0])
    pixels = 1900 * mesh[:, :2] / mesh[:, 2:] + (540, 960)
    np.testing.assert_allclose([*pixels.min(0), *pixels.max(0)], rows[0]["bbox_xyxy_px"], atol=0.1)


def test_rows_without_a_camera_and_failed_ones(tmp_path, capsys):
    pose, betas, transl = smpl_people(5)
    pose[3, 2] = np.nan
    np.savez(
        tmp_path / "a.npz", poses=pose.reshape(5, 72), betas=betas, trans=transl,
        mocap_framerate=30.0,
    )  # fmt: skip
    flags = (tmp_path / "a.npz", "--out", tmp_path / "out", "--part-frames", 2)
    assert run(capsys, *flags)[1]["fits"] == 5
    store = FitStore(tmp_path / "out" / "fits")
    rows = list(store.iter_rows())
    assert [r["image_id"] for r in rows] == [f"a/00000{k}" for k in range(5)]
    assert [r["has_fit"] for r in rows] == [True, True, True, False, True]
    assert rows[3]["status"] == "label_error" and "finite" in rows[3]["reason"]
    assert all(np.isnan(r["focal_px"]) and not r["image_path"] for r in rows)
    # again: nothing twice; a lost part of the store is made again
    assert run(capsys, *flags)[1]["fits"] == 0
    store.parts()[0].path.unlink()
    assert run(capsys, *flags)[1]["fits"] == 2
    assert len({r["fit_id"] for r in FitStore(store.root).iter_rows()}) == 5
    # and they can be read like any fits, by this command too
    status, line = run(
        capsys, tmp_path / "out" / "fits" / "data", "--to", "smpl", "--out", tmp_path / "back"
    )
    assert status == 0 and line["ok"] == 4


def test_eft_rows_are_where_its_camera_puts_them(tmp_path, capsys, smplx):
    matrices = np.tile(np.eye(3), (24, 1, 1))
    matrices[0] = np.diag([1.0, -1, -1])
    person = {
        "parm_pose": matrices.tolist(), "parm_shape": [0.0] * 10, "parm_cam": [0.8, 0.1, -0.2],
        "bbox_scale": 1.5, "bbox_center": [400.0, 300.0], "imageName": "a.jpg",
    }  # fmt: skip
    (tmp_path / "eft.json").write_text(json.dumps({"ver": 0.1, "data": [person]}))
    run(capsys, tmp_path / "eft.json", "--out", tmp_path / "out")
    (row,) = FitStore(tmp_path / "out" / "fits").iter_rows()
    assert row["image_path"] == "a.jpg"
    from curation.reproject import posed_joints

    joints = posed_joints(smplx, row)
    pixels = row["focal_px"] * joints[:, :2] / joints[:, 2:] + row["center_px"]
    # weak perspective: half a box of 300 pixels, (scale * xyz + trans)
    flat = posed_joints(smplx, row | {"transl": np.zeros(3)})
    wanted = (400, 300) + 150 * (0.8 * flat[:, :2] + (0.1, -0.2))
    np.testing.assert_allclose(pixels, wanted, atol=2.0)
