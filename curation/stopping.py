"""Ctrl-C and SIGTERM as a wish that the loop asks about, not as an exception anywhere in it."""

import logging
import signal
from types import FrameType

_log = logging.getLogger(__name__)


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

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
