import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bodymodel.files import load_body
from regressor.augment import AugmentConfig
from regressor.checkpoints import load_model, read_checkpoint
from regressor.expose import Expose, ExposeConfig
from regressor.losses import LossWeights
from regressor.mixture import Mixture, hold_out
from regressor.train import augmentation, loss_weights, main, model_config
from regressor.training import LoopConfig, Rank, rate_at, train_loop


def trained(folder, rendered, steps=6, stop_at=None, save_every=2):
    torch.manual_seed(0)
    body = load_body()
    model = Expose(body, replace(ExposeConfig.tiny(), parts=False))
    mixture = Mixture([rendered], [1.0], 2, AugmentConfig(), 128, 160, seed=3)
    config = LoopConfig(steps=steps, save_every=save_every, check_every=100, warm_up=1)
    seen = []

    def stop():
        seen.append(1)
        return stop_at is not None and len(seen) >= stop_at

    train_loop(
        model, mixture, config, LossWeights(), folder, Rank(0, 1, torch.device("cpu")),
        body.sha256, stop=stop,
    )  # fmt: skip
    return read_checkpoint(folder / "model.safetensors").state


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_training_that_was_stopped_ends_at_the_same_weights(tmp_path, rendered, cut):
    straight = trained(tmp_path / "a", rendered)
    trained(tmp_path / "b", rendered, stop_at=cut)
    resumed = trained(tmp_path / "b", rendered)
    assert straight.keys() == resumed.keys()
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name
    progress = (tmp_path / "b" / "progress.csv").read_text().splitlines()
    assert progress[0] == "step,name,value"


def test_a_kill_between_saves_loses_steps_but_not_the_course(tmp_path, rendered):
    """What was done since the last save is done again, with the same batches."""
    straight = trained(tmp_path / "a", rendered, save_every=100)
    folder = tmp_path / "b"
    trained(folder, rendered, stop_at=3, save_every=2)  # as if killed: go back to an older state
    resumed = trained(folder, rendered, save_every=100)
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_batches_are_a_function_of_the_step(rendered):
    mixture = Mixture([rendered], [1.0], 2, AugmentConfig(), 64, 96, seed=1)
    other = replace(mixture, rank=1)
    a, b, c = mixture[7], mixture[7], other[7]
    assert torch.equal(a.pictures.source, b.pictures.source)
    assert a.keys == b.keys
    assert not torch.equal(a.pictures.source, c.pictures.source)


def test_held_out_people_are_never_drawn(rendered):
    held = hold_out([rendered], 0.5, seed=0)
    assert 0 < len(held[0]) < len(rendered)
    assert held == hold_out([rendered], 0.5, seed=0)
    mixture = Mixture([rendered], [1.0], 4, AugmentConfig.none(), 32, 48, 0, skip=tuple(held))
    keys = {key for step in range(5) for key in mixture[step].keys}
    assert not keys & {rendered[k].key for k in held[0]}


def test_a_photo_that_cannot_be_read_is_replaced(rendered, tmp_path):
    class Broken:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            from regressor.examples import PictureFile

            return replace(rendered[0], picture=PictureFile(tmp_path / "nowhere.jpg"))

    batch = Mixture([rendered, Broken()], [1, 1], 4, AugmentConfig.none(), 32, 48, 0)[0]
    assert len(batch.keys) == 4
    with pytest.raises(RuntimeError, match="could not be read"):
        Mixture([Broken()], [1], 2, AugmentConfig.none(), 32, 48, 0)[0]


def test_the_rate_warms_up_and_falls():
    config = LoopConfig(steps=100, learning_rate=1.0, warm_up=10)
    assert rate_at(config, 0) == pytest.approx(0.1)
    assert rate_at(config, 30) == 1.0
    assert rate_at(config, 70) == pytest.approx(0.1)
    assert rate_at(config, 99) == pytest.approx(0.01)


def test_a_smooth_rate_falls_all_the_way_and_never_rises():
    config = LoopConfig(steps=100, learning_rate=1.0, warm_up=10, schedule="cosine")
    rates = [rate_at(config, step) for step in range(10, 100)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.95
    assert rate_at(config, 50) == pytest.approx(0.505)
    assert rates[-1] < 0.012


def test_what_a_cpu_trains_is_not_what_was_released():
    """Sizes for a CPU differ where an hour has to do; the others stay ExPose's."""
    assert loss_weights("small", parts=False) == LossWeights()
    assert augmentation("resnet50") == AugmentConfig()
    config = model_config("cpu")
    assert config.dropout == 0
    assert config.joint_features
    assert model_config("hrnet") == ExposeConfig()
    model = Expose(load_body(), config)
    assert sum(p.numel() for p in model.parameters()) * 2 < 12e6  # bytes, in half precision


@pytest.mark.slow
def test_smoke_ends_with_weights_that_predict(tmp_path, capsys):
    assert main(["--smoke", "--out", str(tmp_path / "t")]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["train"] == "done"
    assert last["held_out/pa_mpjpe_mm"] > 0
    model, checkpoint = load_model(load_body(), tmp_path / "t" / "model.safetensors")
    assert checkpoint.config.parts
    assert not model.training
    assert main(["--smoke", "--out", str(tmp_path / "t")]) == 0  # nothing is left to do


def test_no_data_is_said(tmp_path, capsys):
    assert main(["--out", str(tmp_path)]) == 2
    assert "no data" in capsys.readouterr().err
    assert main([str(tmp_path), "--out", str(tmp_path / "t")]) == 2
    assert "no labels of a known layout" in capsys.readouterr().err


def test_shares_are_one_for_each(tmp_path, rendered, capsys):
    root = str(rendered.root)
    assert main([root, "--shares", "1", "2", "--out", str(tmp_path / "t")]) == 2
    assert "one positive number for each of the 1" in capsys.readouterr().err


def test_a_checkpoint_of_another_body_is_refused(tmp_path, rendered):
    trained(tmp_path, rendered, steps=1, save_every=1)
    body = load_body()
    with pytest.raises(ValueError, match="another body"):
        load_model(replace(body, sha256="0" * 64), tmp_path / "model.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_rendered_people_come_again_bit_by_bit(tmp_path, rendered):
    from regressor.synthetic import SyntheticConfig, make_people

    again = make_people(SyntheticConfig(tmp_path, count=12, size=160, occluders=0.0))
    np.testing.assert_array_equal(again.labels["body_pose"], rendered.labels["body_pose"])
    np.testing.assert_array_equal(again[3].picture.load(), rendered[3].picture.load())


def test_parts_do_not_go_on_with_another_body(tmp_path, rendered, capsys):
    """Their own state holds the body that they began with; it would bring that one back."""
    command = [str(rendered.root), "--out", str(tmp_path), "--size", "tiny", "--batch", "2",
               "--part-steps", "2", "--check-every", "2"]  # fmt: skip
    assert main([*command, "--steps", "2"]) == 0
    assert main([*command, "--steps", "2"]) == 0  # again: there is nothing to do
    assert main([*command, "--steps", "4"]) == 2
    assert "move" in capsys.readouterr().err
    (tmp_path / "parts").rename(tmp_path / "parts-before")
    assert main([*command, "--steps", "4"]) == 0
