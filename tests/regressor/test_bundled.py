"""The image network that comes with the package."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import keypoint_part
from curation.store import FitStore
from regressor.augment import AugmentConfig, make_batch
from regressor.checkpoints import load_model, read_checkpoint
from regressor.export import main as export
from regressor.predict import main as predict
from regressor.synthetic import SyntheticConfig, make_people
from regressor.train import TrainConfig, _start, model_config
from regressor.weights import BUNDLED, weights_file


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def model(body):
    return load_model(body, weights_file(BUNDLED))[0]


def test_the_file_is_small_and_says_where_it_comes_from(body):
    path = weights_file(BUNDLED)
    assert path.stat().st_size < 11e6
    found = read_checkpoint(path)
    assert found.config == model_config("mediapipe")
    assert found.body_sha256 == body.sha256
    provenance = (path.parent / "PROVENANCE.md").read_text()
    assert "photos.safetensors" in provenance and "regressor.train" in provenance


@pytest.mark.slow
def test_it_knows_people_it_has_not_seen(body, model, tmp_path):
    """Against the mean pose where training starts, and hands against the body network's."""
    people = make_people(SyntheticConfig(tmp_path, 60, size=320, seed=993, held_out=True))
    examples = [people[k] for k in range(len(people))]
    batch = make_batch(examples, AugmentConfig.none(), 256, 512, np.random.default_rng(0)).to("cpu")
    with torch.no_grad():
        out = model(batch.pictures)
        flat = model.body.head.mean.expand(len(examples), -1)
        mean = model.assemble(model.layouts["body"].split(flat), batch.pictures.body_crop)
    rows = [FIT_KEYPOINTS.index(name) for name in model.point_names]
    known = batch.targets.keypoints_2d[:, rows]
    parts = [keypoint_part(name) for name in model.point_names]

    def off(found, of):
        mine = torch.tensor([part in of for part in parts]) & (known[..., 2] > 0.1)
        away = (found.points_px - known[..., :2]).norm(dim=-1)
        return float(away[mine].median())

    assert off(out.body, ("body",)) < 0.45 * off(mean, ("body",))
    hands = ("left_hand", "right_hand")
    assert off(out.final, hands) < off(out.body, hands)


def test_training_starts_from_it_where_it_fits(body):
    full = model_config("mediapipe")
    assert _start(TrainConfig(), full, body).config == full
    assert _start(TrainConfig(start=Path("none")), full, body) is None
    assert _start(TrainConfig(size="tiny"), model_config("tiny"), body) is None
    assert _start(TrainConfig(), full, replace(body, sha256="0" * 64)) is None
    assert _start(TrainConfig(size="tiny", start=Path(BUNDLED)), full, body) is not None


@pytest.mark.parametrize("align", ["--align", "--no-align"])
def test_photos_and_boxes_are_enough(rendered, tmp_path, capsys, align):
    photos = rendered[0].picture.path.parent
    rows = [f"{rendered[k].picture.path.name},5,5,155,155" for k in range(3)]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    command = [str(photos), "--checkpoint", BUNDLED, "--boxes", str(tmp_path / "boxes.csv")]
    out = tmp_path / "fits"
    assert predict([*command, "--out", str(out), "--overlays", "0", align]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["people"] == 3
    stored = list(FitStore(out).iter_rows())
    assert [row["status"] for row in stored] == ["ok"] * 3
    assert all(np.isfinite(row["body_pose"]).all() for row in stored)


def test_weights_are_written_in_half_precision(body, model, tmp_path, capsys):
    out = tmp_path / "half.safetensors"
    assert export([BUNDLED, str(out)]) == 0
    assert out.stat().st_size < 1.02 * weights_file(BUNDLED).stat().st_size
    again = load_model(body, out)[0]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-3, rtol=1e-3)
