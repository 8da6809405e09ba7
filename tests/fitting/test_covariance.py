import numpy as np
import pytest
import torch

from fitting.covariance import Rivals, joint_covariance
from fitting.fit import Fitter
from fitting.search import search_answers
from fitting.uncertainty import UncertaintyConfig, joint_std_mm, pack_mm2, unpack_mm2
from tests.fitting.people import make_people


@pytest.fixture(scope="module")
def fitter(toy_body):
    return Fitter(toy_body, dtype="float64")


@pytest.fixture(scope="module")
def solved(fitter, toy_body):
    targets, _, _ = make_people(toy_body, 3)
    search = search_answers(fitter.prepared, targets)
    final, _ = search.kept.best()
    x = final.x[:, 0]
    return search.energy, search.energy(x).matrix, x, fitter.prepared.body_joints


def test_covariances_are_covariances_and_widest_in_depth(solved):
    covariance = joint_covariance(*solved, UncertaintyConfig())
    torch.testing.assert_close(covariance, covariance.mT)
    assert (torch.linalg.eigvalsh(covariance) > 0).all()
    variance = covariance.diagonal(dim1=-2, dim2=-1).median(0).values
    wrists = variance[[20, 21]]
    assert (wrists[:, 2] > wrists[:, :2].amax(1)).all()
    assert variance[0, 2] > 4 * variance[0, 0]  # how far the person is


def test_noisier_points_make_it_wider(fitter, toy_body):
    spread = []
    for noise in (1.0, 6.0):
        targets, _, _ = make_people(toy_body, 3, noise_px=noise)
        fits = fitter.fit(targets)
        spread.append(np.median([joint_std_mm(f.joint_covariance_mm2)["arms"] for f in fits]))
    assert spread[1] > spread[0]


def test_a_rival_adds_the_variance_of_the_choice(fitter, solved):
    x = solved[2]
    here = fitter.prepared.joints(x)
    there = here.clone()
    there[:, 21, 2] += 0.4
    config = UncertaintyConfig()
    plain = joint_covariance(*solved, config)
    even = Rivals(there[:, None], torch.zeros(3, 1).double())
    added = joint_covariance(*solved, config, even) - plain
    torch.testing.assert_close(added[:, 21, 2, 2], torch.full((3,), 0.04).double())
    assert added[:, 20].abs().max() < 1e-12
    none = Rivals(there[:, None], torch.full((3, 1), torch.inf).double())
    torch.testing.assert_close(joint_covariance(*solved, config, none), plain)


def test_packing_is_undone():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(22, 3, 3))
    covariance = root @ root.swapaxes(1, 2)
    packed = pack_mm2(covariance)
    np.testing.assert_allclose(unpack_mm2(packed), 1e6 * covariance, rtol=1e-6)
    std = joint_std_mm(packed)
    assert std["place"] == pytest.approx(1000 * np.sqrt(np.trace(covariance[0])), rel=1e-6)
    assert set(std) == {"place", "trunk", "arms", "legs"}
