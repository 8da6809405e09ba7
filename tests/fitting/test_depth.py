"""What is known of depth beside the picture: the term's gradient, its direction, its letting go."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bodymodel.keypoints import FIT_KEYPOINTS
from fitting.config import FitConfig
from fitting.depth import TRUNK
from fitting.evidence import gather_points, stage_energy
from fitting.extra import depth_terms
from fitting.fit import Fitter
from tests.fitting.people import make_people

NONE = np.full((145, 3), np.nan, np.float32)


@pytest.fixture(scope="module")
def fitter(toy_body):
    return Fitter(toy_body, dtype="float64")


def depth_energy(fitter, targets, **weights):
    """The energy of a stage that has nothing but the term on depth."""
    stage = replace(FitConfig().coarse[0], w_pose=0.0, w_shape=0.0, w_limits=0.0, **weights)
    evidence = gather_points(fitter.prepared, targets, fitter.prepared.coarse)
    terms = depth_terms(targets, fitter.prepared.depth, fitter.prepared.coarse, evidence)
    blind = replace(evidence, weights=torch.zeros_like(evidence.weights))
    return stage_energy(fitter.prepared, fitter.prepared.coarse, stage, blind, terms)


def states(fitter, count, pitch=0.0):
    x = torch.zeros(count, fitter.prepared.layout.size, dtype=torch.float64)
    x[:, fitter.prepared.layout.slices["transl"]] = torch.tensor(
        [0.1, 0.2, 3.9], dtype=torch.float64
    )
    x[:, 0] = torch.pi + pitch
    return x


def term_value(energy, x):
    return energy.extra[0].add(energy, x, None, *zeros(energy, x))


def zeros(energy, x):
    return x.new_zeros(len(x), energy.size), x.new_zeros(len(x), energy.size, energy.size)


def test_the_gradient_is_that_of_the_term(fitter, toy_body):
    targets, _, _ = make_people(toy_body, 2)
    guess = np.random.default_rng(0).normal(0, 0.3, (2, 145, 3)).astype(np.float32)
    targets = [replace(t, world_points=w) for t, w in zip(targets, guess, strict=True)]
    energy = depth_energy(fitter, targets, w_world=3.0, w_upright=200.0)
    x = states(fitter, 2, 0.2)
    x[:, 3:66] = 0.2 * torch.randn(2, 63, generator=torch.Generator().manual_seed(0)).double()
    gradient, matrix = zeros(energy, x)
    energy.extra[0].add(energy, x, None, gradient, matrix)
    for column in range(0, energy.size, 4):
        delta = torch.zeros_like(x)
        delta[:, column] = 1e-6
        ends = [
            term_value(energy, fitter.prepared.layout.step(x, sign * delta)) for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close(2 * gradient[:, column], slope, rtol=1e-4, atol=1e-4)


def test_who_leans_costs_more_until_they_lean_far(fitter, toy_body):
    targets, _, _ = make_people(toy_body, 1)
    energy = depth_energy(fitter, targets, w_world=0.0, w_upright=100.0)
    cost = [
        float(term_value(energy, states(fitter, 1, np.radians(a)))) for a in (0, 10, 20, 60, 80)
    ]
    assert cost[0] < cost[1] < cost[2]
    assert cost[4] - cost[3] < 0.2 * (cost[2] - cost[0])


def test_a_trunk_that_lies_in_the_picture_is_left_alone(fitter, toy_body):
    (target,), _, _ = make_people(toy_body, 1)
    turned = target.keypoints_2d.copy()
    turned[:, :2] = (turned[:, :2] - 400)[:, ::-1] * (1, -1) + 400  # on its side
    pulls = []
    for points in (target.keypoints_2d, turned):
        energy = depth_energy(fitter, [replace(target, keypoints_2d=points)], w_world=0.0)
        pulls.append(float(energy.extra[0].weights[0, -1]))
    assert pulls[1] < 0.05 * pulls[0]


def test_an_unknown_or_unseen_point_says_nothing(fitter, toy_body):
    (target,), _, _ = make_people(toy_body, 1)
    guess = np.zeros((145, 3), np.float32)
    knee = FIT_KEYPOINTS.index("left_knee")
    guess[knee] = np.nan
    unseen = target.keypoints_2d.copy()
    unseen[knee, 2] = 0
    for changed in (
        replace(target, world_points=guess),
        replace(target, keypoints_2d=unseen, world_points=np.zeros((145, 3), np.float32)),
    ):
        energy = depth_energy(fitter, [changed])
        weights = energy.extra[0].weights[0]
        assert (weights == 0).sum() == 2  # hip to knee and knee to ankle of the left
    energy = depth_energy(fitter, [replace(target, world_points=NONE)])
    assert (energy.extra[0].weights[0, :-1] == 0).all()


def test_a_guess_turns_a_knee_that_the_picture_leaves_open(fitter, toy_body):
    targets, _, truth = make_people(toy_body, 4, seed=3)
    world = truth.astype(np.float32)
    with_guess = [replace(t, world_points=w) for t, w in zip(targets, world, strict=True)]
    index = FIT_KEYPOINTS.index
    results = fitter.fit(with_guess)
    from bodymodel.sliced import slice_body, sliced_forward

    sliced = slice_body(toy_body, ("left_hip", "left_knee"), dtype=torch.float64)
    for k, result in enumerate(results):
        pose = [result.params[n].reshape(-1, 3) for n in (
            "global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose",
            "left_hand_pose", "right_hand_pose")]  # fmt: skip
        shape = np.concatenate([result.params["betas"], result.params["expression"]])
        points = sliced_forward(
            sliced, torch.as_tensor(np.concatenate(pose)[None]).double(),
            torch.as_tensor(shape[None]).double(),
            torch.as_tensor(result.params["transl"][None]).double(),
        ).points[0]  # fmt: skip
        found = float(points[1, 2] - points[0, 2])
        true = truth[k, index("left_knee"), 2] - truth[k, index("left_hip"), 2]
        assert abs(found - true) < 0.1


def test_the_trunk_is_half_a_metre():
    assert TRUNK.sd_m == 0.5
