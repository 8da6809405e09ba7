import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bodymodel.mocap import packaged_motion
from bodymodel.skeleton import forward_kinematics, mirror_pose
from bodymodel.spec import BODY_JOINTS
from fitting import corruptions
from fitting import prior_training as training
from fitting.learned_prior import LearnedPrior, load_learned_prior
from fitting.prior_choice import load_prior
from fitting.prior_network import TrainingConfig, train_prior
from fitting.priors import load_pose_prior


def random_prior(seed: int) -> LearnedPrior:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    root = draw(63, 63)
    return LearnedPrior(
        draw(63), root @ root.mT, (draw(10, 63) / 8, draw(12, 10) / 3, draw(5, 12)),
        (draw(10), draw(12), draw(5)), tail=float(draw(1).exp()) * 20,
    )  # fmt: skip


@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0, 2))
@settings(max_examples=20, deadline=None)
def test_quadratic_agrees_with_automatic_differentiation(seed: int, scale: float):
    prior = random_prior(seed)
    pose = scale * torch.randn(2, 3, 63, generator=torch.Generator().manual_seed(seed)).double()
    pose.requires_grad_()
    (slope,) = torch.autograd.grad(prior.energy(pose).sum(), pose)
    energy, pull, stiff = prior.quadratic(pose.detach())
    torch.testing.assert_close(energy, 2 * prior.energy(pose).detach())
    torch.testing.assert_close(pull, slope)
    assert stiff.shape == (2, 3, 63, 63)
    assert torch.linalg.eigvalsh(stiff).min() > 0


def test_the_matrix_is_gauss_newton_s():
    """Where the residuals vanish it is the whole second derivative."""
    prior = random_prior(3)
    with torch.no_grad():
        hidden = prior.biases[0].tanh()
        hidden = (prior.weights[1] @ hidden + prior.biases[1]).tanh()
        prior.biases[2].copy_(-prior.weights[2] @ hidden)  # so g(mean) = 0
    hessian = torch.autograd.functional.hessian(prior.energy, prior.mean.clone())
    torch.testing.assert_close(prior.quadratic(prior.mean)[2], hessian)


@pytest.fixture(scope="module")
def held_out() -> np.ndarray:
    motion = packaged_motion().split()[1]
    assert set(motion.subject) == {"05", "10"}
    return motion.body_pose.astype(np.float64)


def energy(prior, pose: np.ndarray) -> np.ndarray:
    return prior.energy(torch.as_tensor(pose.reshape(-1, 63))).numpy()


@pytest.mark.parametrize(
    ("corrupt", "least", "gain"),
    [
        (training.shuffle_joints, 0.88, 0.1),
        (training.turn_one_joint, 0.83, 0.05),
        (lambda x, _: training.bend_knees_backwards(x), 0.86, 0.1),
        (corruptions.turn_limbs_over, 0.9, 0.03),
    ],
    ids=["joints shuffled", "joint turned", "knees backwards", "limbs turned over"],
)
def test_it_tells_better_than_a_gaussian_what_nobody_does(held_out, corrupt, least, gain):
    """On the dancer and the soccer player, whom neither prior has seen."""
    false = corrupt(held_out, np.random.default_rng(0))
    ours, gaussian = (
        training.roc_auc(energy(p, held_out), energy(p, false))
        for p in (load_prior("open"), load_prior("gaussian"))
    )
    assert ours >= max(least, gaussian + gain), gaussian


def test_it_knows_no_handedness(held_out):
    prior = load_learned_prior()
    np.testing.assert_allclose(
        energy(prior, held_out), energy(prior, mirror_pose(held_out)), rtol=1e-4
    )


def test_far_from_all_poses_it_still_pulls_back():
    prior = load_learned_prior()
    away = torch.randn(200, 63, generator=torch.Generator().manual_seed(0)).double()
    away = away / away.norm(dim=1, keepdim=True)
    for distance in (5.0, 20.0, 100.0):
        energy, pull, _ = prior.quadratic(prior.mean + distance * away)
        assert torch.isfinite(energy).all()
        assert ((pull * away).sum(1) > 0).all()


