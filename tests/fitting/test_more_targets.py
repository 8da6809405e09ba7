"""3D keypoints and several views: laws on people without noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from bodymodel.keypoints import FIT_KEYPOINTS
from curation.samples import View
from fitting.config import FitConfig
from fitting.evidence import gather_points, stage_energy
from fitting.extra import seen_terms
from fitting.fit import Fitter
from fitting.rigid import align
from fitting.views import triangulate
from tests.fitting.people import CENTER_PX, FOCAL_PX, make_people

NOTHING = np.zeros((len(FIT_KEYPOINTS), 3), np.float32)


@pytest.fixture(scope="module")
def exact():
    """Priors that hardly speak, so that exact evidence is met."""
    weak = FitConfig().fine[-1]
    weak = replace(
        weak, w_pose=0.01, w_shape=0.01, w_hand=0.1, w_expression=0.1, w_face_points=1.0,
        w_limits=1.0,
    )  # fmt: skip
    # the energy goes to nothing: every step lowers it by a good part of what is left
    return FitConfig(fine=(FitConfig().fine[0], weak), loose_weight=1.0, tolerance=1e-3)


@pytest.fixture(scope="module")
def fitter(toy_body, exact):
    return Fitter(toy_body, exact, dtype="float64")


@pytest.fixture(scope="module")
def people(toy_body):
    return make_people(toy_body, 3, noise_px=0.0)


def second_view(points, angle_deg=70.0):
    """The same points seen from the side, 4 m from the person."""
    turn = Rotation.from_euler("y", angle_deg, degrees=True).as_matrix()
    middle = np.array([0.05, 0.1, 4.0])
    shift = np.array([0, 0, 4.0]) - turn @ middle
    moved = points @ turn.T + shift
    pixels = 1100.0 * moved[:, :2] / moved[:, 2:] + CENTER_PX
    keypoints = np.column_stack([pixels, np.ones(len(points))])
    keypoints[~np.isfinite(keypoints).all(1)] = 0
    return View(keypoints.astype(np.float32), 1100.0, CENTER_PX, turn, shift)


def with_views(people):
    targets, _, points = people
    return [replace(t, views=(second_view(p),)) for t, p in zip(targets, points, strict=True)]


def in_space(points, confidence=1.0):
    out = np.column_stack([points, np.full(len(points), confidence)])
    out[~np.isfinite(out).all(1)] = 0
    return out


def body_error_mm(fitter, fit, truth):
    from curation.reproject import Reprojector

    points = Reprojector.for_body(fitter.body).points(fit.params)
    return 1000 * np.linalg.norm(points - truth, axis=1)[:22]


def test_rays_meet_at_the_points(people):
    for target, truth in zip(with_views(people), people[2], strict=True):
        found = triangulate(target, 0.1)
        seen = found[:, 3] > 0
        assert seen.sum() > 100
        np.testing.assert_allclose(found[seen, :3], truth[seen], atol=2e-4)
        alone = triangulate(replace(target, views=()), 0.1)
        assert not alone[:, 3].any()


def test_two_views_recover_depth_to_millimetres(fitter, people):
    for fit, truth in zip(fitter.fit(with_views(people)), people[2], strict=True):
        assert fit.status == "ok"
        assert np.median(body_error_mm(fitter, fit, truth)) < 3


def test_points_in_space_alone_are_enough(fitter, people):
    targets = [
        replace(
            t, keypoints_2d=NOTHING, keypoints_3d=in_space(p), focal_px=np.nan,
        )
        for t, p in zip(people[0], people[2], strict=True)
    ]  # fmt: skip
    for fit, truth in zip(fitter.fit(targets), people[2], strict=True):
        assert fit.status == "ok"
        assert np.median(body_error_mm(fitter, fit, truth)) < 3
        assert np.nanmedian(fit.residual_3d_mm) < 3
        assert np.isnan(fit.projected_2d).all()
        assert np.isnan(fit.focal_px)


def test_a_free_frame_gives_the_pose_and_the_photo_the_place(fitter, people):
    turn, shift = Rotation.from_rotvec([0.4, 2.0, -1.0]).as_matrix(), np.array([5.0, -3, 1])
    targets = [
        replace(t, keypoints_3d=in_space(p @ turn.T + shift), frame_3d="free")
        for t, p in zip(people[0], people[2], strict=True)
    ]
    for fit, truth in zip(fitter.fit(targets), people[2], strict=True):
        assert np.median(body_error_mm(fitter, fit, truth)) < 8
        assert np.nanmedian(fit.residual_3d_mm) < 3


@pytest.mark.parametrize("kind", ["views", "camera", "free"])
def test_the_gradient_is_that_of_the_energy(fitter, people, kind):
    if kind == "views":
        targets = with_views(people)
    else:
        targets = [
            replace(
                t, keypoints_3d=in_space(p + 0.03 * np.sin(np.arange(145))[:, None]), frame_3d=kind
            )
            for t, p in zip(people[0], people[2], strict=True)
        ]
    unit = torch.full((3,), 1.2, dtype=torch.float64)
    terms = seen_terms(targets, fitter.prepared.fine, fitter.config, unit)
    evidence = gather_points(fitter.prepared, targets, fitter.prepared.fine)
    energy = stage_energy(
        fitter.prepared, fitter.prepared.fine, FitConfig().fine[-1], evidence, terms
    )
    generator = torch.Generator().manual_seed(1)
    x = 0.1 * torch.randn(3, fitter.prepared.layout.size, generator=generator, dtype=torch.float64)
    x[:, 0] += 3.0
    x[:, fitter.prepared.layout.slices["transl"]] = torch.tensor(
        [0.1, 0.2, 3.9], dtype=torch.float64
    )
    at = energy(x)
    step = fitter.prepared.layout.step
    for column in range(0, x.shape[1] - 1, 7):
        delta = torch.zeros_like(x)
        delta[:, column] = 1e-6
        slope = (energy(step(x, delta)).energy - energy(step(x, -delta)).energy) / 2e-6
        torch.testing.assert_close(2 * at.gradient[:, column], slope, rtol=1e-3, atol=2e-2)
    assert (torch.linalg.eigvalsh(at.matrix) > -1e-6 * at.matrix.abs().amax()).all()


def test_more_evidence_of_one_person_does_not_touch_another(fitter, people):
    plain = people[0]
    (alone,) = fitter.fit([plain[0]])
    mixed = fitter.fit([plain[0], with_views(people)[1]])
    np.testing.assert_allclose(alone.params["body_pose"], mixed[0].params["body_pose"], atol=1e-6)


def test_a_rigid_motion_is_found_again():
    rng = np.random.default_rng(0)
    points = torch.as_tensor(rng.normal(size=(2, 9, 3)))
    turn = torch.as_tensor(Rotation.random(2, random_state=1).as_matrix())
    moved = points @ turn.mT + 2
    found, shift = align(points, moved, torch.ones(2, 9).double())
    torch.testing.assert_close(found, turn)
    torch.testing.assert_close(shift, torch.full((2, 3), 2.0).double())


def test_wrong_shapes_are_said(fitter, people):
    with pytest.raises(ValueError, match="keypoints_3d"):
        fitter.fit([replace(people[0][0], keypoints_3d=np.zeros((22, 4)))])
    bad = replace(with_views(people)[0], focal_px=float("nan"))
    assert "focal length" in fitter.fit([bad])[0].reason
    assert people[0][0].focal_px == FOCAL_PX
