"""The reference solver: the published joints, weights and schedule, and its switches."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.params import BodyParams
from bodymodel.rotations import rotvec_to_rotmat
from bodymodel.spec import SMPLX_KEYPOINTS
from fitting.records import FitTarget
from fitting.reference import ReferenceFitter, minimise_lbfgs
from fitting.reference_config import PUBLISHED_STAGES, ReferenceConfig, resolve_body
from fitting.reference_energy import (
    MODEL_JOINTS,
    OPENPOSE_POINTS,
    REFERENCE_TERMS,
    point_weights,
    reference_energy,
    reference_evidence,
)
from fitting.reference_mesh import make_mesh
from tests.fitting.people import CENTER_PX, FOCAL_PX, make_people
from tests.random_body import random_body

HEIGHT_PX = 800.0
OWN = ReferenceConfig(body="own")
SHORT = replace(OWN, max_calls=2, stages=PUBLISHED_STAGES[2:])
NOTHING = replace(OWN, max_calls=1, iterations_per_call=1, stages=PUBLISHED_STAGES[:1])


def openpose_only(target, **changes):
    """The person as OpenPose would see them."""
    points = target.keypoints_2d.copy()
    points[[k for k, name in enumerate(FIT_KEYPOINTS) if name not in OPENPOSE_POINTS]] = 0
    return replace(target, keypoints_2d=points, height_px=HEIGHT_PX, **changes)


def without(target, *names):
    points = target.keypoints_2d.copy()
    points[[FIT_KEYPOINTS.index(name) for name in names]] = 0
    return replace(target, keypoints_2d=points)


@pytest.fixture(scope="module")
def people(toy_body):
    targets, params, _ = make_people(toy_body, 3)
    return [openpose_only(target) for target in targets], params


@pytest.fixture(scope="module")
def fitter(toy_body):
    return ReferenceFitter(toy_body, OWN, dtype="float64")


@pytest.fixture(scope="module")
def short(toy_body):
    return ReferenceFitter(toy_body, SHORT)


# --- what is published ---------------------------------------------------------------------------


def test_openpose_points_are_the_published_joints():
    body = [55, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, *range(56, 66)]
    left = [20, 37, 38, 39, 66, 25, 26, 27, 67, 28, 29, 30, 68, 34, 35, 36, 69, 31, 32, 33, 70]
    right = [21, 52, 53, 54, 71, 40, 41, 42, 72, 43, 44, 45, 73, 49, 50, 51, 74, 46, 47, 48, 75]
    assert list(MODEL_JOINTS) == [*body, *left, *right, *range(76, 127)]
    assert len(OPENPOSE_POINTS) == 118


@pytest.mark.parametrize(
    "stage, hands, face", [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0.1, 0), (4, 2, 2)]
)
def test_the_weights_of_the_points(stage, hands, face):
    weights = point_weights(PUBLISHED_STAGES[stage])
    assert np.flatnonzero(weights[:25] == 0).tolist() == [1, 9, 12]  # neck and hips
    assert set(weights[:25]) == {0.0, 1.0}
    assert (weights[25:67] == hands).all()
    assert (weights[67:] == face).all()


def test_the_weights_of_the_priors():
    table = [
        (s.pose, s.shape, s.expression, s.hands, s.jaw) for s in PUBLISHED_STAGES
    ]  # fmt: skip
    assert table == [
        (404, 100, 100, 404, (4040, 40400, 40400)),
        (404, 50, 50, 404, (4040, 40400, 40400)),
        (57.4, 10, 10, 57.4, (574, 5740, 5740)),
        (4.78, 5, 5, 4.78, (47.8, 478, 478)),
        (4.78, 5, 5, 4.78, (47.8, 478, 478)),
    ]


# --- the energy ----------------------------------------------------------------------------------


def random_state(body, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"num_betas": body.num_betas, "num_expression": body.num_expression}
    params = BodyParams.zeros(1, **sizes, dtype=torch.float64).map(
        lambda x: 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    )
    upright = torch.tensor([[math.pi - 0.2, 0.1, 0.2]], dtype=torch.float64)
    transl = torch.tensor([[0.1, 0.2, 4.2]], dtype=torch.float64)
    return replace(params, global_orient=upright, transl=transl)


def energy_by_hand(keypoints, params, target, stage, hand_means):
    """The published formula, point by point, in numpy."""
    names = {name: k for k, name in enumerate(SMPLX_KEYPOINTS)}
    data = 0.0
    for k, name in enumerate(OPENPOSE_POINTS):
        x, y, confidence = map(float, target.keypoints_2d[FIT_KEYPOINTS.index(name)])
        if k >= 67:
            weight = stage.face_points
        elif k >= 25:
            weight = stage.hand_points
        else:
            weight = 0.0 if name in ("neck", "left_hip", "right_hip") else 1.0
        place = keypoints[names[name]]
        for axis, seen in ((0, x), (1, y)):
            r = FOCAL_PX * place[axis] / place[2] + CENTER_PX[axis] - seen
            robust = 100.0**2 * r**2 / (r**2 + 100.0**2)
            data += (weight * confidence) ** 2 * (1000 / HEIGHT_PX) ** 2 * robust
    pose = params["body_pose"].reshape(63)
    bend = sum(math.exp(sign * pose[k]) ** 2 for k, sign in ((52, 1), (55, -1), (9, -1), (12, -1)))
    hands = np.stack([params["left_hand_pose"], params["right_hand_pose"]]).reshape(2, 45)
    return {
        "data": data,
        "pose": stage.pose**2 * (pose**2).sum(),
        "bend": 3.17 * stage.pose * bend,
        "shape": stage.shape**2 * (params["betas"] ** 2).sum(),
        "expression": stage.expression**2 * (params["expression"] ** 2).sum(),
        "hands": stage.hands**2 * ((hands - hand_means) ** 2).sum(),
        "jaw": sum((w * a) ** 2 for w, a in zip(stage.jaw, params["jaw_pose"], strict=True)),
        "penetration": 0.0,  # off unless asked for
    }


@pytest.mark.parametrize("stage", [0, 3, 4])
def test_the_energy_is_the_published_formula(fitter, people, toy_body, stage):
    (target, *_), _ = people
    points = target.keypoints_2d.copy()
    points[:, 2] *= np.random.default_rng(0).uniform(0.5, 1, len(points))
    target = replace(target, keypoints_2d=points)
    state = random_state(toy_body, stage)
    keypoints = make_mesh(toy_body, "own", torch.float64)(state).keypoints[0].numpy()
    params = {name: value[0] for name, value in state.numpy().items()}
    expected = energy_by_hand(
        keypoints, params, target, PUBLISHED_STAGES[stage], toy_body.hand_means
    )
    found = fitter.energy(target, params, stage)
    assert tuple(found) == REFERENCE_TERMS
    assert found.pop("penetration") == 0  # off, as the published default
    for name in found:
        assert found[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name


def test_the_principal_point_tells_the_height_where_nothing_else_does(people):
    (target, *_), _ = people
    assert reference_evidence(replace(target, height_px=math.nan)).height_px == HEIGHT_PX


def test_smplx_and_our_model_give_the_same_energy_and_gradient(open_body):
    pytest.importorskip("smplx")
    (target,), _, _ = make_people(open_body, 1)
    evidence = reference_evidence(openpose_only(target), torch.float64)
    means = torch.as_tensor(open_body.hand_means).double()
    found = []
    for kind in ("own", "smplx"):
        params = random_state(open_body, 1).map(lambda x: x.requires_grad_(True))
        mesh = make_mesh(open_body, kind, torch.float64)
        terms = reference_energy(mesh, params, evidence, PUBLISHED_STAGES[-1], OWN, means)
        total = sum(terms.values()).sum()
        total.backward()
        found.append((total.detach(), params.body_pose.grad, params.betas.grad))
    # smplx adds 1e-8 to every angle before its norm, and the terms of the gradient nearly cancel
    scale = found[0][1].abs().max()
    for own, theirs in zip(*found, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-6 * scale)


def test_smplx_refuses_a_body_whose_points_it_cannot_place(toy_body):
    with pytest.raises(ValueError, match="--reference-body own"):
        make_mesh(toy_body, "smplx")
    with pytest.raises(ValueError, match="smpl body"):
        make_mesh(replace(toy_body, family="smpl"), "own")


# --- the optimiser -------------------------------------------------------------------------------


def test_lbfgs_finds_the_bottom_of_the_valley():
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    count = 0

    def rosenbrock():
        nonlocal count
        count += 1
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    descent = minimise_lbfgs([x], rosenbrock, OWN)
    torch.testing.assert_close(x.detach(), torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)
    assert descent.converged
    assert descent.evaluations == count
    assert 2 <= descent.calls < 10


def test_lbfgs_says_when_it_was_stopped_or_met_no_number():
    x = torch.zeros(2, requires_grad=True)
    limited = replace(OWN, max_calls=1, iterations_per_call=1)
    far = minimise_lbfgs([x], lambda: ((x - 3) ** 4).sum(), limited)
    assert not far.converged
    assert far.calls == 1
    nan = minimise_lbfgs([x], lambda: x.sum() * math.nan, OWN)
    assert math.isnan(nan.loss)
    assert nan.calls == 1
    assert not nan.converged


def test_the_published_rule_takes_a_negative_slope_beside_zero_for_flat():
    """abs(max) of (-1, 0) is 0; max(abs) is 1."""
    results = []
    for signed in (True, False):
        x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        config = replace(OWN, signed_gradient_stop=signed, max_calls=3, iterations_per_call=1)
        results.append(minimise_lbfgs([x], lambda x=x: -x[0] + 0 * x[1], config).calls)
    assert results == [1, 3]


# --- people --------------------------------------------------------------------------------------


def test_a_short_run_fits_the_points(short, people, toy_body):
    targets, truth = people
    results = short.fit(targets)
    at_rest = {k: v[0] for k, v in random_state(toy_body, 0).numpy().items()}
    forward = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    for k, (target, result) in enumerate(zip(targets, results, strict=True)):
        assert result.status in ("ok", "not_converged")
        assert (result.status == "ok") == (not result.reason)
        # two calls a stage leave the hands unfinished, hence the wide margin there
        assert result.residual_part_px["body"] < 6
        assert result.residual_part_px["face"] < 6
        assert result.energy_total == pytest.approx(sum(result.energy.values()))
        again = short.energy(target, result.params)
        assert sum(again.values()) == pytest.approx(result.energy_total, rel=1e-3)
        assert result.energy_total < 0.2 * sum(short.energy(target, at_rest).values())
        orient = torch.as_tensor(result.params["global_orient"]).double()
        facing = [rotvec_to_rotmat(r) @ forward for r in (orient, truth.global_orient[k])]
        assert float(facing[0] @ facing[1]) > 0
        assert result.iterations > 50
        assert result.params["body_pose"].shape == (21, 3)
        seen = target.keypoints_2d[:, 2] > 0
        distance = np.linalg.norm(result.projected_2d - target.keypoints_2d[:, :2], axis=1)
        np.testing.assert_allclose(result.residual_px[seen], distance[seen], rtol=1e-5)
        assert np.isnan(result.residual_px[~seen]).all()


def test_every_stage_lowers_the_energy(toy_body, people):
    (target, *_), _ = people
    energies = []
    for calls in (1, 3):
        (result,) = ReferenceFitter(toy_body, replace(SHORT, max_calls=calls)).fit([target])
        energies.append(result.energy_total)
    assert energies[1] < energies[0]


def shoulders_apart(target, px):
    points = target.keypoints_2d.copy()
    left, right = (FIT_KEYPOINTS.index(f"{side}_shoulder") for side in ("left", "right"))
    points[right, :2] = points[left, :2] + [px, 0]
    return replace(target, keypoints_2d=points)


@pytest.mark.parametrize(
    "apart, threshold, tried", [(24, 25, 2), (26, 25, 1), (26, 30, 2), (24, 0, 1)]
)
def test_the_other_orientation_is_tried_below_the_threshold_alone(
    toy_body, people, apart, threshold, tried
):
    (target, *_), _ = people
    config = replace(NOTHING, orientation_threshold_px=threshold)
    (result,) = ReferenceFitter(toy_body, config).fit([shoulders_apart(target, apart)])
    assert len(result.starts) == len(result.start_energies) == tried
    assert math.isnan(result.start_margin) == (tried == 1)
    assert result.winner in result.starts


def test_the_better_orientation_is_returned_not_the_last(toy_body, people):
    """On a person seen from the side; which of the two is better is theirs to say."""
    targets = [shoulders_apart(target, 5) for target in people[0]]
    config = replace(SHORT, max_calls=1, stages=PUBLISHED_STAGES[2:3])
    better = ReferenceFitter(toy_body, config).fit(targets)
    last = ReferenceFitter(toy_body, replace(config, save_last_orientation=True)).fit(targets)
    for b, a in zip(better, last, strict=True):
        np.testing.assert_array_equal(a.start_energies, b.start_energies)
        assert b.energy_total == pytest.approx(float(b.start_energies.min()))
        assert a.winner == "turned"
        assert a.energy_total == pytest.approx(float(a.start_energies[1]))
    assert any(b.winner == "found" for b in better)


def test_the_translation_stays_where_the_camera_stage_put_it(toy_body, people):
    (target, *_), _ = people
    found = {}
    for frozen in (True, False):
        for stages in (PUBLISHED_STAGES[3:4], PUBLISHED_STAGES[2:4]):
            config = replace(SHORT, max_calls=1, freeze_translation=frozen, stages=stages)
            (result,) = ReferenceFitter(toy_body, config).fit([target])
            found[frozen, len(stages)] = result.params["transl"]
    np.testing.assert_array_equal(found[True, 1], found[True, 2])
    assert np.abs(found[False, 1] - found[True, 1]).max() > 1e-4


def test_unseen_hips_spoil_the_depth_unless_left_out(toy_body, people):
    (target, *_), _ = people
    one_hip = without(target, "left_hip")
    depth = {}
    for use in (True, False):
        config = replace(NOTHING, use_missing_torso_points=use)
        (whole,), (cut,) = (ReferenceFitter(toy_body, config).fit([t]) for t in (target, one_hip))
        depth[use] = cut.params["transl"][2] / whole.params["transl"][2]
    assert depth[True] < 0.7  # the edge to pixel (0, 0) is long, so the person seems near
    assert 0.9 < depth[False] < 1.1


def test_nobody_is_a_status(short, people):
    (target, *_), _ = people
    blank = np.zeros_like(target.keypoints_2d)
    one_spot = target.keypoints_2d.copy()
    one_spot[:, :2] = 100
    results = short.fit(
        [
            replace(target, keypoints_2d=blank),
            replace(target, keypoints_2d=np.full_like(blank, np.nan)),
            replace(target, keypoints_2d=one_spot),
            replace(target, focal_px=math.nan),
            replace(target, center_px=np.array([np.nan, 0])),
            replace(target, height_px=0.0),
        ]
    )
    assert [r.status for r in results] == ["too_few_keypoints"] * 6
    assert len({r.reason for r in results}) == 5
    for result in results:
        assert np.isnan(result.params["body_pose"]).all()
        assert result.params["left_hand_pose"].shape == (15, 3)
        assert result.iterations == 0
        assert math.isnan(result.energy_total)


def test_without_hips_there_is_no_trunk_to_place_the_camera_by(toy_body, people):
    (target, *_), _ = people
    config = replace(NOTHING, use_missing_torso_points=False)
    (result,) = ReferenceFitter(toy_body, config).fit([without(target, "left_hip", "right_hip")])
    assert result.status == "too_few_keypoints"
    assert "trunk" in result.reason


def test_wrong_shapes_are_an_error(short):
    with pytest.raises(ValueError, match="145"):
        short.fit([FitTarget(np.zeros((25, 3)), FOCAL_PX, CENTER_PX)])


@pytest.mark.slow
def test_the_published_run_on_the_open_body(open_body):
    """Whole schedule, smplx where it is installed: a thousand evaluations, pixels at the noise."""
    (target,), _, _ = make_people(open_body, 1)
    (result,) = ReferenceFitter(open_body).fit([openpose_only(target)])
    assert result.status == "ok"
    assert result.residual_part_px["body"] < 3
    assert 400 < result.iterations < 3000


# --- only when chosen ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind, loaded", [("own", False), ("smplx", True)])
def test_smplx_is_imported_by_choice_alone(kind, loaded):
    if loaded:
        pytest.importorskip("smplx")
    code = (
        "import sys, warnings; warnings.simplefilter('ignore');"
        "import fitting.run, fitting.fit, fitting.reference as r;"
        "from fitting.reference_config import ReferenceConfig;"
        "from bodymodel.files import load_body;"
        "assert 'smplx' not in sys.modules;"
        f"r.ReferenceFitter(load_body('open'), ReferenceConfig(body='{kind}'));"
        f"assert ('smplx' in sys.modules) is {loaded}"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_auto_takes_what_is_there(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert resolve_body("auto") == "own"
    assert resolve_body("smplx") == "smplx"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert resolve_body("auto") == "smplx"


def test_another_family_is_refused():
    body = replace(random_body(3), family="flame")
    with pytest.raises(ValueError, match="flame"):
        ReferenceFitter(body, OWN)
