"""The jobs below run in other processes, which import this file; it must import fast."""

import os
import signal
import sys
import time

import pytest

from curation.worker_pool import JobError, WorkerPool


def start_worker():
    print("noise on stdout")
    os.write(2, b"noise of a C++ library")

    def work(job):
        name, *arguments = job
        if name == "square":
            return arguments[0] ** 2
        if name == "pid":
            return os.getpid()
        if name == "raise":
            raise ValueError("a plain reason")
        if name == "signal":
            os.kill(os.getpid(), arguments[0])
        if name == "exit":
            os._exit(arguments[0])
        if name == "sleep":
            time.sleep(arguments[0])
        if name == "torch":
            return "torch" in sys.modules
        return None

    return work


def start_that_fails():
    raise RuntimeError("no model here")


def start_that_dies():
    os._exit(7)


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(start_worker, 2) as made:
        yield made


def test_every_job_gets_its_own_result(pool):
    futures = [pool.submit(("square", i)) for i in range(50)]
    assert [f.result(20) for f in futures] == [i * i for i in range(50)]


def test_a_job_that_raises_fails_alone(pool):
    bad, good = pool.submit(("raise",)), pool.submit(("square", 3))
    with pytest.raises(JobError, match="ValueError: a plain reason"):
        bad.result(20)
    assert good.result(20) == 9


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (("signal", signal.SIGSEGV), "SIGSEGV"),
        (("signal", signal.SIGKILL), "SIGKILL .*memory"),
        (("exit", 3), "exit code 3"),
    ],
)
def test_a_job_that_kills_its_process_fails_alone(pool, job, reason):
    futures = [pool.submit(("square", i)) for i in range(6)]
    bad = pool.submit(job)
    futures += [pool.submit(("square", i)) for i in range(6)]
    with pytest.raises(JobError, match=reason):
        bad.result(20)
    assert [f.result(20) for f in futures] == [i * i for i in (*range(6), *range(6))]


def test_a_worker_killed_from_outside_is_replaced(pool):
    pid = pool.submit(("pid",)).result(20)
    os.kill(pid, signal.SIGKILL)
    futures = [pool.submit(("pid",)) for _ in range(8)]
    # The kill may still reach the job that the worker was given last.
    results = [f.exception(20) or f.result() for f in futures]
    assert sum(isinstance(r, JobError) for r in results) <= 1
    assert pid not in results


def test_a_job_that_hangs_is_ended():
    with WorkerPool(start_worker, 1, timeout_s=1.0) as pool:
        pool.submit(("square", 1)).result(20)
        hanging, after = pool.submit(("sleep", 60)), pool.submit(("square", 5))
        with pytest.raises(JobError, match="more than 1 s"):
            hanging.result(20)
        assert after.result(20) == 25


@pytest.mark.parametrize(
    ("start", "reason"), [(start_that_fails, "no model here"), (start_that_dies, "exit code 7")]
)
def test_workers_that_do_not_start_fail_the_jobs_and_do_not_hang(start, reason):
    with WorkerPool(start, 1) as pool:
        futures = [pool.submit(("square", i)) for i in range(3)]
        for future in futures:
            with pytest.raises(JobError, match=reason):
                future.result(30)


def test_closing_ends_the_jobs_and_the_processes():
    pool = WorkerPool(start_worker, 1)
    pid = pool.submit(("pid",)).result(20)
    left = [pool.submit(("sleep", 60)) for _ in range(3)]
    pool.close()
    for future in left:
        with pytest.raises(JobError, match="stopped"):
            future.result(5)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(("square", 1))
    pool.close()


def test_nothing_starts_before_the_first_job():
    pool = WorkerPool(start_worker, 2)
    assert pool._thread is None
    pool.close()


def test_jobs_go_on_while_the_caller_does_something_else(pool):
    futures = [pool.submit(("square", i)) for i in range(200)]
    deadline = time.monotonic() + 20
    while not all(f.done() for f in futures):  # nobody asks for a result
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_workers_are_quiet(capfd):
    with WorkerPool(start_worker, 1) as pool:
        pool.submit(("square", 1)).result(20)
    out, err = capfd.readouterr()
    assert out == err == ""


def test_workers_do_not_load_torch(pool):
    assert pool.submit(("torch",)).result(20) is False


def test_no_workers():
    with pytest.raises(ValueError, match="at least 1"):
        WorkerPool(start_worker, 0)
