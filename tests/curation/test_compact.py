"""Compaction: no row lost, none twice, killed wherever it may be."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from curation import compact, compaction, run_writer
from curation.compact import compact_run, main
from curation.run_writer import RunWriter
from curation.schema import image_key
from curation.store import FitStore, StoreError
from tests.fit_rows import example_row, run_info

ROOT = Path(__file__).parents[2]


def filled_store(tmp_path, parts=6, run="run-1"):
    store = FitStore(tmp_path / "fits")
    with RunWriter(store, run_info(tmp_path, run)) as writer:
        for part in range(parts):
            images = [f"{part}-{k}.jpg" for k in range(3)]
            writer.write(
                [
                    example_row(part, image_id=i, run_id=run, person_index=p, attempt=0,
                                fit_id=f"{image_key(f'{run}{i}{p}').hex()}")
                    for i in images for p in range(2)
                ]
            )  # fmt: skip
    return FitStore(store.root)


def contents(store):
    rows = store.read_table().to_pylist()
    return sorted(json.dumps(row, default=str, sort_keys=True) for row in rows)


def test_rows_are_the_same_in_fewer_parts(tmp_path, capsys):
    store = filled_store(tmp_path)
    before = contents(store)
    assert main([str(tmp_path)]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary == {"parts_before": 6, "parts_after": 1, "rows": 36, "dry_run": False}
    assert contents(FitStore(store.root)) == before
    (part,) = FitStore(store.root).parts()
    assert part.run_id == "run-1"
    assert part.body_sha256 == "open" * 8
    assert sorted(p.name for p in store.run_dir("run-1").iterdir()) == [part.path.name]
    # The run goes on: what is there is done, what is new is a new part.
    with RunWriter(store, run_info(tmp_path)) as writer:
        path = writer.write([example_row(1, image_id="new.jpg", run_id="run-1", attempt=0)])
    assert path.name == "part-00of01-000002.parquet"
    assert len(FitStore(store.root).read_table()) == 37


def test_parts_do_not_grow_beyond_the_limit(tmp_path):
    store = filled_store(tmp_path)
    assert compact_run(store, "run-1", rows=14) == (6, 3, 36)
    assert [part.num_rows for part in FitStore(store.root).parts()] == [12, 12, 12]


def test_dry_run_touches_nothing(tmp_path):
    store = filled_store(tmp_path)
    names = sorted(p.name for p in store.run_dir("run-1").iterdir())
    assert main([str(tmp_path), "--dry-run"]) == 0
    assert sorted(p.name for p in store.run_dir("run-1").iterdir()) == names


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from curation.compact import compact_run
    from curation.store import FitStore
    steps = 0
    def count(event, arguments):
        global steps
        if event in ("open", "os.rename", "os.remove") and "run=" in str(arguments[0]):
            steps += 1
            if steps > int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
    store = FitStore(sys.argv[1])
    store.parts()
    sys.addaudithook(count)
    compact_run(store, "run-1")
"""


@pytest.mark.slow
def test_killed_at_every_step_no_row_is_lost_or_twice(tmp_path):
    """SIGKILL before each operation on a file of the run, in turn, until one gets through."""
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    done, step = False, 0
    states = set()
    while not done:
        root = tmp_path / f"case-{step}"
        store = filled_store(root, parts=4)
        before = contents(store)
        run = subprocess.run(
            [sys.executable, script, store.root, str(step)],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        done = run.returncode == 0
        assert done or run.returncode == -signal.SIGKILL, run.stderr
        assert contents(FitStore(store.root)) == before, step
        states.add(tuple(sorted(p.name for p in store.run_dir("run-1").iterdir())))
        # A writer comes first, or the next compaction: both tidy up.
        if step % 2:
            with RunWriter(FitStore(store.root), run_info(root)):
                pass
            assert contents(FitStore(store.root)) == before
        compact_run(FitStore(store.root), "run-1")
        assert contents(FitStore(store.root)) == before
        assert len([*store.run_dir("run-1").iterdir()]) == 1
        step += 1 if step < 12 else 3
    assert step > 8
    assert len(states) >= 4  # it was killed in different states, after the rename too


def test_a_part_that_does_not_read_back_changes_nothing(tmp_path, monkeypatch):
    store = filled_store(tmp_path)
    before = contents(store)
    real = run_writer.write_part

    def bad(table, path, rows):
        real(table.slice(1), path, rows)

    monkeypatch.setattr(run_writer, "write_part", bad)
    with pytest.raises(StoreError, match="does not read back"):
        compact_run(store, "run-1")
    assert contents(FitStore(store.root)) == before
    monkeypatch.undo()
    assert compact_run(store, "run-1")[1] == 1


def test_a_run_that_is_being_written_is_left_alone(tmp_path):
    store = filled_store(tmp_path)
    lock = store.root / "meta" / "locks" / "run-1.00of01.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c",
         "import sys; from pathlib import Path; from curation.locks import FileLock\n"
         f"lock = FileLock(Path({str(lock)!r})); lock.try_acquire()\n"
         "print('held', flush=True); input()"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="is writing run run-1"):
            compact_run(store, "run-1")
    finally:
        holder.communicate("\n")
    assert len(FitStore(store.root).parts()) == 6


def test_a_broken_journal_is_no_journal(tmp_path):
    store = filled_store(tmp_path)
    (store.run_dir("run-1") / compaction.JOURNAL).write_text("{")
    assert len(FitStore(store.root).parts()) == 6
    assert compact_run(store, "run-1")[1] == 1
    assert compact.main([str(tmp_path)]) == 0
