import json

import numpy as np
import pytest
import torch

from bodymodel.files import load_body
from curation.store import FitStore
from regressor.checkpoints import save_checkpoint
from regressor.expose import Expose, ExposeConfig
from regressor.predict import main


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    body = load_body()
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, Expose(body, ExposeConfig.tiny()), body.sha256, {})
    return path


@pytest.fixture
def photos(rendered, tmp_path):
    """Four photos, one that is none, and the boxes of the people."""
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["photo,x0,y0,x1,y1"]
    for k in range(4):
        example = rendered[k]
        (folder / example.key).write_bytes(example.picture.path.read_bytes())
        low = example.center_px - example.side_px / 2
        high = example.center_px + example.side_px / 2
        lines.append(",".join([example.key, *map(str, [*low, *high])]))
    (folder / "broken.jpg").write_bytes(b"no picture")
    lines.append("broken.jpg,1,2,30,40")
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    return folder


def run(photos, weights, *flags):
    boxes = photos.parent / "boxes.csv"
    return main([str(photos), "--boxes", str(boxes), "--checkpoint", str(weights), *flags])


def test_everybody_becomes_a_row(photos, weights, capsys, tmp_path):
    assert run(photos, weights, "--glb", str(tmp_path / "glb"), "--overlays", "1") == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (last["people"], last["nobody"], last["photos"]) == (4, 1, 5)
    rows = list(FitStore(photos / "fits").iter_rows())
    assert len(rows) == 5
    broken = next(r for r in rows if r["image_id"] == "broken.jpg")
    assert broken["status"] == "image_error" and broken["reason"]
    for row in rows:
        if row["has_fit"]:
            assert np.isfinite(row["body_pose"]).all() and row["transl"][2] > 0
            assert row["body_sha256"] == load_body().sha256
    assert len(list((tmp_path / "glb").rglob("*.glb"))) == 4
    assert len(list((photos / "fits" / "overlays").rglob("*.front.jpg"))) == 1


def test_it_goes_on_where_it_stopped(photos, weights, capsys):
    assert run(photos, weights, "--overlays", "0") == 0
    assert run(photos, weights, "--overlays", "0") == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["people"] == 0
    assert len(list(FitStore(photos / "fits").iter_rows())) == 5


def test_fits_start_from_predictions(photos, weights):
    """A run of predictions is a run like any other: fitting.run --init fits: takes it."""
    from fitting.inits import fits_source

    assert run(photos, weights, "--overlays", "0") == 0
    _, run_id = fits_source(f"fits:{photos / 'fits'}")
    assert run_id.startswith("regressor-")


def test_a_video_is_smoothed_and_written(photos, weights, tmp_path):
    film = tmp_path / "film.mp4"
    assert run(photos, weights, "--overlays", "0", "--video", str(film)) == 0
    assert film.stat().st_size > 1000


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--checkpoint", "nowhere"], "there are no weights at nowhere"),
        (["--boxes", "BAD"], "expected photo,x0,y0,x1,y1"),
    ],
)
def test_bad_usage_is_exit_2(photos, weights, tmp_path, capsys, flags, match):
    bad = tmp_path / "bad.csv"
    bad.write_text("photo,x0,y0,x1,y1\na.jpg,5,5,1,1\n")
    flags = [str(bad) if f == "BAD" else f for f in flags]
    assert run(photos, weights, *flags) == 2
    assert match in capsys.readouterr().err
