"""Priors in the files that users have: written here in their formats, read without running them."""

import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn
from torch.nn import functional

from bodymodel.checkpoints import load_checkpoint
from bodymodel.pickles import UnsafePickleError
from bodymodel.rotations import rotvec_to_rotmat
from fitting.prior_choice import load_gmm, load_prior
from fitting.prior_names import prior_file, prior_sha256
from fitting.vposer import SIGMA, VPoser, load_vposer

# --- oracles: the two releases' networks, plainly, in training order of their layers ----------


def decode_sixes(numbers: torch.Tensor) -> torch.Tensor:
    """The releases' 6D rotations: 21 matrices of 3 x 2, columns orthonormalised in turn."""
    a, b = numbers.reshape(-1, 3, 2).unbind(-1)
    x = functional.normalize(a, dim=1)
    y = functional.normalize(b - (x * b).sum(1, keepdim=True) * x, dim=1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1).view(-1, 21, 3, 3)


class ReleaseOne(nn.Module):
    def __init__(self, entries: int):
        super().__init__()
        self.entries = entries
        self.bodyprior_enc_bn1 = nn.BatchNorm1d(entries)
        self.bodyprior_enc_fc1 = nn.Linear(entries, 512)
        self.bodyprior_enc_bn2 = nn.BatchNorm1d(512)
        self.bodyprior_enc_fc2 = nn.Linear(512, 512)
        self.bodyprior_enc_mu = nn.Linear(512, 32)
        self.bodyprior_enc_logvar = nn.Linear(512, 32)
        self.bodyprior_dec_fc1 = nn.Linear(32, 512)
        self.bodyprior_dec_fc2 = nn.Linear(512, 512)
        self.bodyprior_dec_out = nn.Linear(512, 126)

    def mean(self, pose):
        x = rotvec_to_rotmat(pose.view(-1, 21, 3)).flatten(1) if self.entries == 189 else pose
        x = functional.leaky_relu(self.bodyprior_enc_fc1(self.bodyprior_enc_bn1(x)), 0.2)
        x = functional.leaky_relu(self.bodyprior_enc_fc2(self.bodyprior_enc_bn2(x)), 0.2)
        return self.bodyprior_enc_mu(x)

    def rotations(self, code):
        x = functional.leaky_relu(self.bodyprior_dec_fc1(code), 0.2)
        x = functional.leaky_relu(self.bodyprior_dec_fc2(x), 0.2)
        return decode_sixes(self.bodyprior_dec_out(x))


