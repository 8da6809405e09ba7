"""regressor.predict without weights of one's own: the lifter that comes with the package."""

import json
import socket

import numpy as np
import pytest
from PIL import Image

from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import keypoint_part
from curation.reproject import Reprojector
from curation.store import FitStore
from regressor.people_regressors import MIN_POINTS
from regressor.predict import main
from tests.regressor.labelled_photos import openpose_json, write_labelled

LEFT_FINGERS = [k for k, name in enumerate(FIT_KEYPOINTS) if keypoint_part(name) == "left_hand"]


@pytest.fixture
def photos(rendered, tmp_path):
    return write_labelled(rendered, tmp_path / "photos", 6)


def run(photos, *flags):
    return main([str(photos), "--keypoints", "annotations", "--device", "cpu", *flags])


def last_line(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def stored(photos):
    return {row["image_id"]: row for row in FitStore(photos / "fits").iter_rows()}


def test_everybody_becomes_a_row_and_nothing_is_downloaded(rendered, photos, capsys, monkeypatch):
    def refuse(*_):
        raise AssertionError("something wants to be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert run(photos, "--overlays", "1") == 0
    out = capsys.readouterr().out
    last = json.loads(out.strip().splitlines()[-1])
    assert (last["people"], last["nobody"], last["photos"]) == (6, 2, 8)
    assert last["run_id"].startswith("lifter-")
    assert "a second" in out and "median px" in out and "image_error" in out
    rows = stored(photos)
    assert rows["q-meadow.jpg"]["status"] == "no_person" and rows["q-meadow.jpg"]["reason"]
    assert rows["r-broken.jpg"]["status"] == "image_error" and rows["r-broken.jpg"]["reason"]
    again = Reprojector.for_body(load_body())
    for row in rows.values():
        if not row["has_fit"]:
            assert np.isnan(row["transl"]).all()
            continue
        assert row["transl"][2] > 0
        hand = rendered[int(row["image_id"][1])].keypoints_2d[LEFT_FINGERS, 2]
        assert row["has_left_hand"] == bool((hand > 0).any())
        assert row["keypoint_places"] and row["focal_source"] == "default"
        assert row["residual_body_pct"] < 0.8  # measured: 0.46 to 0.64
        np.testing.assert_allclose(again.residuals(row), row["residual_px"], atol=0.02)
    drawn = (photos / "fits" / "overlays").rglob("*.jpg")
    assert sorted(path.name.split(".")[1] for path in drawn) == ["front", "side", "top"]


def test_bodies_are_those_of_the_picture(rendered, photos):
    """Joints of the body against the rendered truth, the pelvis at the origin."""
    from curation.reproject import posed_joints

    assert run(photos, "--overlays", "0") == 0
    body, errors, rest_errors = load_body(), [], []
    for name, row in stored(photos).items():
        if not row["has_fit"]:
            continue
        truth = rendered[int(name[1])].params | {"transl": np.zeros(3)}
        real, found = posed_joints(body, truth)[:22], posed_joints(body, row)[:22]
        standing = truth | {"body_pose": np.zeros((21, 3))}
        flat = posed_joints(body, standing)[:22]
        for errors_of, joints in ((errors, found), (rest_errors, flat)):
            errors_of.append(
                np.linalg.norm((joints - joints[0]) - (real - real[0]), axis=-1).mean()
            )
    # measured: 0.053; the T-pose, turned as the person is and of the true shape: 0.181
    assert np.mean(errors) < 0.06 and np.mean(rest_errors) > 0.15


def test_another_setting_is_another_run(photos, capsys):
    assert run(photos, "--overlays", "0") == 0
    first = last_line(capsys)["run_id"]
    assert run(photos, "--overlays", "0") == 0
    again = last_line(capsys)
    assert again["run_id"] == first and again["people"] == 0
    assert run(photos, "--overlays", "0", "--focal-px", "300") == 0
    other = last_line(capsys)
    assert other["run_id"] != first and other["people"] == 6
    for row in FitStore(photos / "fits").iter_rows(run_id=other["run_id"]):
        assert not row["has_fit"] or (row["focal_px"], row["focal_source"]) == (300, "given")


def test_too_few_points_are_a_row_with_a_reason(photos, rendered):
    points = rendered[0].keypoints_2d.copy()
    points[np.argsort(-points[:, 2])[MIN_POINTS - 2 :], 2] = 0
    (photos / "keypoints" / "p0_keypoints.json").write_text(openpose_json([points]))
    assert run(photos, "--overlays", "0") == 0
    row = stored(photos)["p0.jpg"]
    assert row["status"] == "too_few_keypoints" and "needs 6" in row["reason"]


class StopsAfterOne:
    """A Ctrl-C that comes while the first batch is worked on."""

    signal = 2

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def frames_of(film):
    import cv2

    reader = cv2.VideoCapture(str(film))
    frames = []
    while True:
        is_there, frame = reader.read()
        if not is_there:
            reader.release()
            return frames
        frames.append(frame)


def test_a_run_that_was_stopped_leaves_what_one_that_ran_through_leaves(
    photos, rendered, tmp_path, capsys, monkeypatch
):
    whole = write_labelled(rendered, tmp_path / "whole", 6)
    for folder in (whole, photos):
        film, meshes = folder.parent / f"{folder.name}.mp4", folder / "glb"
        flags = ("--overlays", "0", "--batch", "2", "--glb", str(meshes), "--video", str(film))
        if folder is photos:
            with monkeypatch.context() as patch:
                patch.setattr("curation.stopping.StopSignals", StopsAfterOne)
                assert run(photos, *flags) == 130
            assert last_line(capsys)["people"] == 2
            assert len(list(meshes.rglob("*.glb"))) == 2 and not film.exists()
            next(meshes.rglob("*.glb")).unlink()  # the rows were written, then the power went
        assert run(folder, *flags) == 0
    ours, theirs = (
        {p.name: p.read_bytes() for p in (f / "glb").glob("*.glb")} for f in (photos, whole)
    )
    assert len(ours) == 6 and ours == theirs
    film, other = (frames_of(tmp_path / f"{name}.mp4") for name in ("photos", "whole"))
    assert len(film) == 7  # six with a body, the meadow as it is
    np.testing.assert_array_equal(film, other)
    plain = np.asarray(Image.open(photos / "q-meadow.jpg"))[..., ::-1].astype(int)
    assert np.abs(film[-1].astype(int) - plain).mean() < 6
    assert np.abs(film[0].astype(int) - plain).mean() > 6


def test_meshes_of_another_run_are_replaced(photos, tmp_path):
    meshes = tmp_path / "glb"
    assert run(photos, "--overlays", "0", "--focal-px", "150") == 0
    assert run(photos, "--overlays", "0", "--glb", str(meshes)) == 0
    near = {path.name: path.read_bytes() for path in meshes.rglob("*.glb")}
    # all its rows are there already
    assert run(photos, "--overlays", "0", "--glb", str(meshes), "--focal-px", "150") == 0
    far = {path.name: path.read_bytes() for path in meshes.rglob("*.glb")}
    assert near.keys() == far.keys() and all(near[name] != far[name] for name in near)


def test_nobody_in_any_photo(tmp_path, capsys):
    """The detector itself finds nobody; there is no film, and no error."""
    pytest.importorskip("mediapipe")
    folder = tmp_path / "empty"
    folder.mkdir()
    Image.new("RGB", (120, 90), (90, 120, 90)).save(folder / "a.png")
    (folder / "boxes.csv").write_text("a.png,10,10,60,80\n")
    film = tmp_path / "film.mp4"
    assert main([str(folder), "--video", str(film)]) == 0
    assert last_line(capsys)["nobody"] == 1 and not film.exists()
    assert main([str(folder), "--boxes", str(folder / "boxes.csv")]) == 0
    assert last_line(capsys)["nobody"] == 1
    assert {row["status"] for row in FitStore(folder / "fits").iter_rows()} == {"no_person"}


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--focal-px", "-1"], "must be above 0"),
        (["--batch", "0"], "at least 1"),
        (["--workers", "0"], "at least 1"),
        (["--video", "film.avi"], "writes .mp4"),
        (["--boxes", "nowhere.csv"], "cannot be read as a CSV"),
        (["--dataset", "mpii"], ""),
    ],
)
def test_bad_usage_is_exit_2(photos, capsys, flags, match):
    assert main([str(photos), *flags]) == 2
    assert match in capsys.readouterr().err


def test_a_source_of_keypoints_that_does_not_exist_is_exit_2_and_names_those_that_do(
    photos, capsys
):
    with pytest.raises(SystemExit) as error:
        main([str(photos), "--keypoints", "crystal"])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert "crystal" in message and "mediapipe" in message
