from dataclasses import replace

import numpy as np
import pytest
import torch

from fitting.clip import _solve, _System, choose_path, motion_matrix
from fitting.clip_config import ClipConfig
from fitting.fit import Fitter
from tests.fitting.people import make_people


@pytest.fixture(scope="module")
def fitter(toy_body):
    return Fitter(toy_body, dtype="float64")


def test_even_motion_costs_nothing_and_gaps_are_bridged():
    frames = [0, 1, 2, 4, 5, 40, 41, 42]
    motion = motion_matrix(frames, longest_gap=10)
    even = torch.tensor([3.0 + 0.5 * f for f in frames], dtype=torch.float64)
    np.testing.assert_allclose(motion @ even, 0, atol=1e-12)
    jump = torch.where(torch.tensor(frames) > 20, 100.0, 0.0).double()
    assert jump @ motion @ jump == 0  # a cut is no motion
    shake = torch.tensor([0.0, 1, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    assert shake @ motion @ shake == pytest.approx(4 + (1.5 * (1 / 1.5) ** 2))
    assert not torch.triu(motion, 3).any()


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_the_banded_solution_is_that_of_the_whole_matrix(count):
    rng = torch.Generator().manual_seed(count)
    n, m = 4, 3
    whole = torch.zeros(count * n + m, count * n + m, dtype=torch.float64)
    for first in range(max(1, count - 2)):
        span = list(range(first * n, min(first + 3, count) * n)) + list(
            range(count * n, len(whole))
        )
        part = torch.randn(len(span), len(span), generator=rng, dtype=torch.float64)
        whole[torch.tensor(span)[:, None], torch.tensor(span)] += part @ part.T
    whole += torch.eye(len(whole))
    pull = torch.randn(len(whole), generator=rng, dtype=torch.float64)

    def block(t, u):
        return whole[t * n : t * n + n, u * n : u * n + n]

    bands = tuple(
        torch.stack([block(t, t + d) for t in range(count - d)])
        if d < count
        else torch.zeros(0, n, n).double()
        for d in range(3)
    )
    last = slice(count * n, None)
    system = _System(
        0.0, bands, whole[: count * n, last].view(count, n, m), whole[last, last],
        pull[: count * n].view(count, n), pull[last],
    )  # fmt: skip
    own, common = _solve(system, 0.0)
    expected = -torch.linalg.solve(whole, pull)
    torch.testing.assert_close(own.flatten(), expected[: count * n], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(common, expected[last], rtol=1e-5, atol=1e-7)


def test_an_answer_that_jumps_is_not_chosen_though_it_is_cheaper():
    places = torch.zeros(5, 2, 3, 3, dtype=torch.float64)
    places[:, 1, :, 2] = 0.5  # the other answer is half a metre away
    energy = torch.tensor([[1.0, 50], [1, 50], [10, 0], [1, 50], [1, 50]], dtype=torch.float64)
    assert choose_path(energy, places, range(5), ClipConfig()).tolist() == [0] * 5
    sure = energy.clone()
    sure[:, 1] *= 1000
    sure[2, 0] = 1e6
    assert choose_path(sure, places, range(5), ClipConfig()).tolist() == [0, 0, 1, 0, 0]


def test_a_still_clip_is_one_photo(fitter, toy_body):
    (target,), _, _ = make_people(toy_body, 1)
    (alone,) = fitter.fit([target])
    frames = [replace(target, clip="still", frame=k) for k in (3, 0, 1, 2)]
    for fit in fitter.fit(frames):
        assert fit.status == "ok"
        assert fit.energy_total <= alone.energy_total * 1.001
        if abs(fit.energy_total / alone.energy_total - 1) < 1e-3:
            np.testing.assert_allclose(fit.params["betas"], alone.params["betas"], atol=0.02)
            np.testing.assert_allclose(fit.params["transl"], alone.params["transl"], atol=0.01)


def test_frames_share_shape_and_lens_and_others_are_left_alone(fitter, toy_body):
    targets, _, _ = make_people(toy_body, 2)
    rng = np.random.default_rng(0)
    frames = []
    for k in range(4):
        points = targets[0].keypoints_2d.copy()
        points[points[:, 2] > 0, :2] += rng.normal(0, 2, ((points[:, 2] > 0).sum(), 2))
        frames.append(replace(targets[0], keypoints_2d=points, focal_sd=0.6, clip="a", frame=k))
    blind = replace(frames[0], keypoints_2d=np.zeros_like(targets[0].keypoints_2d), frame=9)
    (other,) = fitter.fit([targets[1]])
    *fits, nobody, beside = fitter.fit([*frames, blind, targets[1]])
    for fit in fits[1:]:
        np.testing.assert_array_equal(fit.params["betas"], fits[0].params["betas"])
        assert fit.focal_px == fits[0].focal_px
    assert nobody.status == "too_few_keypoints"
    np.testing.assert_allclose(beside.params["body_pose"], other.params["body_pose"], atol=1e-6)


def test_a_frame_number_twice_is_said(fitter, toy_body):
    (target,), _, _ = make_people(toy_body, 1)
    with pytest.raises(ValueError, match="twice"):
        fitter.fit([replace(target, clip="a", frame=1)] * 2)
