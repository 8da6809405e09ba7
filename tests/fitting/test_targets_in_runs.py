"""Through the command: people of whom 3D keypoints or several views are known."""

import json

import numpy as np
from PIL import Image

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from curation.store import FitStore
from fitting.run import main
from tests.fitting.people import CENTER_PX, FOCAL_PX, make_people

ROWS = [FIT_KEYPOINTS.index(n) for n in CONVENTIONS["smplx144"]]
TURN = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.8, 0.0, 0.6]])
SHIFT = np.array([-3.2, 0.0, 1.6])  # so that the person is before the second camera, too


def project(points):
    return FOCAL_PX * points[:, :2] / points[:, 2:] + CENTER_PX


def table(points, *columns):
    return np.column_stack([points, *columns])[ROWS].tolist()


def test_three_ways_of_knowing_more(open_body, tmp_path):
    """Labels alone, 3D alone, 3D up to a motion and two views: more is better, and in the rows."""
    (target,), truth, points = make_people(open_body, 1, noise_px=2.0, seed=3)
    points = np.nan_to_num(points[0])
    seen = target.keypoints_2d[:, 2]
    keypoints_2d = target.keypoints_2d[ROWS].tolist()
    keypoints_3d = table(points, seen)
    camera = {"focal_px": FOCAL_PX, "center_px": CENTER_PX.tolist()}
    here = {"rotation": np.eye(3).tolist(), "translation": [0, 0, 0]}
    there = {"rotation": TURN.tolist(), "translation": SHIFT.tolist()}
    beside = points @ TURN.T + SHIFT
    with np.errstate(divide="ignore", invalid="ignore"):
        second = table(np.where(seen[:, None] > 0, project(beside), 0), seen)
    loose = table(points @ TURN.T + 7.0, seen)
    people = [
        {"image": "0.png", **camera, "keypoints_2d": keypoints_2d},
        {"image": "1.png", **camera, "keypoints_3d": keypoints_3d},
        {"image": "2.png", **camera, "keypoints_2d": keypoints_2d, "keypoints_3d": loose,
         "frame": "free"},
        {"views": [
            {"image": "3.png", **camera, **here, "keypoints_2d": keypoints_2d},
            {"image": "0.png", **camera, **there, "keypoints_2d": second},
        ]},
    ]  # fmt: skip
    for k in range(4):
        Image.new("RGB", (640, 800)).save(tmp_path / f"{k}.png")
    (tmp_path / "targets.json").write_text(json.dumps({"convention": "smplx144", "people": people}))
    flags = ["--overlays", "all", "--keypoints", "annotations", "--workers", "1"]
    assert main([str(tmp_path), *flags, "--interpenetration", "off", "--device", "cpu"]) == 0
    rows = sorted(FitStore(tmp_path / "fits").iter_rows(), key=lambda row: row["image_id"])
    assert [row["status"] for row in rows] == ["ok"] * 4, [row["reason"] for row in rows]
    assert [row["views"] for row in rows] == [1, 1, 1, 2]
    assert [bool(np.isfinite(row["residual_3d_mm"])) for row in rows] == [False, True, True, False]
    assert max(rows[1]["residual_3d_mm"], rows[2]["residual_3d_mm"]) < 20
    assert [row["has_keypoints"] for row in rows] == [True, False, True, True]
    where = truth.transl[0].numpy()
    away = [np.linalg.norm(row["transl"] - where) for row in rows]
    assert max(away[1], away[3]) < 0.05
    turned = truth.body_pose[0].numpy()
    wrong = [np.abs(row["body_pose"] - turned).mean() for row in rows]
    assert max(wrong[1:]) < wrong[0]
