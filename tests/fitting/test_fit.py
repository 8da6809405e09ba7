import numpy as np
import pytest

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import keypoint_part
from fitting.config import FitConfig
from fitting.evidence import refusal
from fitting.fit import Fitter
from fitting.records import FitTarget
from tests.fitting.people import CENTER_PX, FOCAL_PX, make_people

ROTATIONS = ("global_orient", "body_pose", "left_hand_pose", "right_hand_pose", "jaw_pose")


@pytest.fixture(scope="module")
def fitter(toy_body):
    return Fitter(toy_body, dtype="float64")


@pytest.fixture(scope="module")
def people(toy_body):
    return make_people(toy_body, 12)


@pytest.fixture(scope="module")
def fits(fitter, people):
    return fitter.fit(people[0])


def points_of(target):
    return target.keypoints_2d[:, 2] > 0


def test_everybody_is_fitted_to_the_noise(fits):
    assert [fit.status for fit in fits] == ["ok"] * 12
    for fit in fits:
        assert fit.residual_part_px["body"] < 3
        assert fit.residual_part_px["face"] < 3


def test_nobody_faces_the_wrong_way(fits, people):
    truth = people[1].global_orient.numpy()
    for fit, true in zip(fits, truth, strict=True):
        forward = [_rotate(r, np.array([0, 0, 1.0])) for r in (fit.params["global_orient"], true)]
        assert forward[0] @ forward[1] > 0.5


def _rotate(rotvec, vector):
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(rotvec).apply(vector)


def test_depth_is_about_right(fits):
    ratio = np.array([fit.params["transl"][2] for fit in fits]) / 4.0
    assert abs(np.median(ratio) - 1) < 0.1


def test_the_row_says_what_the_solver_saw(fits, people):
    for fit, target in zip(fits, people[0], strict=True):
        seen = points_of(target)
        distance = np.linalg.norm(fit.projected_2d - target.keypoints_2d[:, :2], axis=1)
        np.testing.assert_allclose(fit.residual_px[seen], distance[seen], rtol=1e-5)
        assert np.isnan(fit.residual_px[~seen]).all()
        assert fit.energy_total == pytest.approx(sum(fit.energy.values()), rel=1e-6)
        assert len(fit.starts) == len(fit.start_energies)


def test_a_person_does_not_depend_on_the_company(fitter, people, fits):
    for k in (0, 5, 11):
        (alone,) = fitter.fit([people[0][k]])
        for name in ROTATIONS:
            np.testing.assert_allclose(alone.params[name], fits[k].params[name], atol=1e-4)


def test_the_same_twice(fitter, people, fits):
    again = fitter.fit(people[0])
    for a, b in zip(fits, again, strict=True):
        for name in a.params:
            np.testing.assert_array_equal(a.params[name], b.params[name])


@pytest.mark.parametrize("part", ["legs", "hands", "face", "head"])
def test_a_missing_part_is_normal(fitter, people, part):
    def gone(name: str) -> bool:
        if part == "legs":
            return any(w in name for w in ("knee", "ankle", "toe", "heel"))
        if part == "head":
            return name in ("nose", "head_top") or "eye" in name or "ear" in name
        return (
            keypoint_part(name) in {"hands": ("left_hand", "right_hand"), "face": ("face",)}[part]
        )

    rows = [k for k, name in enumerate(FIT_KEYPOINTS) if gone(name)]
    targets = []
    for target in people[0][:4]:
        points = target.keypoints_2d.copy()
        points[rows] = 0
        targets.append(FitTarget(points, FOCAL_PX, CENTER_PX))
    for fit in fitter.fit(targets):
        assert fit.status == "ok"
        assert fit.residual_part_px["body"] < 3
        assert 2.5 < fit.params["transl"][2] < 6
        assert np.abs(fit.params["betas"]).max() < 4


def test_too_little_is_said_and_does_not_harm_the_others(fitter, people, fits):
    nothing = FitTarget(np.zeros_like(people[0][0].keypoints_2d), FOCAL_PX, CENTER_PX)
    bad = FitTarget(np.full_like(nothing.keypoints_2d, np.nan), FOCAL_PX, CENTER_PX)
    one_spot = people[0][0].keypoints_2d.copy()
    one_spot[:, :2] = 100
    results = fitter.fit(
        [
            nothing,
            people[0][0],
            bad,
            FitTarget(one_spot, FOCAL_PX, CENTER_PX),
            FitTarget(people[0][0].keypoints_2d, float("nan"), CENTER_PX),
        ]
    )
    assert [r.status for r in results] == ["too_few_keypoints", "ok"] + ["too_few_keypoints"] * 3
    assert all(r.reason for r in results if r.status != "ok")
    np.testing.assert_allclose(
        results[1].params["body_pose"], fits[0].params["body_pose"], atol=1e-4
    )


def test_wrong_shapes_are_an_error():
    with pytest.raises(ValueError, match="145"):
        refusal(FitTarget(np.zeros((25, 3)), FOCAL_PX, CENTER_PX), FitConfig())
