"""What a new user has, through the command: hands, heads, children, bad files, a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from conversion.run import main
from tests.conversion.parts import part_arrays
from tests.conversion.people import smpl_people


@pytest.fixture(autouse=True)
def log(caplog):
    return caplog


def run(capsys, *arguments):
    status = main([*map(str, arguments)])
    captured = capsys.readouterr()
    lines = captured.out.strip().splitlines()
    return status, json.loads(lines[-1]) if lines else None, captured.err


def rows_of(out):
    (path,) = sorted((out / "data").rglob("part-*.parquet"))
    return pq.ParquetFile(path).read().to_pandas()


@pytest.fixture(scope="module")
def models(tmp_path_factory, smplx):
    """A directory in the published layout: MANO, FLAME, and the published vertex ids."""
    root = tmp_path_factory.mktemp("models")
    (root / "mano").mkdir()
    (root / "flame").mkdir()
    ids = {}
    for side in ("left", "right"):
        arrays, ids[f"{side}_hand"] = part_arrays(smplx, "mano", side)
        np.savez(root / "mano" / f"MANO_{side.upper()}.npz", **arrays)
    arrays, head = part_arrays(smplx, "flame")
    np.savez(root / "flame" / "FLAME_NEUTRAL.npz", **arrays)
    import pickle

    with (root / "MANO_SMPLX_vertex_ids.pkl").open("wb") as file:
        pickle.dump(ids, file, protocol=2)
    np.save(root / "SMPL-X__FLAME_vertex_ids.npy", head)
    return root


def test_mano(models, tmp_path, capsys, smplx, log):
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(3, 12))
    np.savez(
        tmp_path / "a_left.npz", global_orient=rng.normal(size=(3, 3)), hand_pose=pose,
        betas=np.zeros(10), transl=np.zeros((3, 3)),
    )  # fmt: skip
    flags = ("--from-models", models, "--to-models", "open", "--correspondence",
             models / "MANO_SMPLX_vertex_ids.pkl")  # fmt: skip
    status, line, _ = run(capsys, tmp_path / "a_left.npz", "--out", tmp_path / "out", *flags)
    assert status == 0 and line["ok"] == 3
    rows = rows_of(tmp_path / "out")
    wanted = pose @ smplx.hand_components[0][:12] + smplx.hand_means[0]
    found = np.stack(rows["left_hand_pose"])
    # the same turns: past pi axis-angles may be written the other way round
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec(wanted.reshape(-1, 3)).inv() * Rotation.from_rotvec(
        found.reshape(-1, 3)
    )
    assert turn.magnitude().max() < 1e-4 and (rows["v2v_mean_mm"] < 0.3).all()
    assert np.isfinite(rows["v2v_left_hand_mm"]).all() and np.isnan(rows["v2v_face_mm"]).all()

    # 45 numbers: nothing is guessed
    np.savez(tmp_path / "b.npz", poses=np.zeros((1, 48)), betas=np.zeros(10))
    status, line, _ = run(capsys, tmp_path / "b.npz", "--out", tmp_path / "b", *flags)
    assert status == 1 and "which hand it is: give --hand" in log.text
    flags = (*flags, "--hand", "right")
    status, line, _ = run(capsys, tmp_path / "b.npz", "--out", tmp_path / "b", *flags)
    assert status == 1 and "--hand-mean included" in log.text
    assert run(capsys, tmp_path / "b.npz", "--out", tmp_path / "b", *flags, "--hand-mean", "add")[
        1
    ]["ok"]
    found = np.stack(rows_of(tmp_path / "b")["right_hand_pose"])[0]
    np.testing.assert_allclose(found, smplx.hand_means[1], atol=1e-4)


def test_flame(models, tmp_path, capsys):
    rng = np.random.default_rng(0)
    pose = np.zeros((2, 6))
    pose[:, 1], pose[:, 3] = (1.0, -2.0), 0.2
    exp = rng.normal(size=(2, 10))
    np.savez(tmp_path / "face.npz", pose=pose, exp=exp, shape=np.zeros((2, 10)))
    status, line, _ = run(
        capsys, tmp_path / "face.npz", "--out", tmp_path / "out", "--from-models", models,
        "--to-models", "open", "--correspondence", models / "SMPL-X__FLAME_vertex_ids.npy",
    )  # fmt: skip
    assert status == 0 and line["ok"] == 2
    rows = rows_of(tmp_path / "out")
    np.testing.assert_allclose(np.stack(rows["expression"]), exp, atol=1e-3)
    np.testing.assert_allclose(np.stack(rows["jaw_pose"]), pose[:, 3:], atol=1e-5)
    np.testing.assert_allclose(np.stack(rows["global_orient"]), pose[:, :3], atol=0.02)


def test_mano_and_flame_need_their_files(tmp_path, capsys, log):
    np.savez(tmp_path / "x_right.npz", poses=np.zeros((1, 48)))
    status, line, _ = run(
        capsys, tmp_path / "x_right.npz", "--out", tmp_path / "out", "--from-models", "open"
    )
    assert status == 1 and line["bad_files"] == 1 and "no open model" in log.text


def test_a_body_with_manos_hands(tmp_path, capsys, smplx):
    """SMPL with whole hands, and SMPL-H with components, the mean beside them."""
    pose, betas, _ = smpl_people(2)
    rng = np.random.default_rng(0)
    whole, few = 0.2 * rng.normal(size=(2, 45)), rng.normal(size=(2, 6))
    body = pose.reshape(2, 72)
    np.savez(
        tmp_path / "smpl.npz", global_orient=body[:, :3], body_pose=body[:, 3:], betas=betas,
        left_hand_pose=whole, right_hand_pose=whole,
    )  # fmt: skip
    np.savez(
        tmp_path / "smplh.npz", global_orient=body[:, :3], body_pose=body[:, 3:66], betas=betas,
        left_hand_pose=few, right_hand_pose=few,
    )  # fmt: skip
    flags = ("--from-models", "open", "--to-models", "open")
    run(capsys, tmp_path / "smpl.npz", "--out", tmp_path / "a", *flags, "--hand-mean", "add")
    found = np.stack(rows_of(tmp_path / "a")["right_hand_pose"])
    np.testing.assert_allclose(found, whole + smplx.hand_means[1], atol=1e-5)
    run(capsys, tmp_path / "smplh.npz", "--out", tmp_path / "b", *flags)
    wanted = few @ smplx.hand_components[0][:6] + smplx.hand_means[0]
    found = np.stack(rows_of(tmp_path / "b")["left_hand_pose"])
    assert np.abs(found - wanted).mean() < 0.03


def test_children(tmp_path, capsys, smpl, smplx):
    """A template half as tall, with a child's proportions, as the last beta of both bodies."""
    for body in (smpl, smplx):
        y = body.v_template[:, 1]
        size = 0.5 + 0.15 / (1 + np.exp(-(y - y.max() + 0.35) / 0.05))  # the head is large
        np.save(tmp_path / f"{body.family}_kid.npy", body.v_template * size[:, None])
    pose, betas, _ = smpl_people(3)
    np.savez(
        tmp_path / "a.npz", poses=pose.reshape(3, 72),
        betas=np.c_[0.5 * betas, [0.3, 0.7, 1.0]],
    )  # fmt: skip
    flags = (tmp_path / "a.npz", "--from-models", "open", "--to-models", "open",
             "--from-kid", tmp_path / "smpl_kid.npy")  # fmt: skip
    run(capsys, *flags, "--out", tmp_path / "without")
    status, line, _ = run(
        capsys, *flags, "--out", tmp_path / "with", "--to-kid", tmp_path / "smplx_kid.npy"
    )
    assert status == 0 and line["ok"] == 3
    rows = rows_of(tmp_path / "with")
    np.testing.assert_allclose(np.stack(rows["betas"])[:, 10], [0.3, 0.7, 1.0], atol=0.03)
    assert (rows["v2v_mean_mm"] < 1.5).all() and rows["body_name"][0].endswith("kid")
    adults = rows_of(tmp_path / "without")
    assert adults["status"].tolist() == ["ok"] * 3  # or not_converged, but never lost
    assert adults["v2v_mean_mm"].mean() > 2 * rows["v2v_mean_mm"].mean()


