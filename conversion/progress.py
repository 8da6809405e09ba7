"""A bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from types import TracebackType

__all__ = ["Progress"]

_log = logging.getLogger(__name__)
_EVERY_S = 10.0


class Progress:
    """Counts frames, and says how fast and how long.

    Args:
        total: Frames to go through, None where it is not known.
    """

    def __init__(self, total: int | None) -> None:
        self.total, self.done = total, 0
        self._begin = self._said = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="mesh", file=sys.stderr, dynamic_ncols=True)

    def add(self, count: int) -> None:
        """Note frames that are done."""
        self.done += count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(count)
        elif now - self._said > _EVERY_S:
            self._said = now
            rate = self.done / (now - self._begin)
            left = ""
            if self.total is not None:
                minutes, seconds = divmod(round((self.total - self.done) / rate), 60)
                left = f", {minutes}:{seconds:02d} left"
            _log.info("%d meshes, %.1f a second%s", self.done, rate, left)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
