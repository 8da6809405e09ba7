"""Worker processes that survive whatever one job does to one of them. Torch-free.

``concurrent.futures`` gives the whole pool up when a process dies. Here the job that killed its
process gets a failure, the process is replaced, and the others go on.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

__all__ = ["JobError", "WorkerPool", "serve_parent"]

_MAX_START_FAILURES = 3


def serve_parent() -> None:
    """Make this process, a worker of an executor, end with its parent and give way to it.

    A worker holds both ends of its queue, so it would outlive a parent that was killed.
    """

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):
        os.nice(5)


class JobError(Exception):
    """A job that gave no result; the message is one plain sentence."""


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    ready: bool = False
    future: Future | None = None
    deadline: float = float("inf")


class WorkerPool:
    """Processes that each call ``initialise()`` once and then the function it returns per job.

    Jobs go on while the caller does something else: a thread hands them out and takes the results.
    Workers start with the first job, write nothing to the terminal, leave Ctrl-C to the caller and
    end with it.

    Args:
        initialise: Importable by name; returns the function from job to result. What the function
            raises is the job's failure.
        workers: Number of processes.
        timeout_s: A job that takes longer has its process killed.
    """

    def __init__(
        self,
        initialise: Callable[[], Callable[[Any], Any]],
        workers: int,
        timeout_s: float = 120.0,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._initialise = initialise
        self._count = workers
        self._timeout_s = timeout_s
        self._context = multiprocessing.get_context("spawn")
        self._jobs: deque[tuple[Any, Future]] = deque()
        self._lock = threading.Lock()
        self._wake_reader, self._wake_writer = os.pipe()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._start_failures = 0

    def submit(self, job: Any) -> Future:
        """Queue a job; its future has the result, or a JobError, and does not end otherwise."""
        future: Future = Future()
        with self._lock:
            if self._closing:
                raise RuntimeError("the pool is closed")
            self._jobs.append((job, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
        os.write(self._wake_writer, b"x")
        return future

    def close(self) -> None:
        """Stop at once; jobs that are not done get a JobError."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        os.write(self._wake_writer, b"x")
        if self._thread is not None:
            self._thread.join()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        workers: list[_Worker] = []
        try:
            while not self._closing:
                self._assign(workers)
                self._wait(workers)
        finally:
            for worker in workers:
                self._stop(worker)
            with self._lock:
                self._closing = True
                left = [future for _, future in self._jobs]
                self._jobs.clear()
            for future in [*left, *(w.future for w in workers if w.future)]:
                future.set_exception(JobError("the run stopped before this photo's turn"))

    def _assign(self, workers: list[_Worker]) -> None:
        with self._lock:
            waiting = len(self._jobs)
        busy = sum(worker.future is not None for worker in workers)
        while len(workers) < min(self._count, busy + waiting):
            workers.append(self._start())
        for worker in workers:
            if not worker.ready or worker.future is not None:
                continue
            with self._lock:
                if not self._jobs:
                    return
                job, future = self._jobs.popleft()
            worker.future = future
            worker.deadline = time.monotonic() + self._timeout_s
            with contextlib.suppress(OSError):  # if its process is gone, _wait fails the job
                worker.connection.send(job)

    def _wait(self, workers: list[_Worker]) -> None:
        now = time.monotonic()
        timeout = max(0.0, min([w.deadline for w in workers] + [now + 3600]) - now)
        sources: list[Any] = [self._wake_reader]
        for worker in workers:
            sources += [worker.connection, worker.process.sentinel]
        signalled = wait(sources, timeout)
        if self._wake_reader in signalled:
            os.read(self._wake_reader, 4096)
        for worker in list(workers):
            if worker.connection in signalled or worker.process.sentinel in signalled:
                if not self._receive(worker):
                    self._fail(worker, _death(worker.process))
                    workers.remove(worker)
            elif time.monotonic() > worker.deadline:
                self._fail(worker, f"the detector took more than {self._timeout_s:.0f} s")
                workers.remove(worker)

    def _receive(self, worker: _Worker) -> bool:
        """Take one message of a worker; False if its process is gone."""
        try:
            if not worker.connection.poll():
                return worker.process.is_alive()
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            return False
        if kind == "ready":
            worker.ready = True
            self._start_failures = 0
            return True
        if kind == "no_start":  # it would be the same for every other worker and job
            self._fail_all(f"the detector cannot start: {value}")
            return True
        future, worker.future, worker.deadline = worker.future, None, float("inf")
        assert future is not None
        if kind == "result":
            future.set_result(value)
        else:
            future.set_exception(JobError(value))
        return True

    def _fail(self, worker: _Worker, reason: str) -> None:
        self._stop(worker)
        future, worker.future = worker.future, None
        if future is not None:
            future.set_exception(JobError(reason))
        if worker.ready:
            return
        # It died while starting. Without a limit this would go on for ever.
        self._start_failures += 1
        if self._start_failures >= _MAX_START_FAILURES * self._count:
            self._fail_all(f"no worker process starts: {reason}")

    def _fail_all(self, reason: str) -> None:
        with self._lock:
            left, self._jobs = self._jobs, deque()
        for _, future in left:
            future.set_exception(JobError(reason))

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(self._initialise, theirs), daemon=True, name="detector"
        )
        process.start()
        theirs.close()
        return _Worker(process, ours)

    @staticmethod
    def _stop(worker: _Worker) -> None:
        worker.connection.close()
        worker.process.kill()
        worker.process.join()


def _death(process: multiprocessing.process.BaseProcess) -> str:
    process.join(5)
    code = process.exitcode
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (perhaps for want of memory)" if name == "SIGKILL" else ""
        return f"the detector's process was ended by {name}{hint}"
    return f"the detector's process ended with exit code {code}"


def _work(initialise: Callable[[], Callable[[Any], Any]], connection: Connection) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # C++ libraries write to the terminal's file descriptors, past sys.stderr.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    try:
        try:
            function = initialise()
        except Exception as error:
            connection.send(("no_start", f"{type(error).__name__}: {error}"))
            return
        connection.send(("ready", None))
        while True:
            job = connection.recv()
            try:
                message = ("result", function(job))
            except MemoryError:
                message = ("error", "the image does not fit into memory")
            except Exception as error:
                message = ("error", f"the detector failed: {type(error).__name__}: {error}")
            connection.send(message)
    except (EOFError, OSError):
        pass  # the caller is gone
