"""Advisory file locks that vanish with the process that held them. Torch-free."""

import errno
import fcntl
import logging
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_log = logging.getLogger(__name__)


class FileLock:
    """An exclusive lock on a small file, held by this process until released or dead.

    POSIX record locks: a killed process leaves none behind, and children that were forked do not
    inherit them. Within one process the same lock can be taken twice. On file systems that know no
    locks the lock counts as taken, with a warning: there, start no two runs of one shard.

    Args:
        path: Of the lock file; made if missing, never removed (removing would race).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def try_acquire(self) -> bool:
        """Take the lock unless another process holds it; return whether it was taken."""
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.close()
                return False
            _log.warning("%s: no file locks here (%s)", self.path.parent, error.strerror)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def holder(self) -> str:
        """Return the process id that the holder wrote, or "?"."""
        with suppress(OSError):
            return self.path.read_text(encoding="utf-8").strip() or "?"
        return "?"

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Tell whether another process holds the lock of this file."""
    if not path.exists():
        return False
    with FileLock(path) as lock:
        return not lock.try_acquire()


@contextmanager
def waiting_lock(path: Path, timeout_s: float = 60.0):
    """Hold a lock, waiting for it.

    Raises:
        TimeoutError: If another process keeps it for longer than the timeout.
    """
    lock = FileLock(path)
    deadline = time.monotonic() + timeout_s
    while not lock.try_acquire():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} is held by process {lock.holder()}")
        time.sleep(0.05)
    try:
        yield lock
    finally:
        lock.release()
