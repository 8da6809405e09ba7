"""What is drawn of an item, and having it drawn beside the server."""

import asyncio
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from annotate_ui.pictures import FILES, PICTURE_COLUMNS, PictureMaker, draw_item
from bodymodel.arrays import body_from_arrays
from bodymodel.keypoints import FIT_KEYPOINTS
from curation.reproject import Reprojector
from curation.schema import PARAMETERS, POSE_SHAPES
from curation.store import FitStore
from tests.toy_body import toy_arrays


def load_body():
    return body_from_arrays(toy_arrays("smplx"), "smplx", "neutral")


def no_body():
    raise FileNotFoundError("gone")


def die():
    os._exit(1)


def person(body, **changes):
    """A row of a person who stands 3 m in front of the camera, with perfect keypoints."""
    row = {name: np.zeros(shape) for name, shape in POSE_SHAPES.items()}
    row |= {"betas": np.zeros(2), "expression": np.zeros(2), "transl": np.array([0.0, 0.0, 3.0])}
    row["global_orient"] = np.array([np.pi, 0, 0])
    row |= {
        "fit_id": "f" * 32, "run_id": "run-1", "image_path": "a.png", "body_sha256": body.sha256,
        "focal_px": 300.0, "center_px": np.array([160.0, 120.0]), "has_bbox": True,
        "bbox_xyxy_px": np.array([100.0, 20.0, 220.0, 220.0]),
        "has_left_hand": True, "has_right_hand": False, "has_face": True,
        "residual_px": np.zeros(len(FIT_KEYPOINTS)),
        "keypoints_2d": np.zeros((len(FIT_KEYPOINTS), 3)),
    }  # fmt: skip
    projected = Reprojector.for_body(body).project(row)
    known = np.isfinite(projected).all(1)
    row["keypoints_2d"][known, :2] = projected[known]
    row["keypoints_2d"][known, 2] = 1
    return row | changes


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.png"
    Image.fromarray(rng.integers(0, 255, (240, 320, 3), np.uint8)).save(path)
    return path


def test_all_files_of_an_item(toy_body, photo):
    row = person(toy_body)
    assert set(PARAMETERS) <= set(PICTURE_COLUMNS)
    files = draw_item(toy_body, row, photo, FILES)
    assert set(files) == set(FILES)
    pictures = {n: Image.open(io.BytesIO(d)) for n, d in files.items() if d and n.endswith("jpg")}
    assert pictures["photo.jpg"].size == pictures["front.jpg"].size, "they are stacked"
    assert pictures["face.jpg"].size == pictures["face_photo.jpg"].size == (288, 288)
    assert files["right_hand.jpg"] == b"", "a part that is not seen has no picture"
    assert files["mesh.glb"][:4] == b"glTF"


def test_points_lie_where_the_picture_shows_them(toy_body, photo):
    row = person(toy_body)
    shown = json.loads(draw_item(toy_body, row, photo, ["points.json"])["points.json"])
    x0, y0, x1, y1 = shown["window"]
    projected = Reprojector.for_body(toy_body).project(row)
    assert len(shown["points"]) > 20
    for point in shown["points"]:
        x, y = projected[FIT_KEYPOINTS.index(point["name"])]
        assert point["model"] == pytest.approx(
            [(x - x0) / (x1 - x0), (y - y0) / (y1 - y0)], abs=1e-4
        )
        assert point["seen"] == pytest.approx(point["model"], abs=1e-3)


def test_only_what_is_asked_for_is_drawn(toy_body, photo):
    assert set(draw_item(toy_body, person(toy_body), photo, ["mesh.glb"])) == {"mesh.glb"}
    assert set(draw_item(toy_body, person(toy_body), photo, ["top.jpg"])) == {"top.jpg"}


def maker(tmp_path, load, **changes):
    row = person(load_body(), **changes)
    return PictureMaker(FitStore(tmp_path / "fits"), tmp_path, load, lambda fit_id: row)


def wait(pictures, name, seconds=60):
    # in a thread of its own: a browser driven by other tests keeps a loop running in this one
    with ThreadPoolExecutor(1) as pool:
        waiting = pictures.wait("run-1", "f" * 32, name, seconds)
        return pool.submit(asyncio.run, waiting).result()


@pytest.mark.slow
def test_missing_files_are_drawn_once_and_found_again(tmp_path, photo):
    pictures = maker(tmp_path, load_body)
    try:
        assert wait(pictures, "front.jpg").exists()
        assert pictures.missing("run-1", "f" * 32) == []
        assert pictures.want("run-1", "f" * 32) is None
        assert wait(pictures, "mesh.glb").read_bytes()[:4] == b"glTF"
        assert not list(tmp_path.rglob("*.tmp"))
    finally:
        pictures.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "changes", "problem"),
    [
        (no_body, {}, "the body cannot be loaded: gone"),
        (load_body, {"body_sha256": "other"}, "another body"),
        (load_body, {"image_path": "gone.png"}, "gone.png"),
        (die, {}, ""),
    ],
)
def test_what_cannot_be_drawn_is_said_and_not_tried_for_ever(
    tmp_path, photo, load, changes, problem
):
    pictures = maker(tmp_path, load, **changes)
    try:
        assert wait(pictures, "front.jpg") is None
        assert problem in pictures.problem("f" * 32)
        if not problem:  # a process that died: the next one waits a while
            pictures.want("run-1", "f" * 32)
        assert pictures.want("run-1", "f" * 32) is None
    finally:
        pictures.close()


def test_a_server_may_leave_drawing_to_others(tmp_path):
    pictures = PictureMaker(FitStore(tmp_path), tmp_path, no_body, lambda f: {}, workers=0)
    assert pictures.want("run-1", "f" * 32) is None
    assert wait(pictures, "front.jpg") is None