class MeanAndVariance(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu, self.logvar = nn.Linear(512, 32), nn.Linear(512, 32)

    def forward(self, x):
        return self.mu(x)


class ReleaseTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder_net = nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(63), nn.Linear(63, 512), nn.LeakyReLU(),
            nn.BatchNorm1d(512), nn.Dropout(0.1), nn.Linear(512, 512), nn.Linear(512, 512),
            MeanAndVariance(),
        )  # fmt: skip
        self.decoder_net = nn.Sequential(
            nn.Linear(32, 512), nn.LeakyReLU(), nn.Dropout(0.1), nn.Linear(512, 512),
            nn.LeakyReLU(), nn.Linear(512, 126),
        )  # fmt: skip

    def mean(self, pose):
        return self.encoder_net(pose)

    def rotations(self, code):
        return decode_sixes(self.decoder_net(code))


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, and batch norms that have seen data."""
    g = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        spread = 0.3 * torch.rand(value.shape, generator=g) + 0.85
        noise = torch.randn(value.shape, generator=g)
        is_scale = name.endswith(("running_var", "bn1.weight", "bn2.weight")) or (
            value.dim() == 1 and name.endswith("weight")
        )
        fan_in = value.shape[1] if value.dim() == 2 else 25
        value.copy_(spread if is_scale else noise * fan_in**-0.5)
    return model.eval()


def some_poses(count: int, seed: int = 1) -> torch.Tensor:
    return 0.5 * torch.randn(count, 63, generator=torch.Generator().manual_seed(seed))


# Classes that the file names and that are gone when it is read.
class Settings(dict):
    def __init__(self, values):
        super().__init__(values)
        self.secret = values


def write_lightning(path, model, protocol: int = 2):
    state = OrderedDict((f"vp_model.{k}", v) for k, v in model.state_dict().items())
    state["bm_train.v_template"] = torch.zeros(3, 3)  # the body it was trained with
    torch.save(
        {
            "epoch": 13,
            "global_step": 7,
            "pytorch-lightning_version": "1.1.8",
            "state_dict": state,
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.001}]}],
            "hyper_parameters": Settings({"num_neurons": 512, "nested": Settings({"a": [1, 2]})}),
            "callbacks": {Settings: {"best": np.float64(0.03)}},
        },
        path,
        pickle_protocol=protocol,
    )


@pytest.fixture(params=["1.0, matrices", "1.0, angles", "02_05"])
def release(request, tmp_path):
    snapshots = tmp_path / "vposer" / "snapshots"
    snapshots.mkdir(parents=True)
    if request.param == "02_05":
        model = trained(ReleaseTwo())
        write_lightning(snapshots / "V02_05_epoch=13_val_loss=0.03.ckpt", model)
        (tmp_path / "vposer" / "V02_05.yaml").write_text("model_params: {latentD: 32}\n")
    else:
        model = trained(ReleaseOne(189 if "matrices" in request.param else 63))
        torch.save(
            model.state_dict(), snapshots / "TR00_E096.pt", _use_new_zipfile_serialization=False
        )
    return model, tmp_path / "vposer"


def test_vposer_says_what_its_network_says(release):
    model, folder = release
    vposer = load_vposer(folder).to(torch.float32)
    pose, code = some_poses(5), torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(vposer.encode(pose), model.mean(pose), rtol=1e-4, atol=1e-4)
        decoded = rotvec_to_rotmat(vposer.decode(code).view(-1, 21, 3))
        torch.testing.assert_close(decoded, model.rotations(code), rtol=1e-4, atol=1e-4)
        start = rotvec_to_rotmat(vposer.start.view(1, 21, 3))
        torch.testing.assert_close(start, model.rotations(torch.zeros(1, 32)), rtol=1e-4, atol=1e-4)


def test_energy_is_the_networks_bound(release):
    model, folder = release
    pose = some_poses(4)
    with torch.no_grad():
        code = model.mean(pose)
        far = rotvec_to_rotmat(pose.view(-1, 21, 3)) - model.rotations(code)
        expected = code.square().sum(1) + far.square().sum((1, 2, 3)) / (2 * SIGMA**2)
    energy = load_vposer(folder).to(torch.float32).energy(pose)
    torch.testing.assert_close(2 * energy, expected, rtol=1e-4, atol=1e-3)


def test_quadratic_agrees_with_automatic_differentiation(release):
    vposer = load_vposer(release[1])
    pose = some_poses(3).double()
    energy, pull, stiff = vposer.quadratic(pose)
    torch.testing.assert_close(energy, 2 * vposer.energy(pose))
    x = pose.clone().requires_grad_()
    (slope,) = torch.autograd.grad(vposer.energy(x).sum(), x)
    torch.testing.assert_close(pull, slope)
    residual, jacobian = vposer.residual_and_jacobian(pose)
    torch.testing.assert_close(residual.square().sum(-1), energy)
    torch.testing.assert_close(stiff, jacobian.mT @ jacobian)

    def numeric(k: int, h: float = 1e-6) -> torch.Tensor:
        step = h * torch.eye(63, dtype=torch.float64)[k]
        up, down = (vposer.residual_and_jacobian(pose + s * step)[0] for s in (1, -1))
        return (up - down) / (2 * h)

    for k in (0, 17, 40, 62):
        torch.testing.assert_close(jacobian[..., k], numeric(k), rtol=1e-5, atol=1e-6)


def test_a_batch_gives_what_items_give(release):
    vposer = load_vposer(release[1])
    pose = some_poses(6).double().view(2, 3, 63)
    whole = vposer.quadratic(pose)
    assert [tuple(x.shape) for x in whole] == [(2, 3), (2, 3, 63), (2, 3, 63, 63)]
    for got, alone in zip(whole, vposer.quadratic(pose[1, 2]), strict=True):
        torch.testing.assert_close(got[1, 2], alone)


def test_the_prior_is_chosen_by_its_path(release):
    folder = release[1]
    assert isinstance(load_prior(str(folder)), VPoser)
    file = next((folder / "snapshots").iterdir())
    assert prior_file(str(folder)) == prior_file(str(file)) == file
    assert prior_sha256(str(folder)) == prior_sha256(str(file)) != prior_sha256("open") is None


@pytest.mark.parametrize("spoil", ["a layer", "the sizes", "everything"])
def test_another_network_is_refused_in_words(tmp_path, spoil):
    state = trained(ReleaseOne(63)).state_dict()
    if spoil == "a layer":
        del state["bodyprior_enc_mu.weight"]
    elif spoil == "the sizes":
        state["bodyprior_dec_out.weight"] = torch.zeros(9 * 21, 512)
    else:
        state = {"weight": torch.zeros(3)}
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"no VPoser of a known layout"):
        load_vposer(tmp_path / "x.pt")


@pytest.mark.parametrize("choice", ["vposer", "./gmm_08.pkl", ""])
def test_what_is_not_there_is_refused_in_words(tmp_path, choice, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="VPoser"):
        load_prior(choice)


# --- checkpoints ----------------------------------------------------------------------------------


class Command:
    """What a malicious file does: asks to run a function."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_checkpoint_runs_nothing(tmp_path, new_format):
    pwned = tmp_path / "pwned"
    weight = torch.arange(6.0).view(2, 3)
    content = {"state_dict": {"w": weight}, "hyper_parameters": Command(pwned)}
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=new_format)
    if new_format:
        torch.testing.assert_close(load_checkpoint(tmp_path / "x.ckpt")["state_dict"]["w"], weight)
    else:
        with pytest.raises(UnsafePickleError):
            load_checkpoint(tmp_path / "x.ckpt")
    assert not pwned.exists()


