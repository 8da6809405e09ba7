"""Parts are whole or absent, one writer a shard, bodies never mixed, broken files reported."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from curation.run_writer import RunWriter, check_run_id
from curation.schema import image_key
from curation.store import FitStore, StoreError
from tests.fit_rows import example_row, run_info

ROOT = Path(__file__).parents[2]


def row(image, run_id="run-1", status="ok", person=0, attempt=0, seed=0, **changes):
    return example_row(
        seed,
        image_id=image,
        run_id=run_id,
        status=status,
        person_index=person,
        attempt=attempt,
        fit_id=f"{image_key(f'{image}/{person}').hex()}",
        **changes,
    )


def test_rows_come_back(tmp_path):
    store = FitStore(tmp_path / "fits")
    with RunWriter(store, run_info(tmp_path)) as writer:
        writer.write([row("a.jpg", seed=1), row("a.jpg", person=1, seed=2)])
        path = writer.write([row("b.jpg", status="no_person", seed=3)])
        assert writer.write([]) is None
        writer.finish("complete", {"fitted": 2})
    assert path.relative_to(store.root).as_posix() == "data/run=run-1/part-00of01-000002.parquet"
    store = FitStore(tmp_path / "fits")
    rows = list(store.iter_rows())
    assert [r["image_id"] for r in rows] == ["a.jpg", "a.jpg", "b.jpg"]
    np.testing.assert_array_equal(rows[1]["body_pose"], example_row(2)["body_pose"])
    assert rows[1]["body_pose"].shape == (21, 3)
    ok = store.read_table(["image_id", "status"], where=pc.field("status") == "ok")
    assert ok["image_id"].to_pylist() == ["a.jpg", "a.jpg"]
    images = store.stored_images("run-1")
    assert images.done == {image_key("a.jpg"), image_key("b.jpg")}
    assert images.failed == {image_key("b.jpg"): 0}
    info = json.loads(store.info_path.read_text())
    assert info["bodies"] == {"open" * 8: {"name": "open-neutral", "is_open": True}}
    record = yaml.safe_load(store.run_path("run-1").read_text())
    assert record["dataset_root"] == ".."
    assert record["invocations"][0]["counts"] == {"fitted": 2}
    assert store.run_ids() == ["run-1"]


def test_an_empty_store_reads_as_empty(tmp_path):
    store = FitStore(tmp_path / "none")
    assert len(store.read_table()) == 0
    assert list(store.iter_rows(["betas"])) == []
    assert store.stored_images("x").done == set()


def test_parts_that_cannot_be_read_are_skipped_then_set_aside(tmp_path, caplog):
    store = FitStore(tmp_path)
    with RunWriter(store, run_info(tmp_path)) as writer:
        good = writer.write([row("a.jpg")])
        torn = writer.write([row("b.jpg")])
    torn.write_bytes(torn.read_bytes()[:-100])
    (good.parent / "part-00of01-000009.parquet").write_bytes(b"")
    store = FitStore(tmp_path)
    assert [r["image_id"] for r in store.iter_rows(["image_id"])] == ["a.jpg"]
    assert {p.name for p in store.unreadable} == {torn.name, "part-00of01-000009.parquet"}
    assert "cannot be read" in caplog.text
    with RunWriter(store, run_info(tmp_path)) as writer:
        assert writer.write([row("b.jpg")]).name == "part-00of01-000010.parquet"
    assert torn.with_name(torn.name + ".unreadable").exists()
    fresh = FitStore(tmp_path)
    assert sorted(r["image_id"] for r in fresh.iter_rows(["image_id"])) == ["a.jpg", "b.jpg"]
    assert fresh.unreadable == {}


def test_a_flipped_bit_is_noticed(tmp_path):
    store = FitStore(tmp_path)
    with RunWriter(store, run_info(tmp_path)) as writer:
        path = writer.write([row(f"{i}.jpg", seed=i) for i in range(50)])
    column = pq.ParquetFile(path).metadata.row_group(0).column(20)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 20] ^= 0xFF
    path.write_bytes(data)
    store = FitStore(tmp_path)
    assert list(store.iter_rows()) == []
    assert list(store.unreadable) == [path]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    store = FitStore(tmp_path)
    with RunWriter(store, run_info(tmp_path)) as writer:
        folder = writer.write([row("a.jpg")]).parent
    stale = folder / "part-00of01-000002.parquet.tmp"
    stale.write_bytes(b"half a part")
    with RunWriter(store, run_info(tmp_path)):
        assert not stale.exists()


HOLD = """
    import sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from tests.fit_rows import run_info
    from curation.run_writer import RunWriter
    from curation.store import FitStore
    tmp = Path({tmp!r})
    with RunWriter(FitStore(tmp), run_info(tmp), {shard}) as writer:
        (writer._folder / f"part-{{writer._shard}}-000007.parquet.tmp").write_bytes(b"busy")
        print("holding", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds a shard's writer open until its stdin closes."""
    processes = []

    def start(shard):
        code = HOLD.format(root=str(ROOT), tmp=str(tmp_path), shard=shard)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "holding\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_shards_write_side_by_side_but_not_twice(tmp_path, hold):
    other = hold((1, 2))
    store = FitStore(tmp_path)
    busy = store.run_dir("run-1") / "part-01of02-000007.parquet.tmp"
    with RunWriter(store, run_info(tmp_path), (0, 2)) as writer:
        assert busy.exists(), "the part that a living shard is writing was removed"
        writer.write([row("a.jpg")])
    with pytest.raises(StoreError, match=f"process {other.pid} is already writing shard 01of02"):
        RunWriter(store, run_info(tmp_path), (1, 2))
    with pytest.raises(StoreError, match="shares images"):
        RunWriter(store, run_info(tmp_path))
    other.kill()
    other.wait()
    with RunWriter(store, run_info(tmp_path)):
        assert not busy.exists()


def test_bodies_are_not_mixed(tmp_path):
    store = FitStore(tmp_path)
    for run_id, body in (("run-1", "open"), ("run-2", "mine")):
        with RunWriter(store, run_info(tmp_path, run_id, body)) as writer:
            writer.write([row("a.jpg", run_id)])
    with pytest.raises(StoreError, match="another body"):
        RunWriter(store, run_info(tmp_path, "run-1", "mine"))
    with pytest.raises(StoreError, match="another settings"):
        RunWriter(store, run_info(tmp_path, "run-1", config_hash="beef"))
    with pytest.raises(StoreError, match="different bodies"):
        store.read_table(["image_id", "betas"])
    with pytest.raises(StoreError, match="run-1 has open-neutral; run run-2 has mine-neutral"):
        list(store.iter_rows())
    assert len(store.read_table(["betas"], run_id="run-2")) == 1
    assert len(store.read_table(["image_id", "residual_px"])) == 2


def test_a_later_attempt_replaces_the_rows_of_its_image(tmp_path):
    store = FitStore(tmp_path)
    with RunWriter(store, run_info(tmp_path)) as writer:
        first = writer.write([row("a.jpg"), row("b.jpg", status="image_error")])
        only = writer.write([row("c.jpg", status="solver_error")])
    with RunWriter(store, run_info(tmp_path)) as writer:
        writer.write([row("b.jpg", attempt=1, seed=5), row("c.jpg", attempt=1)])
        # killed before finish(): readers leave the old rows out all the same
        fresh = FitStore(tmp_path)
        rows = list(fresh.iter_rows(["image_id", "status"]))
        assert sorted((r["image_id"], r["status"]) for r in rows) == [
            ("a.jpg", "ok"),
            ("b.jpg", "ok"),
            ("c.jpg", "ok"),
        ]
        assert fresh.stored_images("run-1").failed == {}
        assert pq.ParquetFile(first).metadata.num_rows == 2
    with RunWriter(store, run_info(tmp_path)) as writer:
        writer.finish("complete", {})
    assert pq.ParquetFile(first).metadata.num_rows == 1
    assert not only.exists()
    assert len(FitStore(tmp_path).read_table()) == 3
    kept = next(FitStore(tmp_path).iter_rows(where=pc.field("image_id") == "a.jpg"))
    np.testing.assert_array_equal(kept["keypoints_2d"], example_row(0)["keypoints_2d"])


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    store = FitStore(tmp_path)
    with RunWriter(store, run_info(tmp_path)) as writer:
        writer.write([row("a.jpg")])

        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"no space left in .* 1 rows were not written"):
            writer.write([row("b.jpg")])
        monkeypatch.undo()
        assert not list(tmp_path.rglob("*.tmp"))
        writer.write([row("b.jpg")])
    assert len(FitStore(tmp_path).read_table(["image_id"])) == 2


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"is a file, not a directory; choose another --out"):
        RunWriter(FitStore(tmp_path / "file"), run_info(tmp_path))
    with pytest.raises(StoreError, match=r"cannot be written|failed"):
        RunWriter(FitStore(Path("/proc/nowhere")), run_info(tmp_path))