def test_bad_input(tmp_path, capsys, smpl, log):
    """Each is a plain error or a failed row, and the rest is converted."""
    from conversion.output import write_meshes

    good = smpl.v_template.astype(np.float64)
    turned = good[:, [0, 2, 1]] * (1, -1, 1)  # z up
    holed = good.copy()
    holed[7] = np.nan
    meshes = {"a_good": good, "b_mm": 1000 * good, "c_cm": 100 * good, "d_z_up": turned,
              "e_mirrored": good * (-1, 1, 1)}  # fmt: skip
    write_meshes(tmp_path / "in" / "m", list(meshes), np.stack(list(meshes.values())), smpl.faces)
    write_meshes(tmp_path / "in" / "m", ["f_count"], good[None, :6880], smpl.faces[:100])
    data = (tmp_path / "in" / "m" / "a_good.ply").read_bytes()
    (tmp_path / "in" / "m" / "g_cut.ply").write_bytes(data[:5000])
    pose, betas, transl = smpl_people(3)
    pose[1, 3] = np.nan
    degrees = np.degrees(np.nan_to_num(pose)).reshape(3, 72)
    np.savez(tmp_path / "in" / "degrees.npz", poses=degrees, betas=betas, trans=3000 * transl)
    np.savez(tmp_path / "in" / "nan.npz", poses=pose.reshape(3, 72), betas=betas, trans=transl)
    whole = (tmp_path / "in" / "nan.npz").read_bytes()
    (tmp_path / "in" / "cut.npz").write_bytes(whole[:-900])
    np.savez(
        tmp_path / "in" / "hash.npz", poses=pose.reshape(3, 72), betas=betas,
        body_sha256="f" * 64,
    )  # fmt: skip
    status, line, _ = run(
        capsys, tmp_path / "in", "--out", tmp_path / "out", "--from-models", "open",
        "--to-models", "open",
    )  # fmt: skip
    assert status == 0 and line["bad_files"] == 2 and line["ok"] == 4
    assert "cut.npz cannot be read" in log.text and "with hash ffff" in log.text
    told = {}
    for path in (tmp_path / "out" / "data").rglob("*.parquet"):
        frame = pq.ParquetFile(path).read().to_pandas()
        told |= {(r.clip, r.label or r.frame): (r.status, r.reason) for r in frame.itertuples()}
    for label, reason in {
        "b_mm.ply": "millimetres", "c_cm.ply": "centimetres", "e_mirrored.ply": "inside out",
        "f_count.ply": "6890 vertices, the mesh has 6880", "g_cut.ply": "",
    }.items():  # fmt: skip
        status, why = told["m", label]
        assert status == "input_error" and why and reason in why, (label, why)
    assert told["m", "a_good.ply"][0] == told["m", "d_z_up.ply"][0] == "ok"
    assert told["degrees", 2][0] == "input_error" and "in degrees?" in told["degrees", 2][1]
    assert "degrees is 22972 m from the origin" in log.text
    assert told["nan", 1] == ("input_error", "the parameters are not finite")


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    """kill -9 in the middle of a motion; Ctrl-C; then the same command finishes it."""
    pose, betas, transl = smpl_people(400)
    np.savez(
        tmp_path / "a.npz", poses=pose.reshape(400, 72), betas=betas[0], trans=transl,
        mocap_framerate=30.0,
    )  # fmt: skip
    command = [
        sys.executable, "-m", "conversion.run", str(tmp_path / "a.npz"), "--out",
        str(tmp_path / "out"), "--part-frames", "16", "--batch-size", "16", "--from-models", "open",
        "--to-models", "open", "--shared-betas",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start():
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_for(count, process):
        end = time.monotonic() + 200
        while len(list((tmp_path / "out").glob("data/a/*.parquet"))) < count:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)

    process = start()
    wait_for(2, process)
    process.kill()
    process.communicate()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("data/a/*.parquet")}
    process = start()
    wait_for(len(kept) + 2, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert (
        process.returncode == 130 and json.loads(out.splitlines()[-1])["outcome"] == "interrupted"
    )
    process = start()
    out, err = process.communicate()
    line = json.loads(out.splitlines()[-1])
    assert process.returncode == 0, err
    assert line["skipped"] + line["frames"] == 400 and line["skipped"] >= 64
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())
    rows = pq.ParquetDataset(tmp_path / "out" / "data").read(["frame", "betas"]).to_pydict()
    assert sorted(rows["frame"]) == list(range(400))
    assert len({tuple(b) for b in rows["betas"]}) == 1  # one shape, over all three
    from curation.store import FitStore

    ids = [r["image_id"] for r in FitStore(tmp_path / "out" / "fits").iter_rows(["image_id"])]
    assert sorted(ids) == [f"a/{k:06d}" for k in range(400)]


