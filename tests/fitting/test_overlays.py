"""Pictures are drawn beside the solver, cut to the person, and a bad one stops nobody."""

import os

import numpy as np
import pytest
from PIL import Image

from curation.store import FitStore
from fitting.overlays import OVERLAY_COLUMNS, OverlayPool, draw_fit
from tests.fit_rows import example_row
from tests.random_body import random_body

BODY = random_body(0)


def load_body():
    return BODY


def draw_or_fail(body, row, photo):
    if row["image_path"] == "bad.jpg":
        raise ValueError("a photo that is gone")
    if row["image_path"] == "deadly.jpg":
        os._exit(1)
    return dict.fromkeys(("front", "side", "top"), np.full((8, 8, 3), 200, np.uint8))


def rows(*names):
    made = [
        example_row(k, image_path=name, fit_id=f"{k:032x}", body_sha256=BODY.sha256)
        for k, name in enumerate(names)
    ]
    return [{name: row[name] for name in OVERLAY_COLUMNS} for row in made]


def test_many_pictures_and_one_that_fails(tmp_path, caplog):
    store = FitStore(tmp_path)
    jobs = rows(*(f"{k}.jpg" for k in range(200)), "bad.jpg")
    with OverlayPool(store, load_body, tmp_path, 1, draw_or_fail) as pool:
        assert all(pool.wants(job) for job in jobs)
        taken = [pool.submit(job, wait=True) for job in jobs]
        pool.finish()
        assert all(taken)
        assert (pool.drawn, pool.failed) == (200, 1)
        assert not any(pool.wants(job) for job in jobs[:200])
        assert pool.wants(jobs[200])
    assert "bad.jpg: a photo that is gone" in caplog.text
    path = store.overlay_path(jobs[3]["run_id"], jobs[3]["fit_id"], "side")
    with Image.open(path) as picture:
        assert picture.size == (8, 8)
    assert not list(tmp_path.rglob("*.tmp"))


def test_rows_of_another_body_are_not_drawn(tmp_path, caplog):
    row = rows("a.jpg")[0] | {"body_sha256": "f" * 64}
    with OverlayPool(FitStore(tmp_path), load_body, tmp_path, 1, draw_or_fail) as pool:
        pool.submit(row, wait=True)
        pool.finish()
        assert pool.drawn == 0
    assert "fitted with another body" in caplog.text


def test_a_solver_never_waits_for_pictures(tmp_path):
    with OverlayPool(FitStore(tmp_path), load_body, tmp_path, 1, draw_or_fail) as pool:
        taken = [pool.submit(job, wait=False) for job in rows(*(f"{k}.jpg" for k in range(500)))]
    assert taken[0]
    assert not all(taken), "the queue has no end"


def test_a_worker_that_dies_costs_pictures_only(tmp_path, caplog):
    with OverlayPool(FitStore(tmp_path), load_body, tmp_path, 1, draw_or_fail) as pool:
        pool.submit(rows("deadly.jpg")[0], wait=True)
        pool.finish()
        assert not pool.submit(rows("good.jpg")[0], wait=True)
    assert "the fits go on without" in caplog.text


@pytest.mark.parametrize("has_bbox", [True, False])
def test_the_photo_is_cut_to_the_person(tmp_path, toy_body, has_bbox):
    from tests.random_body import random_params

    photo = np.zeros((400, 600, 3), np.uint8)
    photo[:, :, 1] = 120
    Image.fromarray(photo).save(tmp_path / "a.png")
    params = {k: np.zeros_like(v) for k, v in random_params(toy_body).items()}
    params |= {"global_orient": np.array([np.pi, 0, 0]), "transl": np.array([1.0, 0.2, 8.0])}
    row = params | {
        "focal_px": 500.0, "center_px": np.array([300.0, 200.0]), "has_bbox": has_bbox,
        "bbox_xyxy_px": np.array([320.0, 150, 410, 280]),
    }  # fmt: skip
    pictures = draw_fit(toy_body, row, tmp_path / "a.png")
    assert set(pictures) == {"front", "side", "top"}
    front = pictures["front"].astype(int)
    drawn = np.argwhere((front != [0, 120, 0]).any(-1))
    assert len(drawn) > 100, "there is a body"
    if has_bbox:
        assert front.shape == (222, 182, 3)
        margin = 15  # the body is in the middle of its cut, not shifted by the cut's corner
        assert drawn.min() > margin
        assert (drawn.max(0) < np.array(front.shape[:2]) - margin).all()
    else:
        assert front.shape[1] == 512