def test_newer_major_versions_are_refused_newer_minor_read(tmp_path):
    store = FitStore(tmp_path)
    with RunWriter(store, run_info(tmp_path)) as writer:
        path = writer.write([row("a.jpg")])
    table = pq.ParquetFile(path).read()
    newer = table.append_column("confidence", table["focal_px"])
    for version, ok in (("1.99", True), ("2.0", False)):
        notes = {**table.schema.metadata, b"format_version": version.encode()}
        pq.write_table(newer.replace_schema_metadata(notes), path)
        if ok:
            assert len(FitStore(tmp_path).read_table(["image_id", "betas"])) == 1
        else:
            with pytest.raises(StoreError, match="install a newer pseudogt"):
                FitStore(tmp_path).read_table(["image_id"])
    info = json.loads(store.info_path.read_text()) | {"format_version": "2.0"}
    store.info_path.write_text(json.dumps(info))
    with pytest.raises(StoreError, match="install a newer pseudogt"):
        FitStore(tmp_path)


def test_unknown_columns_are_named(tmp_path):
    store = FitStore(tmp_path)
    with RunWriter(store, run_info(tmp_path)) as writer:
        writer.write([row("a.jpg")])
    with pytest.raises(StoreError, match=r"no column \['beta'\]; it has"):
        store.read_table(["beta"])


@pytest.mark.parametrize("bad", ["", "a/b", ".hidden", "run id", "x" * 101])
def test_run_ids_are_names(bad):
    with pytest.raises(ValueError, match="run id"):
        check_run_id(bad)
    assert check_run_id("open-smplx.2_a") == "open-smplx.2_a"


def test_store_needs_no_torch():
    code = "import sys, curation.run_writer, curation.store; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
