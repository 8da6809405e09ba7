from dataclasses import replace

import numpy as np
import pytest
import torch

from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from regressor import mediapipe_encoders
from regressor.augment import AugmentConfig, make_batch
from regressor.backbones import Backbone, BackboneConfig
from regressor.checkpoints import load_model, save_checkpoint
from regressor.expose import Expose
from regressor.mediapipe_encoders import MediaPipeEncoder
from regressor.train import model_config

SIZES = {"pose": 256, "hand": 224, "face": 192}


@pytest.fixture(scope="module", params=SIZES)
def encoder(request):
    return request.param, Backbone(BackboneConfig(f"mediapipe_{request.param}"))


def test_maps_have_the_strides_and_channels_they_say(encoder):
    part, backbone = encoder
    size = SIZES[part]
    maps = backbone.eval()(torch.rand(2, 3, size, size))
    assert list(maps) == sorted(backbone.channels) and max(maps) == size
    for stride, features in maps.items():
        assert features.shape == (2, backbone.channels[stride], size // stride, size // stride)
        assert torch.isfinite(features).all()


def test_nothing_in_them_is_trained_or_saved(encoder):
    _, backbone = encoder
    assert not list(backbone.parameters())
    assert all("scale" in key for key in backbone.state_dict())


def test_the_pose_network_knows_rendered_people(rendered):
    """Its landmarks, which the head is given, are where the people's joints are."""
    examples = [rendered[k] for k in range(len(rendered))]
    plain = AugmentConfig(rotation_share=0, scale=0, shift=0, flip_share=0, upright_share=1.0)
    batch = make_batch(examples, plain, 256, 384, np.random.default_rng(0)).to("cpu")
    numbers = MediaPipeEncoder("pose").eval()(batch.pictures.look(batch.pictures.body_crop))
    # 39 landmarks of 5 numbers, then 39 of 3, end the numbers of the whole crop
    landmarks = numbers[256][:, :, 0, 0][:, -39 * 8 : -39 * 3].unflatten(1, (39, 5))
    blaze = {11: "left_shoulder", 12: "right_shoulder", 25: "left_knee", 26: "right_knee"}
    rows = [FIT_KEYPOINTS.index(name) for name in blaze.values()]
    truth = batch.pictures.body_crop.to_crop(batch.targets.keypoints_2d[:, rows, :2])
    found = (landmarks[:, list(blaze), :2] + 0.5) * 256
    assert (found - truth).norm(dim=-1).median() < 0.06 * 256


def test_a_model_upon_them_comes_back_from_its_file_alone(tmp_path):
    body = load_body()
    torch.manual_seed(0)
    model = Expose(body, replace(model_config("mediapipe"), hidden=32)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    save_checkpoint(tmp_path / "m.safetensors", model, body.sha256, {})
    # 11 MB of encoders in single precision stay in MediaPipe's wheel
    assert (tmp_path / "m.safetensors").stat().st_size < 6e6
    again, checkpoint = load_model(body, tmp_path / "m.safetensors")
    assert checkpoint.config == model.config
    crop = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        torch.testing.assert_close(again.body(crop)[-1], model.body(crop)[-1])
        hand = torch.rand(1, 3, 224, 224)
        torch.testing.assert_close(again.hand(hand)[-1], model.hand(hand)[-1])


def test_another_file_than_the_known_one_is_refused(monkeypatch):
    files = dict(mediapipe_encoders._FILES)
    files["face"] = replace(files["face"], sha256="0" * 64)
    monkeypatch.setattr(mediapipe_encoders, "_FILES", files)
    with pytest.raises(ValueError, match=r"not the network that is known here.*pip install"):
        MediaPipeEncoder("face")
    files["face"] = replace(files["face"], name="face_landmark/gone.tflite")
    with pytest.raises(ValueError, match="got no such file"):
        MediaPipeEncoder("face")


def test_without_mediapipe_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(mediapipe_encoders, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install 'mediapipe"):
        MediaPipeEncoder("hand")
