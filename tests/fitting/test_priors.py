import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bodymodel.skeleton import mirror_pose
from fitting import prior_training as training
from fitting.learned_prior import load_learned_prior
from fitting.limits import SUGGESTED_WEIGHT, joint_limits
from fitting.priors import PosePrior, load_pose_prior


def mixture(seed: int, components: int = 4) -> PosePrior:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    costs = draw(components).abs()
    return PosePrior(draw(components, 63), draw(components, 63, 63), costs - costs.min())


@pytest.fixture(params=["shipped", "mixture"])
def prior(request) -> PosePrior:
    return load_pose_prior(dtype=torch.float64) if request.param == "shipped" else mixture(3)


@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0, 2))
@settings(max_examples=20, deadline=None)
def test_jacobian_is_that_of_autodiff(seed: int, scale: float):
    pose = scale * torch.randn(63, generator=torch.Generator().manual_seed(seed)).double()
    for prior in (load_pose_prior(dtype=torch.float64), mixture(seed)):
        _, jacobian = prior.residual_and_jacobian(pose)
        expected = torch.autograd.functional.jacobian(prior.residual, pose)
        torch.testing.assert_close(jacobian, expected)


def test_energy_is_half_the_squared_residual(prior: PosePrior):
    pose = torch.randn(7, 5, 63, generator=torch.Generator().manual_seed(0)).double()
    residual, jacobian = prior.residual_and_jacobian(pose)
    assert residual.shape == (7, 5, prior.num_residuals)
    assert jacobian.shape == (7, 5, prior.num_residuals, 63)
    torch.testing.assert_close(residual, prior.residual(pose))
    torch.testing.assert_close(0.5 * residual.square().sum(-1), prior.energy(pose))


def test_batch_gives_what_items_give(prior: PosePrior):
    pose = torch.randn(6, 63, generator=torch.Generator().manual_seed(1)).double()
    one_by_one = torch.stack([prior.residual(p) for p in pose])
    torch.testing.assert_close(prior.residual(pose), one_by_one)
    assert len(set(prior.component(pose).tolist())) > 1 or len(prior.means) == 1


def test_a_gauss_newton_step_finds_a_component_s_minimum():
    prior = mixture(5)
    start = prior.means[2] + 1e-3
    residual, jacobian = prior.residual_and_jacobian(start)
    step = torch.linalg.lstsq(jacobian, -residual[:, None]).solution[:, 0]
    torch.testing.assert_close(start + step, prior.means[2])


def test_shipped_prior_knows_no_handedness(mocap_poses):
    prior = load_pose_prior(dtype=torch.float64)
    pose = mocap_poses.body_pose.astype(np.float64)
    here, mirrored = (
        prior.energy(torch.as_tensor(p.reshape(-1, 63))) for p in (pose, mirror_pose(pose))
    )
    torch.testing.assert_close(here, mirrored, rtol=1e-3, atol=1e-3)


def auc(mocap_poses, corrupt, energy) -> float:
    real = mocap_poses.body_pose[~mocap_poses.diverse].astype(np.float64)
    pair = (torch.as_tensor(p.reshape(-1, 63), dtype=torch.float32) for p in (real, corrupt(real)))
    return training.roc_auc(*(energy(p).numpy() for p in pair))


@pytest.mark.parametrize(
    ("corrupt", "default", "learned", "with_limits"),
    [
        (lambda x: training.shuffle_joints(x, np.random.default_rng(0)), 0.88, 0.92, 0.92),
        (lambda x: training.turn_one_joint(x, np.random.default_rng(0)), 0.91, 0.93, 0.94),
        (training.bend_knees_backwards, 0.88, 0.90, 0.99),
    ],
    ids=["joints shuffled", "joint turned", "knees backwards"],
)
def test_priors_tell_poses_from_what_is_none(mocap_poses, corrupt, default, learned, with_limits):
    gaussian, network = load_pose_prior(), load_learned_prior(dtype=torch.float32)

    def limited(pose: torch.Tensor) -> torch.Tensor:
        full = torch.zeros(*pose.shape[:-1], 165)
        full[..., 3:66] = pose
        outside = joint_limits().residual(full, SUGGESTED_WEIGHT)
        return network.energy(pose) + 0.5 * outside.square().sum(-1)

    assert auc(mocap_poses, corrupt, gaussian.energy) >= default
    assert auc(mocap_poses, corrupt, network.energy) >= learned
    assert auc(mocap_poses, corrupt, limited) >= with_limits
    # And do not do so by accident: what is not corrupted is not told apart.
    assert auc(mocap_poses, lambda x: x, limited) == pytest.approx(0.5)