def test_tensors_of_any_kind_come_back_beside_unknown_objects(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    tensors = {
        "whole": base, "part": base[1:3, ::2], "turned": base.T, "half": base.half(),
        "long": torch.arange(3), "empty": torch.zeros(0, 2), "number": torch.tensor(2.5),
        "parameter": nn.Parameter(base + 1),
    }  # fmt: skip
    torch.save({"t": tensors, "extra": Settings({"a": 1})}, tmp_path / "x.pt")
    got = load_checkpoint(tmp_path / "x.pt")["t"]
    for name, value in tensors.items():
        assert torch.equal(got[name], value), name


def test_a_file_cannot_reach_beyond_its_storage(tmp_path):
    torch.save({"w": torch.zeros(4), "extra": Settings({"a": 1})}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / "y.pt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                wanted = b"K\x04\x85"  # size (4,)
                assert data.count(wanted) == 1
                data = data.replace(wanted, b"K\xff\x85")
            new.writestr(name, data)
    with pytest.raises(ValueError, match="reaches entry"):
        load_checkpoint(tmp_path / "y.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_damaged_checkpoints_are_refused_in_words(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as a torch checkpoint"):
        load_checkpoint(tmp_path / "x.pt")


# --- SMPLify's mixture ----------------------------------------------------------------------------


def gaussians(count: int = 8, dim: int = 69) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    root = 0.2 * rng.normal(size=(count, dim, dim)) / dim**0.5
    return {
        "means": 0.3 * rng.normal(size=(count, dim)),
        "covars": root @ np.swapaxes(root, 1, 2) + 0.02 * np.eye(dim),
        "weights": rng.dirichlet(np.ones(count)),
    }


def write_gmm(path, content, protocol: int = 2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_the_mixture_is_the_marginal_without_the_hands(tmp_path, protocol):
    content = gaussians()
    prior = load_gmm(write_gmm(tmp_path / "gmm_08.pkl", content, protocol))
    pose = 0.4 * np.random.default_rng(1).normal(size=(20, 63))
    log = np.stack(
        [
            np.log(w) + multivariate_normal(m[:63], c[:63, :63]).logpdf(pose)
            for m, c, w in zip(*content.values(), strict=True)
        ]
    )
    expected = -log.max(0)
    got = prior.energy(torch.as_tensor(pose)).numpy()
    np.testing.assert_allclose(got - got[0], expected - expected[0], atol=1e-8)
    assert len(set(prior.component(torch.as_tensor(pose)).tolist())) > 1
    assert prior.start.shape == (63,)


def test_it_is_chosen_by_its_path(tmp_path):
    path = write_gmm(tmp_path / "gmm_08.pkl", gaussians(dim=63))
    assert len(load_prior(str(path)).means) == 8


def test_a_mixture_runs_nothing(tmp_path):
    pwned = tmp_path / "pwned"
    path = write_gmm(tmp_path / "gmm_08.pkl", gaussians() | {"x": Command(pwned)})
    with pytest.raises(UnsafePickleError):
        load_gmm(path)
    assert not pwned.exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"covars": None}, "numbers|expected means"),
        ({"means": np.zeros((8, 70))}, "expected means"),
        ({"weights": -np.ones(8)}, "positive"),
        ({"covars": -np.stack([np.eye(69)] * 8)}, "positive definite"),
    ],
)
def test_other_mixtures_are_refused_in_words(tmp_path, spoil, says):
    with pytest.raises(ValueError, match=says):
        load_gmm(write_gmm(tmp_path / "gmm.pkl", gaussians() | spoil))
    with pytest.raises(ValueError, match="lacks covars"):
        content = gaussians()
        del content["covars"]
        load_gmm(write_gmm(tmp_path / "gmm.pkl", content))