def test_clips_of_one_body_with_more_and_less_expression(tmp_path, capsys):
    """Each keeps its own: what was built for the first must not be taken for the second."""
    rng = np.random.default_rng(0)
    for name, width in (("a", 3), ("b", 10)):
        np.savez(
            tmp_path / f"{name}.npz", global_orient=np.zeros((2, 3)), body_pose=np.zeros((2, 63)),
            betas=np.zeros(10), expression=rng.normal(size=(2, width)),
        )  # fmt: skip
    wide = np.zeros((2, 50))  # Motion-X has fifty, most of them zero
    wide[:, :10] = 1
    np.savez(
        tmp_path / "c.npz", global_orient=np.zeros((2, 3)), body_pose=np.zeros((2, 63)),
        betas=np.zeros(10), expression=wide,
    )  # fmt: skip
    flags = ("--from-models", "open", "--to-models", "open", "--out", tmp_path / "out")
    status, line, _ = run(capsys, tmp_path, *flags)
    assert status == 0 and line["ok"] == 6 and not line["bad_files"]
    rows = pq.ParquetDataset(tmp_path / "out" / "data" / "c").read(["expression"]).to_pydict()
    np.testing.assert_allclose(rows["expression"], np.ones((2, 10)), atol=0.02)


def test_a_gender_without_a_file_is_told_once(tmp_path, capsys, log, smplx):
    from bodymodel.openbody import load_open_arrays

    (tmp_path / "models").mkdir()
    np.savez(tmp_path / "models" / "SMPLX_NEUTRAL.npz", **load_open_arrays("smplx", "neutral"))
    (tmp_path / "in").mkdir()
    pose, betas, transl = smpl_people(2)
    for name in "ab":
        np.savez(
            tmp_path / "in" / f"{name}.npz", poses=pose.reshape(2, 72), betas=betas, trans=transl,
            gender="female",
        )  # fmt: skip
    flags = (tmp_path / "in", "--from-models", "open", "--to-models", tmp_path / "models")
    status, line, _ = run(capsys, *flags, "--out", tmp_path / "out")
    assert status == 1 and line["bad_files"] == 2
    assert log.text.count("there is a neutral one") == 1 and "--gender neutral" in log.text
    status, line, _ = run(capsys, *flags, "--out", tmp_path / "out", "--gender", "neutral")
    assert status == 0 and line["ok"] == 4