def test_annealing_begins_with_its_gaussian():
    prior = random_prior(1)
    pose = torch.randn(4, 63, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    delta = pose - prior.mean
    expected = 0.5 * (delta @ prior.precision * delta).sum(-1)
    torch.testing.assert_close(prior.coarse.energy(pose), expected)
    assert load_pose_prior().coarse is load_pose_prior()


def test_float32_is_good_enough(held_out):
    pose = torch.as_tensor(held_out.reshape(-1, 63))
    prior = load_learned_prior()
    single = prior.to(torch.float32).energy(pose.float())
    torch.testing.assert_close(single.double(), prior.energy(pose), rtol=1e-3, atol=1e-3)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(\.\.\., 63\).*flatten"):
        load_learned_prior().energy(torch.zeros(2, 21, 3, dtype=torch.float64))
    prior = random_prior(0)
    with pytest.raises(ValueError, match="expected a mean"):
        LearnedPrior(prior.mean, prior.precision, prior.weights[:2], prior.biases)


# --- training -------------------------------------------------------------------------------------


def test_training_learns_what_a_gaussian_cannot():
    """A neck that bends where the back does, either way: uncorrelated, and not independent."""
    rng = np.random.default_rng(0)
    pose = 0.05 * rng.normal(size=(4000, 21, 3))
    back, neck = (
        [BODY_JOINTS.index(n) - 1 for n in names]
        for names in (("spine1", "spine2", "spine3"), ("neck", "head"))
    )
    bend = rng.uniform(-1, 1, size=4000)
    pose[:, back, 0] += bend[:, None]
    pose[:, neck, 0] += 2 * bend[:, None] ** 2
    config = TrainingConfig(
        rounds=8,
        redraw=4,
        pool=12_000,
        batch=256,
        recombined=0.0,
        enlarged=0.0,
        learning_rate=0.01,
    )
    prior = train_prior(pose[:3000], np.full(3000, 1 / 3000), config)
    real, false = pose[3000:], pose[3000:].copy()
    false[:, neck, 0] = false[rng.permutation(1000)][:, neck, 0]
    ours, plain = (
        training.roc_auc(energy(p, real), energy(p, false)) for p in (prior, prior.coarse)
    )
    assert plain < 0.55
    assert ours > 0.65


def test_training_is_repeatable():
    rng = np.random.default_rng(0)
    pose = 0.3 * rng.normal(size=(200, 21, 3))
    config = TrainingConfig(rounds=1, steps=3, pool=600, batch=64)
    first, second = (train_prior(pose, np.full(200, 1 / 200), config) for _ in range(2))
    for a, b in zip(first.weights, second.weights, strict=True):
        assert torch.equal(a, b)


# --- corruptions ----------------------------------------------------------------------------------


def test_a_limb_that_is_turned_over_looks_the_same_from_some_side(held_out):
    """Bones keep their lengths, and one line of sight does not see the difference."""
    rng = np.random.default_rng(0)
    pose = held_out[:40]
    turned = corruptions.turn_limbs_over(pose, rng)
    here, there = (forward_kinematics(np.zeros((40, 3)), p) for p in (pose, turned))
    moved = np.linalg.norm(here - there, axis=2)
    for k in range(40):
        joints = np.flatnonzero(moved[k] > 1e-6)
        assert set(joints) <= {4, 5, 7, 8, 10, 11, 18, 19, 20, 21}
        # Knees and elbows move along the line of sight only.
        first = [j for j in joints if j in (4, 5, 18, 19)]
        lines = (here - there)[k, first] / moved[k, first][:, None]
        for line in lines[1:]:
            assert abs(abs(line @ lines[0]) - 1) < 1e-6


@pytest.mark.parametrize(
    "corrupt",
    [
        corruptions.shuffle_some_joints, corruptions.turn_some_joints, corruptions.shake_joints,
        corruptions.turn_limbs_over,
        lambda p, r: corruptions.recombine_limbs(p, r, 0.5),
        lambda p, r: corruptions.enlarge(p, r, 0.2),
    ],
)  # fmt: skip
def test_corruptions_leave_their_input_alone(held_out, corrupt):
    before = held_out.copy()
    first = corrupt(held_out, np.random.default_rng(1))
    np.testing.assert_array_equal(held_out, before)
    assert first.shape == held_out.shape and np.isfinite(first).all()
    assert (np.abs(first - held_out).max((1, 2)) > 1e-3).mean() > 0.5
    np.testing.assert_array_equal(first, corrupt(held_out, np.random.default_rng(1)))


def test_recombined_limbs_are_whole(held_out):
    out = corruptions.recombine_limbs(held_out, np.random.default_rng(0), 1.0)
    for joints in corruptions.LIMB_JOINTS.values():
        for row in out[:10, joints]:
            assert (np.abs(held_out[:, joints] - row).max((1, 2)) == 0).any()


def test_hinges_bend_the_wrong_way(held_out):
    out = corruptions.bend_hinges_backwards(held_out, np.random.default_rng(0))
    changed = out != held_out
    assert changed.any((1, 2)).mean() > 0.3 and changed.sum((1, 2)).max() <= 4
    assert (out[:, 3:5, 0][changed[:, 3:5, 0]] < 0).all()
