"""Several processes train as one: the same weights, one that writes, none that waits forever."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.regressor.ranks_worker import Case

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def torchrun(count, *arguments, **options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # the module's own warnings at start are not ours
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore",
        "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count),
         "--master-addr", "127.0.0.1", "--master-port", str(port), *arguments],
        cwd=ROOT, env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
    )  # fmt: skip


def together(count, case):
    """Run a case to its end; return what each process said and its weights."""
    folder = Path(case.folder)
    folder.mkdir(parents=True, exist_ok=True)
    job = torchrun(count, "-m", "tests.regressor.ranks_worker", json.dumps(asdict(case)))
    try:
        text, _ = job.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        raise
    assert job.returncode == 0, text
    said = [json.loads((folder / f"said-{k}.json").read_text()) for k in range(count)]
    weights = [torch.load(folder / f"weights-{k}.pt", weights_only=True) for k in range(count)]
    return said, weights


def parameters(weights):
    return {k: v for k, v in weights.items() if "running_" not in k and "num_batches" not in k}


def test_two_halves_make_the_whole(tmp_path, rendered):
    """Averaged gradients of half batches are the whole batch's, so weights are, step by step."""
    one, (whole,) = together(1, Case(str(rendered.root), str(tmp_path / "1"), share=True))
    two, halves = together(2, Case(str(rendered.root), str(tmp_path / "2"), share=True))
    for name, value in whole.items():
        assert torch.equal(halves[0][name], halves[1][name]), name
        torch.testing.assert_close(halves[0][name], value, atol=2e-6, rtol=1e-4, msg=name)
    # Adam forgets how large gradients are
    wanted, found = (
        torch.load(tmp_path / name, weights_only=True)
        for name in ("1/slopes-0.pt", "2/slopes-1.pt")
    )
    assert wanted.keys() == found.keys() and len(wanted) > 50
    for name, value in wanted.items():
        off = float((found[name] - value).norm() / value.norm().clamp_min(1e-6))
        assert off < 1e-3, (name, off)
    assert one[0]["steps"] == two[0]["steps"] == two[1]["steps"] == 3


def test_a_kill_of_all_resumes_to_the_same_weights(tmp_path, rendered):
    """Dropout of both, batches of both and the statistics of layers go on as they were."""
    straight = Case(str(rendered.root), str(tmp_path / "a"), steps=5)
    _, weights = together(2, straight)
    for name, value in parameters(weights[0]).items():
        assert torch.equal(value, weights[1][name]), name
    folder = tmp_path / "b"
    folder.mkdir()
    killed = Case(str(rendered.root), str(folder), steps=5, wait_after=3)
    job = torchrun(2, "-m", "tests.regressor.ranks_worker", json.dumps(asdict(killed)))
    try:
        until = time.monotonic() + 120
        while not all((folder / f"waiting-{k}").exists() for k in range(2)):
            assert job.poll() is None, job.stdout.read()
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        os.killpg(job.pid, signal.SIGKILL)  # torchrun's children lead sessions of their own
        job.wait()
        job.stdout.close()
        for process in children_of(folder):
            os.kill(process, signal.SIGKILL)
    assert (folder / "run" / "state.pt").exists()
    assert not (folder / "said-0.json").exists()
    said, resumed = together(2, Case(str(rendered.root), str(folder), steps=5))
    assert said[0]["steps"] == said[1]["steps"] == 3  # from the second, which was saved
    for name, value in parameters(weights[0]).items():
        assert torch.equal(value, resumed[0][name]), name
        assert torch.equal(value, resumed[1][name]), name
    for name, value in weights[0].items():
        assert torch.equal(value, resumed[0][name]), name


def children_of(folder):
    """Processes that were told to work in a folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in path.read_text() and int(path.parent.name) != os.getpid():
                yield int(path.parent.name)
        except OSError:
            continue


def test_one_measures_and_all_stop_early(tmp_path, rendered):
    """The best is the first check, so patience ends it at the third; the others only wait."""
    case = Case(
        str(rendered.root), str(tmp_path), steps=20, check_every=2, patience=2,
        figures=[1.0, 2.0, 3.0, 4.0], check_seconds=1.0,
    )  # fmt: skip
    said, _ = together(2, case)
    assert [s["checks"] for s in said] == [3, 0]
    assert [s["steps"] for s in said] == [6, 6]
    assert said[1]["last"]["held_out/error"] == 3.0
    assert json.loads(json.dumps(said[0]["last"]))["held_out/error"] == 3.0
    # that it is over is known when it is run again
    again, _ = together(2, case)
    assert [s["steps"] for s in again] == [0, 0]


@pytest.mark.parametrize("asked", [0, 1])
def test_a_wish_to_stop_reaches_all(tmp_path, rendered, asked):
    case = Case(
        str(rendered.root), str(tmp_path), steps=20, save_every=100, stop_rank=asked, stop_at=2
    )
    said, _ = together(2, case)
    assert [s["steps"] for s in said] == [2, 2]
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 2


def test_the_smoke_set_trains_in_two_processes(tmp_path):
    job = torchrun(2, "-m", "regressor.train", "--smoke", "--device", "cpu", "--out", str(tmp_path))
    try:
        text, _ = job.communicate(timeout=280)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        raise
    assert job.returncode == 0, text
    ended = [line for line in text.splitlines() if line.startswith('{"train"')]
    assert len(ended) == 1 and json.loads(ended[0])["train"] == "done"
    assert (tmp_path / "model.safetensors").is_file()
    steps = [
        int(line.split(",")[0])
        for line in (tmp_path / "body" / "progress.csv").read_text().splitlines()[1:]
        if ",loss," in line
    ]
    assert steps == [10, 20, 30, 40, 50, 60]
