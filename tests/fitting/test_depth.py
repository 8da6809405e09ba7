"""What is known of depth beside the picture: the term's gradient, its direction, its letting go."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bodymodel.depth_spans import TRUNK
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.sliced import slice_body, sliced_forward, sliced_jacobian
from fitting.config import FitConfig
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
    terms = depth_terms(
        targets, fitter.prepared.depth, fitter.prepared.trunk, fitter.prepared.coarse, evidence
    )
    blind = replace(evidence, weights=torch.zeros_like(evidence.weights))
    return stage_energy(fitter.prepared, fitter.prepared.coarse, stage, blind, terms)


def states(fitter, count, pitch=0.0):
    x = torch.zeros(count, fitter.prepared.layout.size, dtype=torch.float64)
    x[:, fitter.prepared.layout.slices["transl"]] = torch.tensor(
        [0.1, 0.2, 3.9], dtype=torch.float64
    )
    x[:, 0] = torch.pi + pitch
    return x


def added(energy, x):
    """The term's energy, half its gradient, its matrix."""
    layout = energy.layout
    state = sliced_forward(energy.sliced, layout.full_pose(x), layout.shape(x), layout.transl(x))
    gradient, matrix = zeros(energy, x)
    return energy.extra[0].add(energy, x, state, gradient, matrix), gradient, matrix


def term_value(energy, x):
    return added(energy, x)[0]


def zeros(energy, x):
    return x.new_zeros(len(x), energy.size), x.new_zeros(len(x), energy.size, energy.size)


def test_the_gradient_is_that_of_the_term(fitter, toy_body):
    targets, _, _ = make_people(toy_body, 2)
    guess = np.random.default_rng(0).normal(0, 0.3, (2, 145, 3)).astype(np.float32)
    targets = [replace(t, world_points=w) for t, w in zip(targets, guess, strict=True)]
    energy = depth_energy(fitter, targets, w_world=3.0, w_upright=200.0)
    x = states(fitter, 2, 0.2)
    x[:, 3:66] = 0.2 * torch.randn(2, 63, generator=torch.Generator().manual_seed(0)).double()
    _, gradient, _ = added(energy, x)
    for column in range(0, energy.size, 4):
        delta = torch.zeros_like(x)
        delta[:, column] = 1e-6
        ends = [
            term_value(energy, fitter.prepared.layout.step(x, sign * delta)) for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close(2 * gradient[:, column], slope, rtol=1e-4, atol=1e-4)


def test_the_matrix_is_that_of_the_points_jacobian(fitter, toy_body):
    """Levers and bones give what the general Jacobian of the joints gives."""
    spans, layout = fitter.prepared.depth, fitter.prepared.layout
    x = states(fitter, 3, 0.3)
    x[:, 3:66] = 0.3 * torch.randn(3, 63, generator=torch.Generator().manual_seed(1)).double()
    x[:, layout.slices["betas"]] += 0.5
    state = sliced_forward(spans.sliced, layout.full_pose(x), layout.shape(x), layout.transl(x))
    direction = torch.randn(3, len(spans.matrix), 3, generator=torch.Generator().manual_seed(2))
    direction = direction.double()
    pose, shape = spans.jacobian(state, direction)
    eye = torch.eye(3, dtype=torch.float64).expand(3, len(spans.sliced.points), 3, 3)
    whole_pose, whole_shape, _ = sliced_jacobian(spans.sliced, state, eye, root_on_manifold=True)
    joints = spans.sliced.joint_ids.tolist()
    columns = [joints.index(FIT_KEYPOINTS.index(name)) for name in spans.sliced.points]
    for found, whole in ((pose, whole_pose.flatten(2)), (shape, whole_shape)):
        whole = whole.view(3, len(columns), 3, -1)
        expected = torch.einsum("kp,bkc,bpcu->bku", spans.matrix[:, columns], direction, whole)
        expected = torch.nn.functional.pad(expected, (0, found.shape[2] - expected.shape[2]))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_limb_alone_is_weighed_like_the_body(fitter, toy_body):
    """An energy whose points lack joints of the spans finds them itself."""
    targets, _, _ = make_people(toy_body, 2)
    energy = depth_energy(fitter, targets, w_world=3.0, w_upright=200.0)
    x = states(fitter, 2, 0.2)
    limb = replace(energy, sliced=fitter.prepared.limbs[0].sliced)
    for whole, alone in zip(added(energy, x), added(limb, x), strict=True):
        torch.testing.assert_close(alone, whole)


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


def test_the_trunk_alone_is_the_trunk_among_spans_of_which_nothing_is_known(fitter, toy_body):
    targets, _, _ = make_people(toy_body, 2)
    nothing = [replace(t, world_points=NONE) for t in targets]
    x = states(fitter, 2, 0.2)
    one, all_of_them = (
        depth_energy(fitter, people, w_world=3.0, w_upright=200.0) for people in (targets, nothing)
    )
    assert len(one.extra[0].spans.matrix) == 1 < len(all_of_them.extra[0].spans.matrix)
    for alone, among in zip(added(one, x), added(all_of_them, x), strict=True):
        torch.testing.assert_close(alone, among, rtol=0, atol=0)


def test_a_guess_turns_a_knee_that_the_picture_leaves_open(fitter, toy_body):
    targets, _, truth = make_people(toy_body, 4, seed=3)
    world = truth.astype(np.float32)
    with_guess = [replace(t, world_points=w) for t, w in zip(targets, world, strict=True)]
    index = FIT_KEYPOINTS.index
    results = fitter.fit(with_guess)
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
