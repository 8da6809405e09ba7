"""Rows hold what the solver saw and gave: reprojected by numpy, measured against the truth."""

from dataclasses import replace

import numpy as np
import pytest

from bodymodel.keypoints import FIT_KEYPOINTS
from curation.reproject import Reprojector
from curation.run_writer import RunWriter
from curation.samples import KnownCamera, PersonObservation
from curation.schema import fit_schema, rows_to_table
from curation.store import FitStore
from fitting.fit import Fitter
from fitting.focal import FocalChoice, choose_focal
from fitting.records import FitResult
from fitting.rows import RowMaker, fit_target
from fitting.truth import errors_against_truth
from tests.fit_rows import run_info
from tests.fitting.people import make_people
from tests.random_body import random_body, random_params


def observation(keypoints, **changes):
    values = {
        "image_id": "a.jpg",
        "person_index": 0,
        "width": 640,
        "height": 800,
        "keypoints_2d": keypoints.astype(np.float32),
        "image_sha256": "0" * 64,
    }
    return PersonObservation(**values | changes)


def row_maker(body, **changes):
    values = {
        "run_id": "run-1", "dataset": "photos", "body": body, "config_hash": "c0ffee",
        "code_version": "0", "torch_version": "0", "device": "cpu",
    }  # fmt: skip
    return RowMaker(**values | changes)


def test_a_row_alone_reprojects_what_the_solver_saw(open_body, tmp_path):
    targets, truth, _ = make_people(open_body, 3)
    maker = row_maker(open_body, focal_px=targets[0].focal_px)
    truth = [{k: v[i] for k, v in truth.numpy().items()} for i in range(3)]
    observations = [
        observation(
            target.keypoints_2d,
            image_id=f"{n}.jpg",
            truth=truth[n] | {"body_sha256": open_body.sha256},
        )
        for n, target in enumerate(targets)
    ]
    results = Fitter(open_body).fit([fit_target(o, maker.focal_px) for o in observations])
    rows = [maker.row(o, r, o.image_id) for o, r in zip(observations, results, strict=True)]
    info = run_info(tmp_path, body_name=open_body.name, body_sha256=open_body.sha256)
    with RunWriter(FitStore(tmp_path), info) as writer:
        writer.write(rows)
    reprojector = Reprojector.for_body(open_body)
    for row, result in zip(FitStore(tmp_path).iter_rows(), results, strict=True):
        again = reprojector.project(row)
        defined = np.isfinite(result.projected_2d).all(-1)
        assert defined.sum() >= 128
        np.testing.assert_array_equal(np.isfinite(again).all(-1), defined)
        assert np.abs(again - result.projected_2d)[defined].max() < 0.01
        unsure = np.nan_to_num(reprojector.residuals(row) - row["residual_px"])
        assert np.abs(unsure).max() < 0.01
        assert row["has_truth"]
        # Alignment minimises squares, so the mean distance after it may be a little larger.
        assert 0 < row["pa_mpjpe_mm"] < 150
        assert 0 < row["mpjpe_mm"] < 150
        assert set(row["energy"]) == set(result.energy)
        assert row["residual_body_pct"] == pytest.approx(
            100 * row["residual_body_px"] / row["person_height_px"], rel=1e-5
        )


def result_of(body, seed=0, **changes):
    values = {
        "params": random_params(body, seed),
        "projected_2d": np.zeros((145, 2), np.float32),
        "residual_px": np.ones(145, np.float32),
        "residual_part_px": dict.fromkeys(("body", "left_hand", "right_hand", "face"), 1.0),
        "person_height_px": 200.0,
        "energy": {"data": 1.0},
        "energy_total": 1.0,
        "starts": ("front",),
        "start_energies": np.ones(1, np.float32),
        "start_margin": float("nan"),
        "winner": "front",
        "iterations": 3,
        "status": "ok",
        "reason": "",
    }
    return FitResult(**values | changes)


@pytest.mark.parametrize(
    "result",
    [
        None,
        {"status": "too_few_keypoints", "reason": "2 points", "params": {}},
        {"status": "ok", "params": "nan"},
    ],
)
def test_rows_without_a_fit_hold_no_numbers(result):
    body = random_body(0)
    if result is not None:
        changes = dict(result)
        if changes["params"] == "nan":
            changes["params"] = random_params(body) | {"transl": np.full(3, np.nan, np.float32)}
        result = result_of(body, **changes)
    seen = observation(np.ones((145, 3)))
    if result is None:
        seen = replace(seen, status="no_person", reason="nobody")
    row = row_maker(body).row(seen, result, "a.jpg")
    rows_to_table([row], fit_schema())  # every column is there, of its shape
    assert not row["has_fit"]
    assert row["status"] != "ok"
    assert row["reason"]
    for name in ("global_orient", "betas", "transl", "residual_px", "focal_px"):
        assert np.isnan(row[name]).all()


def test_bodies_without_expression():
    body = random_body(0, num_betas=16, num_expression=0)
    maker = row_maker(body)
    seen = observation(np.ones((145, 3)))
    rows = [maker.row(seen, result_of(body), "a.jpg"), maker.row(seen, None, "b.jpg")]
    assert len(rows_to_table(rows, fit_schema(16, 0))) == 2


def test_what_was_seen_is_flagged():
    points = np.zeros((145, 3))
    points[FIT_KEYPOINTS.index("left_index1")] = [5, 5, 1]
    row = row_maker(random_body(0)).row(observation(points), None, "a.jpg")
    assert row["has_keypoints"]
    assert row["has_left_hand"]
    assert not row["has_right_hand"]
    assert not row["has_face"]


def test_where_the_focal_length_comes_from():
    seen = observation(np.zeros((145, 3)), focal_px=777.0)
    blind = replace(seen, focal_px=float("nan"))
    calibrated = replace(seen, camera=KnownCamera(1234.0, (300.0, 410.0)))
    diagonal = np.hypot(640, 800)
    assert choose_focal(calibrated, 500.0) == FocalChoice(1234, "dataset")
    assert choose_focal(seen, 500.0) == FocalChoice(500, "given")
    assert choose_focal(seen, fov_deg=90.0).focal_px == pytest.approx(400)
    assert choose_focal(seen) == FocalChoice(777, "exif")
    assert choose_focal(blind) == FocalChoice(pytest.approx(diagonal), "default")
    assert choose_focal(blind, free_sd=0.6) == FocalChoice(pytest.approx(diagonal), "fitted", 0.6)
    target = fit_target(seen)
    assert (target.focal_px, target.focal_sd) == (777, 0)
    np.testing.assert_array_equal(target.center_px, [320, 400])
    np.testing.assert_array_equal(fit_target(calibrated).center_px, [300, 410])


def test_truth_counts_only_for_its_own_body(caplog):
    body = random_body(0)
    params = random_params(body, 1)
    row = row_maker(body).row(
        observation(np.zeros((145, 3)), truth=params | {"body_sha256": body.sha256}),
        result_of(body, 1),
        "a.jpg",
    )
    assert row["has_truth"]
    assert row["mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    assert row["trunk_lean_error_deg"] == pytest.approx(0, abs=1e-3)
    for truth in (params, params | {"body_sha256": "f" * 64}, {"body_sha256": body.sha256}):
        assert not errors_against_truth(body, np.zeros((55, 3)), truth)["has_truth"]
    broken = params | {"body_sha256": body.sha256, "body_pose": np.zeros((23, 3))}
    assert not errors_against_truth(body, np.zeros((55, 3)), broken)["has_truth"]
    assert "made with body ffffffffffff, not with random-0" in caplog.text
