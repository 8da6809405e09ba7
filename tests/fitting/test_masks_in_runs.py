"""python -m fitting.run --silhouette: where masks come from, and what goes wrong with them."""

import logging

import numpy as np
import pytest
from PIL import Image

from curation.samples import PersonObservation
from curation.store import FitStore
from fitting.demo import DemoConfig, make_demo
from fitting.mask_jobs import MaskJob, find_mask_file, start_masker
from fitting.run import main as real_main
from tests.fitting.fakes import FakeFitter, fake_rooms, main

QUIET = ("--overlays", "none", "--log-level", "warning", "--limit", "6", "--workers", "1")


def white(width=640, height=480):
    mask = np.zeros((height, width), np.uint8)
    mask[:, 1 : width - 100] = 255  # all keypoints of the fake people
    return mask


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "photos").mkdir()
    masks = tmp_path / "masks"
    (masks / "images").mkdir(parents=True)
    return tmp_path / "photos", masks


def rows_by_person(data):
    rows = FitStore(data / "fits").iter_rows()
    return {(int(row["image_id"][-8:-4]), row["person_index"]): row for row in rows}


def test_masks_of_a_directory_reach_the_solver_and_bad_ones_are_reasons(
    folders, caplog, monkeypatch
):
    """Photo 0 and 5 show two people, 3 nobody; what cannot be used costs the mask alone."""
    data, masks = folders
    Image.fromarray(white()).save(masks / "images/0000.0.png")
    Image.fromarray(white()).save(masks / "0001.png")  # folders may be left out
    Image.fromarray(white(320, 240)).save(masks / "0002.png")
    (masks / "0004.png").write_bytes(b"no picture")
    Image.fromarray(white() // 255).save(masks / "0005.png")
    given = {}
    fit = FakeFitter.fit

    def spy(self, targets):
        for target in targets:
            given[target.keypoints_2d.tobytes()] = target.silhouette
        return fit(self, targets)

    monkeypatch.setattr(FakeFitter, "fit", spy)
    with caplog.at_level(logging.WARNING):
        code = main([str(data), *QUIET, "--silhouette", str(masks)], fake_rooms())
    assert code == 0
    rows = rows_by_person(data)
    assert len(rows) == 8
    assert {who for who, row in rows.items() if row["silhouette"] == "file"} == {(0, 0), (1, 0)}
    assert all(row["has_fit"] for who, row in rows.items() if who != (3, 0))
    assert sum(field is not None for field in given.values()) == 2
    assert len(given) == 7
    for words in (
        "images/0000.jpg, person 1, is fitted without a mask: there is no 0000.1.png or 0000.png",
        "0002.png must have the size of the upright photo, 640x480, got 320x240",
        "0004.png cannot be read",
        "must be white (255) on the person, its brightest pixel is 1",
    ):
        assert words in caplog.text


def test_off_asks_for_no_mask(folders):
    data, _ = folders
    assert main([str(data), *QUIET], fake_rooms()) == 0
    assert {row["silhouette"] for row in rows_by_person(data).values()} == {""}


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--silhouette", "nowhere"), "expected off, detector or a directory of masks"),
        (("--silhouette", "MASKS"), "holds no PNG file"),
        (("--silhouette", "detector", "--solver", "lbfgs"), "for the fast solver"),
        (("--silhouette", "detector", "--clip"), "for single photos"),
    ],
)
def test_what_cannot_be_is_said_before_the_run(folders, flags, match, capsys):
    data, masks = folders
    flags = [str(masks) if flag == "MASKS" else flag for flag in flags]
    assert main([str(data), *QUIET, *flags], fake_rooms()) == 2
    assert match in capsys.readouterr().err


def test_the_closest_name_counts(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("p.png", "a/p.png", "a/p.1.png"):
        (tmp_path / name).write_bytes(b"")
    assert find_mask_file(tmp_path, "x/a/p.jpg", 0) == (tmp_path / "a/p.png", True)
    assert find_mask_file(tmp_path, "x/a/p.jpg", 1) == (tmp_path / "a/p.1.png", False)
    assert find_mask_file(tmp_path, "x/b/p.jpg", 1) == (tmp_path / "p.png", True)
    assert find_mask_file(tmp_path, "x/b/q.jpg", 0) is None


def person_at(x0, y0, x1, y1):
    rng = np.random.default_rng(0)
    points = np.zeros((145, 3), np.float32)
    points[:20] = np.column_stack([rng.uniform((x0, y0), (x1, y1), (20, 2)), np.ones(20)])
    return PersonObservation("p.jpg", 0, "", 400, 300, keypoints_2d=points)


def test_a_mask_of_everybody_is_cut_to_the_person(tmp_path):
    mask = np.zeros((300, 400), np.uint8)
    mask[50:250, 40:120] = mask[50:250, 280:360] = 255
    Image.fromarray(mask).save(tmp_path / "p.png")
    answer = start_masker()
    person = person_at(45, 55, 115, 245)
    cut = answer(MaskJob(tmp_path / "p.jpg", person, tmp_path / "p.png", shared=True)).field
    assert cut.outline_px[:, 0].max() < 150
    whole = answer(MaskJob(tmp_path / "p.jpg", person, tmp_path / "p.png")).field
    assert whole.outline_px[:, 0].max() > 350
    elsewhere = person_at(150, 50, 250, 250)
    found = answer(MaskJob(tmp_path / "p.jpg", elsewhere, tmp_path / "p.png"))
    assert found.field is None
    assert "of the person's keypoints lie in the mask" in found.problem


@pytest.mark.slow
def test_the_detector_segments_a_rendered_person(tmp_path):
    """All of it: render, detect, segment, fit, store."""
    make_demo(DemoConfig(tmp_path / "demo", 2, 5))
    flags = [*QUIET, "--silhouette", "detector", "--device", "cpu"]
    assert real_main([str(tmp_path / "demo"), *flags]) == 0
    rows = list(FitStore(tmp_path / "demo/fits").iter_rows())
    assert [row["silhouette"] for row in rows] == ["detector"] * 2
    plain = tmp_path / "plain"
    assert real_main([str(tmp_path / "demo"), *QUIET, "--device", "cpu", "--out", str(plain)]) == 0
    by_image = {row["image_id"]: row for row in FitStore(plain).iter_rows()}
    for row in rows:  # the mask moved the shape, and hardly the pose
        other = by_image[row["image_id"]]
        assert np.abs(row["betas"] - other["betas"]).max() > 0.05
        assert np.abs(row["body_pose"] - other["body_pose"]).mean() < 0.05
