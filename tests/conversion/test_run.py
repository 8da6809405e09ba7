import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bodymodel.model import BodyModel
from conversion.job import in_shard
from conversion.output import write_meshes
from conversion.run import main
from tests.conversion.people import smpl_people


@pytest.fixture(scope="module")
def source(tmp_path_factory, smpl):
    """A motion of ten frames, a folder with two good and two bad meshes, a broken file."""
    root = tmp_path_factory.mktemp("source")
    pose, betas, transl = smpl_people(10)
    np.savez(
        root / "walk.npz", poses=pose.reshape(10, 72), betas=betas[0], trans=transl,
        gender="neutral", mocap_framerate=60.0,
    )  # fmt: skip
    with torch.no_grad():
        meshes = BodyModel(smpl).forward_pose(torch.tensor(pose[:2])).vertices.numpy()
    write_meshes(root / "scan", ["a", "b"], meshes, smpl.faces)
    write_meshes(root / "scan", ["c"], 1000 * meshes[:1], smpl.faces)
    (root / "scan" / "d.ply").write_bytes((root / "scan" / "a.ply").read_bytes()[:900])
    (root / "cut.npz").write_bytes((root / "walk.npz").read_bytes()[:300])
    return root


def run(capsys, *arguments):
    """Return the status, the table and the last line."""
    status = main([*map(str, arguments), "--from-models", "open", "--to-models", "open"])
    out = capsys.readouterr().out.strip().splitlines()
    return status, "\n".join(out[:-1]), json.loads(out[-1]) if out else None


def test_a_folder_end_to_end(source, tmp_path, capsys):
    out = tmp_path / "out"
    flags = (source, "--out", out, "--npz", "--meshes", "--part-frames", 4)
    status, table, line = run(capsys, *flags)
    assert status == 0 and line["frames"] == 14 and line["ok"] == 12
    assert line["failed_by"] == {"input_error": 2} and line["bad_files"] == 1
    assert "v2v, mm" in table and "time a mesh" in table

    parts = sorted((out / "data").rglob("*.parquet"))
    assert [p.parent.name for p in parts] == ["scan", "walk", "walk", "walk"]
    scan = pq.ParquetFile(parts[0]).read().to_pandas()
    assert scan["label"].tolist() == ["a.ply", "b.ply", "c.ply", "d.ply"]
    assert scan["status"].tolist() == ["ok", "ok", "input_error", "input_error"]
    assert "millimetres" in scan["reason"][2] and "d.ply" in scan["reason"][3]
    assert scan["body_name"][0] == "open-smplx-neutral" and len(scan["body_sha256"][0]) == 64
    assert (scan["v2v_mean_mm"][:2] < 1.5).all() and np.isnan(scan["betas"][2]).all()

    with np.load(out / "npz" / "walk_smplx.npz") as motion:
        assert motion["poses"].shape == (10, 165) and float(motion["mocap_frame_rate"]) == 60
    assert len(list((out / "meshes" / "walk").iterdir())) == 10
    page = (out / "report.html").read_text()
    assert page.count("<figure><img") == 10 and "cut.npz" in page

    # again: nothing is to do, and what is there stays as it is
    times = [p.stat().st_mtime_ns for p in parts]
    status, _, line = run(capsys, *flags)
    assert status == 0 and line["frames"] == 0 and line["skipped"] == 14
    assert [p.stat().st_mtime_ns for p in parts] == times
    # a lost part and a cut one are made again
    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:100])
    assert run(capsys, *flags)[2]["frames"] == 8
    # other settings do not mix with what is there
    assert run(capsys, *flags, "--solver.betas-weight", 1)[0] == 1

    # back again, from our own tables
    status, _, line = run(capsys, out / "data", "--to", "smpl", "--out", tmp_path / "back")
    assert status == 0 and line["ok"] == 12


def test_shards_share_the_work(source, tmp_path, capsys):
    flags = (source / "walk.npz", "--out", tmp_path, "--part-frames", 2)
    counts = [run(capsys, *flags, "--shard", f"{k}/2")[2]["frames"] for k in range(2)]
    assert sum(counts) == 10 and counts[0] == 2 * sum(in_shard("walk", k, (0, 2)) for k in range(5))
    assert run(capsys, *flags)[2]["skipped"] == 10


def test_one_shape_for_a_motion(source, tmp_path, capsys):
    run(capsys, source / "walk.npz", "--out", tmp_path, "--shared-betas")
    rows = pq.ParquetFile(next(tmp_path.rglob("*.parquet"))).read().to_pandas()
    assert len({tuple(b) for b in rows["betas"]}) == 1 and (rows["v2v_mean_mm"] < 2).all()


def test_units(source, tmp_path, capsys):
    status, _, line = run(capsys, source / "scan", "--unit", "mm", "--out", tmp_path)
    assert status == 0 and line["ok"] == 1


def test_parameters_of_another_body(source, tmp_path, capsys, smpl):
    pose, betas, transl = smpl_people(2)
    given = {"poses": pose.reshape(2, 72), "betas": betas, "trans": transl}
    np.savez(tmp_path / "a.npz", **given, body_sha256="0" * 64)
    status, _, line = run(capsys, tmp_path / "a.npz", "--out", tmp_path / "out")
    assert status == 1 and line["bad_files"] == 1 and line["frames"] == 0
    np.savez(tmp_path / "a.npz", **given, body_sha256=smpl.sha256)
    assert run(capsys, tmp_path / "a.npz", "--out", tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    "flags",
    [("--shard", "2/2"), ("--batch-size", "0"), ("--mask", "x.npy"), ("--solver.betas-weight", -1),
     ("--correspondence", "none.npz")],
)  # fmt: skip
def test_bad_usage(source, tmp_path, capsys, flags):
    assert run(capsys, source, "--out", tmp_path / "out", *flags)[0] == 2
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_written_are_told_before_the_work(source, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        status = main([str(source), "--out", str(out)])
        assert status == 2 and "choose another place with --out" in capsys.readouterr().err
    assert main([str(source), "--out", str(tmp_path / "new"), "--images", "none"]) == 2
    assert not (tmp_path / "new").exists()


def test_results_below_the_source_are_none_of_it(source, tmp_path, capsys, monkeypatch):
    import shutil

    shutil.copy(source / "walk.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        status, _, line = run(capsys, ".", "--out", "out", "--npz", "--limit", 2)
        assert status == 0 and line["frames"] + line["skipped"] == 2
    status, _, line = run(capsys, ".", "--dry-run")
    assert line["out"] == str(tmp_path.with_name(f"{tmp_path.name}_to_smplx"))
    assert run(capsys, ".", "--out", ".")[0] == 2


def test_dry_run_and_nothing_there(source, tmp_path, capsys):
    status, text, line = run(capsys, source, "--out", tmp_path / "out", "--dry-run")
    assert status == 0 and line["frames"] == 14 and "walk: 10 frames" in text
    assert not (tmp_path / "out").exists()
    assert run(capsys, tmp_path / "none")[0] == 2
