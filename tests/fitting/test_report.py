"""The report says what the rows say, and shows names as text, whatever is in them."""

import re

import numpy as np
import pytest

from curation.run_writer import RunWriter
from curation.store import FitStore
from fitting.report import histogram_svg, shown_fits, write_report
from fitting.statistics import read_numbers, summary_rows, text_table
from tests.fit_rows import example_row, run_info

NASTY = '<script>alert("x")</script>.jpg'


def store_of(tmp_path, count=60):
    rng = np.random.default_rng(0)
    rows = []
    for k in range(count):
        is_fit = k % 10 != 9
        number = np.float32(rng.uniform(1, 5))
        rows.append(
            example_row(
                k,
                fit_id=f"{k * 7919 % 1000:032x}",
                run_id="run-1",
                image_id=NASTY if k == 0 else f"{k}.jpg",
                person_index=0,
                status="ok" if is_fit else "no_person",
                reason="" if is_fit else "nobody is there",
                has_fit=is_fit,
                has_truth=is_fit and k < 20,
                residual_body_px=number if is_fit else np.nan,
                residual_face_px=np.nan,
                person_height_px=np.float32(200) if is_fit else np.nan,
                residual_body_pct=number / 2 if is_fit else np.nan,
                trunk_lean_error_deg=np.float32(-4),
                mpjpe_mm=np.float32(50),
            )
        )
    store = FitStore(tmp_path)
    with RunWriter(store, run_info(tmp_path)) as writer:
        writer.write(rows)
    return store, rows


def test_the_table_counts_and_measures(tmp_path):
    store, rows = store_of(tmp_path)
    lines = {line[0]: line[1:] for line in summary_rows(read_numbers(store, "run-1"))}
    assert lines["rows"] == ("60", "", "", "in 60 photos")
    assert lines["fitted"] == ("54", "", "", "90.0 %")
    assert lines["no person"] == ("6", "", "", "mostly: nobody is there")
    body = [r["residual_body_px"] for r in rows if r["has_fit"]]
    assert lines["body residual"][:2] == ("54", f"{np.median(body):.1f} px")
    assert lines["face residual"] == ("0", "-", "-", "")
    within = sum(value / 2 <= 2 for value in body)
    assert lines["body within 2 % of height"][0] == str(within)
    assert lines["error MPJPE"][:2] == ("18", "50.0 mm")
    assert lines["error of trunk lean"] == (
        "18", "4.0 deg", "4.0 deg", "size; mean -4.0 deg, + is toward the camera",
    )  # fmt: skip
    assert "not in parameters" in text_table(read_numbers(store, "run-1"), body_is_open=True)
    assert "not in parameters" not in text_table(read_numbers(store, "run-1"), body_is_open=False)


def test_names_are_shown_as_text(tmp_path):
    store, _ = store_of(tmp_path, 8)
    text = write_report(store, "run-1").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert" in text
    assert "http" not in re.sub(r"data:[^\"]*", "", text), "it must stand alone"


def test_best_worst_and_a_sample_are_shown(tmp_path):
    store, rows = store_of(tmp_path)
    shown = shown_fits(store, "run-1")
    fits = sorted((r for r in rows if r["has_fit"]), key=lambda r: r["residual_body_pct"])
    assert {r["fit_id"] for r in fits[:6]} <= shown
    assert {r["fit_id"] for r in fits[-12:]} <= shown
    assert len(shown) <= 6 + 12 + 24


def test_a_run_without_fits_has_a_report(tmp_path):
    store = FitStore(tmp_path)
    with RunWriter(store, run_info(tmp_path)):
        pass
    assert "None." in write_report(store, "run-1").read_text()
    assert text_table(read_numbers(store, "run-1"), True)


@pytest.mark.parametrize("count", [1, 5, 1000])
def test_every_value_is_in_a_bar(count):
    values = np.append(np.random.default_rng(0).normal(size=count), np.nan)
    svg = histogram_svg(values, "a <title>", "px")
    assert sum(map(int, re.findall(r": (\d+)</title>", svg))) == count
    assert "a &lt;title&gt;" in svg
    assert histogram_svg(np.full(3, np.nan), "t", "px") == ""
