"""The main job around the solver: resume, shards, signals, exit codes, failures as rows."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from curation.cli import parse_command_line
from curation.store import FitStore
from fitting.config import FitConfig
from fitting.loop import in_shard
from fitting.run import RunConfig, _resolve
from tests.fitting.fakes import FakeDataset, FakeFitter, fake_observe, fake_rooms, main

ROOT = Path(__file__).parents[2]
QUIET = ("--overlays", "none", "--log-level", "warning")


def run(data, *flags, **rooms):
    return main([str(data), *QUIET, *flags], fake_rooms(**rooms))


def all_rows(store, run_id=None):
    """Rows by fit id, without what the clock decides."""
    rows = {}
    for row in FitStore(store).iter_rows(run_id=run_id):
        assert row["fit_id"] not in rows, "a row is there twice"
        del row["solve_ms"]
        rows[row["fit_id"]] = row
    return rows


def assert_same_rows(a, b):
    assert a.keys() == b.keys()
    for fit_id, row in a.items():
        for name, value in row.items():
            np.testing.assert_equal(b[fit_id][name], value, err_msg=name)


def summary(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture
def data(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def start(data, *flags, images=40, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fitting.fakes", str(data), *flags],
        cwd=ROOT,
        env={**os.environ, "IMAGES": str(images), **{k: str(v) for k, v in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


# --- what a run leaves ---------------------------------------------------------------------------


def test_every_photo_has_a_row_and_a_second_run_adds_none(data, capsys):
    assert run(data) == 0
    first = summary(capsys)
    assert first["images"] == 40
    assert first["failed_by"]["no_person"] == 6
    assert first["fitted"] + first["failed"] == 40 + 8 - 1  # photo 10 shows nobody, not two
    rows = all_rows(data / "fits")
    assert {row["image_id"] for row in rows.values()} == {f"images/{k:04d}.jpg" for k in range(40)}
    nobody = next(row for row in rows.values() if row["status"] == "no_person")
    assert nobody["reason"] == "nobody is there"
    assert not nobody["has_fit"]
    assert np.isnan(nobody["body_pose"]).all()
    assert nobody["energy"] == {}
    fitted = next(row for row in rows.values() if row["status"] == "ok")
    assert fitted["energy"] == {"data": 1.0, "pose_prior": 0.5}
    assert fitted["starts"] == ["front", "back"]
    assert fitted["start_margin"] == pytest.approx(1.0)
    assert fitted["focal_px"] == pytest.approx(800)
    assert fitted["focal_source"] == "fitted"
    assert fitted["image_path"] == fitted["image_id"]
    record = yaml.safe_load(FitStore(data / "fits").run_path(first["run_id"]).read_text())
    assert record["config"]["fit"]["tolerance"] == FitConfig().tolerance
    assert record["config_hash"] == fitted["config_hash"]
    assert run(data) == 0
    second = summary(capsys)
    assert second["skipped"] == 40
    assert second["fitted"] == second["failed"] == second["images"] == 0
    assert_same_rows(all_rows(data / "fits"), rows)


def test_a_detector_that_fails_on_labelled_photos_is_told_at_the_end(data, capsys):
    def observe(samples, **settings):
        for seen in fake_observe(samples, **settings):
            yield replace(seen, warning="it fell over" if seen.image_id < "images/0003" else "")

    assert run(data, observe=observe) == 0
    *table, last = capsys.readouterr().out.strip().splitlines()
    assert json.loads(last)["detector_failed"] == 3
    line = next(line for line in table if line.startswith("detector failed"))
    assert " 3 " in line and "it fell over" in line
    assert run(data) == 0
    assert "detector failed" not in capsys.readouterr().out


def test_given_starts_do_what_they_are_told(data):
    for flags, way in (
        ((), "compete"),
        (("--init", "keypoints"), "alone"),
        (("--init", "lifter", "--fit.given-starts", "alone"), "alone"),
        (("--init", "keypoints", "--fit.given-starts", "compete"), "compete"),
    ):
        config = _resolve(parse_command_line(RunConfig, [str(data), *flags], "run", ""))
        assert config.fit.given_starts == way, flags


def test_a_result_does_not_depend_on_the_batch(data, tmp_path):
    assert run(data, "--batch-size", "1", "--out", str(tmp_path / "a")) == 0
    assert run(data, "--batch-size", "17", "--out", str(tmp_path / "b")) == 0
    assert_same_rows(all_rows(tmp_path / "a"), all_rows(tmp_path / "b"))


def test_batches_are_filled_by_count(data):
    batches = []
    assert run(data, "--batch-size", "8", batches=batches) == 0
    assert batches == [8, 8, 8, 8, 8, 1]


def test_shards_partition_the_photos(data, tmp_path):
    names = [sample.image_id for sample in FakeDataset(data, 500).iter_samples()]
    sizes = [sum(in_shard(name, (k, 3)) for name in names) for k in range(3)]
    assert sum(sizes) == 500
    assert min(sizes) > 120
    for k in range(3):
        assert run(data, "--shard", f"{k}/3") == 0
        images = {row["image_id"] for row in all_rows(data / "fits").values()}
        assert images == {n for n in names[:40] if any(in_shard(n, (i, 3)) for i in range(k + 1))}
    assert run(data, "--out", str(tmp_path / "whole")) == 0
    assert_same_rows(all_rows(data / "fits"), all_rows(tmp_path / "whole"))


def test_limit_takes_the_first_photos(data, capsys):
    assert run(data, "--limit", "5") == 0
    assert {row["image_id"] for row in all_rows(data / "fits").values()} == {
        f"images/{k:04d}.jpg" for k in range(5)
    }
    assert run(data, "--limit", "9") == 0
    assert summary(capsys)["skipped"] == 5


def test_other_settings_make_another_run(data, capsys):
    assert run(data, "--limit", "2") == 0
    first = summary(capsys)["run_id"]
    assert run(data, "--limit", "2", "--batch-size", "3", "--device", "cpu") == 0
    assert summary(capsys)["run_id"] == first
    for flags in (["--focal-px", "900"], ["--fit.tolerance", "0.1"], ["--seed", "1"]):
        assert run(data, "--limit", "2", *flags) == 0
        assert summary(capsys)["run_id"] != first
    assert len(FitStore(data / "fits").run_ids()) == 4
    assert run(data, "--limit", "2", "--overwrite") == 0
    assert summary(capsys)["run_id"] == f"{first}-2"
    assert run(data, "--limit", "2", "--run-id", "mine") == 0
    assert summary(capsys)["run_id"] == "mine"
    assert len(all_rows(data / "fits", "mine")) == len(all_rows(data / "fits", first))
    assert run(data, "--limit", "2", "--run-id", "mine", "--seed", "2") == 1


def test_no_resume_refuses_a_run_that_has_rows(data, capsys):
    assert run(data, "--no-resume") == 0
    assert run(data, "--no-resume") == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_file_of_settings(data, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("limit: 3\nseed: 4\nfit: {tolerance: 0.5}\n")
    assert run(data, "--config", str(path), "--seed", "5") == 0
    record = FitStore(data / "fits").run_record(summary(capsys)["run_id"])
    assert record["config"]["seed"] == 5
    assert record["config"]["fit"]["tolerance"] == 0.5
    assert len(all_rows(data / "fits")) == 4


def test_dry_run_writes_nothing(data, capsys):
    assert run(data, "--dry-run", "--limit", "12") == 0
    out = capsys.readouterr().out
    assert "# photos   12, of which 0 are done and 12 are to do" in out
    assert yaml.safe_load("\n".join(out.splitlines()[:-1]))["limit"] == 12
    assert json.loads(out.splitlines()[-1])["to_do"] == 12
    assert list(data.iterdir()) == []


# --- failures ------------------------------------------------------------------------------------


def first_x(image, person=0):
    for observation in fake_observe(
        FakeDataset(Path()).iter_samples(), source="", workers=1, cache_dir=None
    ):
        if observation.image_id == image and observation.person_index == person:
            return int(observation.keypoints_2d[0, 0])
    raise LookupError(image)


def test_a_person_that_breaks_the_solver_is_a_row(data, tmp_path, capsys):
    bad = first_x("images/0013.jpg")
    assert run(data, fails=(bad,)) == 0
    assert run(data, "--out", str(tmp_path / "whole")) == 0
    broken, whole = all_rows(data / "fits"), all_rows(tmp_path / "whole")
    errors = [row for row in broken.values() if row["status"] == "solver_error"]
    assert "images/0013.jpg" in {row["image_id"] for row in errors}
    assert all("ZeroDivisionError: a person that cannot be fitted" in r["reason"] for r in errors)
    good = {k: row for k, row in broken.items() if row["status"] != "solver_error"}
    assert_same_rows(good, {k: whole[k] for k in good})
    assert len(broken) == len(whole)
    capsys.readouterr()
    assert run(data) == 0
    assert summary(capsys)["skipped"] == 40, "failed rows are done, too"
    assert run(data, "--retry-failed") == 0
    retried = all_rows(data / "fits")
    assert not [row for row in retried.values() if row["status"] == "solver_error"]
    failed_images = {row["image_id"] for row in broken.values() if row["status"] != "ok"}
    for row in retried.values():
        assert row.pop("attempt") == (row["image_id"] in failed_images)
    for row in whole.values():
        del row["attempt"]
    assert_same_rows(retried, whole)


def test_a_solver_that_fails_for_everybody_fails_the_run(data, capsys):
    assert run(data, "--batch-size", "8", fails=tuple(range(481))) == 1
    out, err = capsys.readouterr()
    assert "failed for every one of the first 8 people" in err
    assert json.loads(out.splitlines()[-1])["outcome"] == "failed"


def test_what_is_done_is_kept_when_the_run_fails(data, capsys):
    def breaking(samples, **options):
        for n, observation in enumerate(fake_observe(samples, **options)):
            if n == 20:
                raise OSError("the detector is gone")
            yield observation

    assert run(data, "--batch-size", "4", observe=breaking) == 1
    assert "the detector is gone" in capsys.readouterr().err
    kept = all_rows(data / "fits")
    assert len(kept) >= 12
    record = FitStore(data / "fits").run_record(next(iter(kept.values()))["run_id"])
    assert record["invocations"][0]["outcome"] == "failed"
    assert run(data) == 0
    assert len(all_rows(data / "fits")) == 47


def test_a_photo_that_is_never_observed_is_a_row(data):
    def forgetful(samples, **options):
        for observation in fake_observe(samples, **options):
            if "0008" not in observation.image_id:
                yield observation

    assert run(data, observe=forgetful) == 0
    row = next(r for r in all_rows(data / "fits").values() if "0008" in r["image_id"])
    assert (row["status"], row["reason"]) == ("no_person", "nothing was observed in it")


def test_unreadable_parts_are_done_again(data, tmp_path):
    assert run(data, "--batch-size", "4", part_s=0) == 0
    whole = all_rows(data / "fits")
    parts = sorted((data / "fits/data").glob("*/*.parquet"))
    assert len(parts) > 5
    parts[1].write_bytes(b"")
    parts[3].write_bytes(parts[3].read_bytes()[:-7])
    assert run(data) == 0
    assert_same_rows(all_rows(data / "fits"), whole)


# --- bad usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--shard", "2/2"], "--shard must be I/N"),
        (["--shard", "a"], "--shard must be I/N"),
        (["--init", "regressor:x"], "there is no file x"),
        (["--init", "elsewhere"], "keypoints, lifter, mean, fits:STORE"),
        (["--init", "fits:nowhere"], "there are no fits in nowhere"),
        (["--init", "mean", "--solver", "lbfgs"], "--init is for the fast solver"),
        (["--batch-size", "0"], "--batch-size must be 1 or more"),
        (["--focal-px", "nan"], "--focal-px must be positive"),
        (["--run-id", "a/b"], "run id"),
        (["--overwrite", "--shard", "0/2"], "--run-id"),
    ],
)
def test_bad_usage_is_exit_2(data, flags, match, capsys):
    assert run(data, *flags) == 2
    assert match in capsys.readouterr().err
    assert list(data.iterdir()) == []


def test_a_directory_that_is_not_there(tmp_path, capsys):
    assert run(tmp_path / "none") == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_device_that_is_not_there(data, capsys):
    from fitting.rooms import start_torch

    rooms = replace(fake_rooms(), start_torch=start_torch)
    assert main([str(data), "--device", "cuda:99"], rooms) == 2
    assert "--device cuda:99 cannot be used: " in capsys.readouterr().err
    assert start_torch("cpu")[0] == "cpu"


def test_unknown_flags_get_a_suggestion(data, capsys):
    with pytest.raises(SystemExit) as error:
        run(data, "--bach-size", "3")
    assert error.value.code == 2
    assert "--batch-size" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(data, "--out", str(tmp_path / "file")) == 1
    assert "choose another --out" in capsys.readouterr().err


def test_help_names_the_flags_of_every_command(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    for flag in (
        "DATA", "--out", "--config", "--device", "--batch-size", "--resume", "--no-resume",
        "--overwrite", "--limit", "--shard", "--init", "--dry-run", "--seed", "--dtype",
        "--log-level", "--fit.tolerance",
    ):  # fmt: skip
        assert flag in text


# --- signals and kills ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_finishes_the_batch_and_writes_its_part(data, number, status):
    process = start(data, *QUIET, "--batch-size", "4", DELAY_S=0.3, PART_S=100)
    locks = data / "fits/meta/locks"
    deadline = time.monotonic() + 20
    while not list(locks.glob("*.lock")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.8)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == status, err
    line = json.loads(out.splitlines()[-1])
    assert line["outcome"] == "interrupted"
    rows = all_rows(data / "fits")
    assert 0 < len(rows) < 47
    assert len({row["image_id"] for row in rows.values()}) == line["images"]
    assert run(data) == 0
    assert len(all_rows(data / "fits")) == 47


def test_ctrl_c_reaches_all_processes_of_a_terminal(data):
    # The overlay worker is just starting when the first part is there.
    process = start(data, "--batch-size", "4", images=400, DELAY_S=0.05, PART_S=0.01)
    deadline = time.monotonic() + 20
    while not list((data / "fits").glob("data/*/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "Traceback" not in err


@pytest.mark.slow
def test_killed_twenty_times_the_rows_are_those_of_an_undisturbed_run(data, tmp_path):
    rng = np.random.default_rng(7)
    images, kills, seen, patience = 3000, 0, [], 1.0
    while kills < 20:
        process = start(data, *QUIET, "--batch-size", "3", images=images, DELAY_S=0.03, PART_S=0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience * rng.uniform(0.3, 1.1))
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        kills += 1
        seen.append(len(FitStore(data / "fits").read_table(["fit_id"])))
        patience += 0.2 * (seen[-1] == 0)  # a slow machine needs longer to start
    assert seen == sorted(seen), "rows were lost"
    assert 0 < seen[-1] < images, f"the kills came too early or too late: {seen}"
    final = start(data, *QUIET, images=images)
    _, err = final.communicate(timeout=60)
    assert final.returncode == 0, err
    undisturbed = start(data, *QUIET, "--out", str(tmp_path / "calm"), images=images)
    assert undisturbed.wait(60) == 0
    undisturbed.communicate()
    assert_same_rows(all_rows(data / "fits"), all_rows(tmp_path / "calm"))
    assert not list(data.rglob("*.tmp"))
    assert not list(data.rglob("*.unreadable"))


def test_a_killed_run_leaves_no_process_behind(data):
    process = start(data, "--batch-size", "4", images=400, DELAY_S=0.1, PART_S=0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 20
    workers = []
    while not workers and time.monotonic() < deadline:
        time.sleep(0.05)
        workers = [
            Path(f"/proc/{pid}")
            for pid in children.read_text().split()
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
        ]
    assert workers
    time.sleep(1.0)  # it may still be starting
    process.kill()
    process.communicate()
    while any(path.exists() for path in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(path.exists() for path in workers)


# --- pictures and report -------------------------------------------------------------------------


def test_overlays_and_report(data, capsys):
    flags = ("--log-level", "warning")
    assert main([str(data), *flags, "--limit", "12"], fake_rooms()) == 0
    rows = [row for row in all_rows(data / "fits").values() if row["has_fit"]]
    store = FitStore(data / "fits")
    paths = [
        store.overlay_path(row["run_id"], row["fit_id"], view)
        for row in rows
        for view in ("front", "side", "top")
    ]
    assert all(path.stat().st_size for path in paths)
    report = (data / "fits/report.html").read_text()
    assert report.count("data:image/jpeg") >= 2 * len(rows)
    assert "not SMPL-X" in report or "not in parameters" in report
    assert "nobody is there" in report
    assert "body residual" in capsys.readouterr().out
    for path in paths[:5]:
        path.unlink()
    assert main([str(data), *flags, "--limit", "12"], fake_rooms()) == 0
    assert all(path.exists() for path in paths), "missing pictures are made on resume"


def test_pictures_of_a_few(data):
    # the report wants its sample on top of the first ones
    assert main([str(data), "--overlays", "1", "--limit", "40"], fake_rooms()) == 0
    fronts = list((data / "fits/overlays").rglob("*.front.jpg"))
    assert 24 <= len(fronts) < 41


# --- which solver --------------------------------------------------------------------------------


def test_the_solver_is_chosen_by_its_settings(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    seen = []

    def choose(body, config, device, dtype, prior):
        seen.append((type(config).__name__, getattr(config, "body", None), dtype, prior))
        return FakeFitter(body)

    rooms = replace(fake_rooms(), make_fitter=choose)
    for number, flags in enumerate(
        (
            (),
            ("--solver", "lbfgs"),
            ("--solver", "lbfgs", "--reference-body", "own", "--dtype", "float64"),
        )
    ):
        caplog.clear()
        assert main([str(data), *QUIET, "--out", str(tmp_path / str(number)), *flags], rooms) == 0
        assert ("non-commercial" in caplog.text) == (number == 1)
    assert seen == [
        ("FitConfig", None, "float64", "gaussian"),
        ("ReferenceConfig", "smplx", "float32", "l2"),
        ("ReferenceConfig", "own", "float64", "l2"),
    ]


def test_only_the_settings_of_the_solver_in_use_name_a_run(data, capsys):
    def run_id(*flags):
        assert run(data, "--dry-run", *flags) == 0
        return summary(capsys)["run_id"]

    fast, slow = run_id(), run_id("--solver", "lbfgs", "--reference-body", "own")
    assert fast != slow
    assert run_id("--reference.robust-px", "50") == fast
    assert run_id("--dtype", "float64") == fast
    assert run_id("--solver", "lbfgs", "--reference-body", "own", "--fit.keep", "1") == slow
    assert run_id("--solver", "lbfgs", "--reference-body", "smplx") != slow
    assert run_id("--solver", "lbfgs", "--reference-body", "own", "--dtype", "float64") != slow


def test_a_settings_file_chooses_the_solver_too(data, tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text("solver: lbfgs\nreference: {body: own, freeze_translation: false}\n")
    assert run(data, "--dry-run", "--config", str(path)) == 0
    first = summary(capsys)["run_id"]
    flags = ("--reference-body", "own", "--reference.no-freeze-translation")
    assert run(data, "--dry-run", "--solver", "lbfgs", *flags) == 0
    assert summary(capsys)["run_id"] == first