def test_float32_is_good_enough(mocap_poses):
    pose = torch.as_tensor(mocap_poses.body_pose.reshape(-1, 63))
    single, double = load_pose_prior(), load_pose_prior(dtype=torch.float64)
    torch.testing.assert_close(
        single.energy(pose).double(), double.energy(pose.double()), rtol=1e-4, atol=1e-3
    )


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(\.\.\., 63\).*flatten"):
        load_pose_prior().residual(torch.zeros(2, 21, 3))
    with pytest.raises(ValueError, match=r"PosePrior\.costs"):
        PosePrior(torch.zeros(1, 63), torch.zeros(1, 63, 63), torch.zeros(2))


# --- estimation ------------------------------------------------------------------------------


def test_one_gaussian_recovers_mean_and_covariance():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(63, 63)) * 0.1
    x = rng.normal(size=(4000, 63)) @ factor.T
    x = np.concatenate([x, mirror_pose(x.reshape(-1, 21, 3)).reshape(-1, 63)])
    model = training.fit_gaussians(x.reshape(-1, 21, 3), np.full(len(x), 1 / len(x)))
    covariance = np.linalg.inv(model.whitening[0].T @ model.whitening[0])
    excess = covariance - np.cov(x.T, bias=True)
    # What is added to the data's covariance is the floor: diagonal, at most 15 degrees.
    assert np.abs(excess - np.diag(np.diag(excess))).max() < 1e-9
    assert np.diag(excess).min() > 0 and np.diag(excess).max() < np.radians(15.1) ** 2


def test_mixture_separates_two_clusters_and_mirrors_them():
    rng = np.random.default_rng(1)
    first = rng.normal(size=(300, 21, 3)) * 0.1 + 0.5
    second = rng.normal(size=(300, 21, 3)) * 0.1 - 0.8
    pose = np.concatenate([first, second])
    weights = np.full(600, 1 / 600)
    model = training.fit_gaussians(pose, weights, pairs=2, iterations=10)
    assert model.means.shape == (4, 63)
    for centre in (first.mean(0), second.mean(0)):
        assert np.abs(model.means - centre.reshape(63)).max(1).min() < 0.05
    np.testing.assert_allclose(
        training.energy(model, pose), training.energy(model, mirror_pose(pose)), rtol=1e-6
    )
    numpy_energy = training.energy(model, pose)
    torch_energy = PosePrior(*map(torch.as_tensor, (model.means, model.whitening, model.costs)))
    np.testing.assert_allclose(
        numpy_energy, torch_energy.energy(torch.as_tensor(pose.reshape(-1, 63))), rtol=1e-9
    )


@given(st.lists(st.floats(0, 10), min_size=1), st.lists(st.floats(0, 10), min_size=1))
@settings(max_examples=50)
def test_auc_counts_pairs(real: list[float], corrupted: list[float]):
    a, b = np.array(real)[:, None], np.array(corrupted)
    expected = ((b > a) + 0.5 * (b == a)).mean()
    assert training.roc_auc(np.array(real), b) == pytest.approx(expected)


def test_subject_weights_grow_with_the_root_of_the_frames():
    weights = training.subject_weights(np.array(["a"] * 4 + ["b"] * 16))
    assert weights.sum() == pytest.approx(1)
    assert weights[4:].sum() / weights[:4].sum() == pytest.approx(2)
