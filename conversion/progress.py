"""A bar on a terminal, plain lines elsewhere, and a stop that lets the batch in hand end."""

import logging
import signal
import sys
import time
from types import FrameType, TracebackType

__all__ = ["Progress", "StopSignals"]

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


class StopSignals:
    """While entered, notes SIGINT and SIGTERM; a second one interrupts at once.

    Attributes:
        signal: The number of the signal that came; None while there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = int(number)
        _log.warning("stopping after the batch in hand; once more stops at once")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
