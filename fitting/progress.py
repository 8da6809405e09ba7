"""One line of progress on stderr: a bar on a terminal, plain log lines elsewhere. Torch-free."""

import logging
import sys
import time
from types import TracebackType

__all__ = ["Progress", "set_up_logging"]

_log = logging.getLogger("fitting.progress")
_EVERY_S = 10.0


class _BarHandler(logging.Handler):
    """Writes log lines above the bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def set_up_logging(level: str) -> None:
    """Send the project's log lines to stderr.

    Args:
        level: debug, info, warning or error.
    """
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _BarHandler)]:
        root.removeHandler(handler)
    handler = _BarHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    root.addHandler(handler)
    for name in ("fitting", "curation", "bodymodel"):
        logging.getLogger(name).setLevel(level.upper())


class Progress:
    """Counts photos and persons, and says how fast and how long.

    Args:
        total: Photos to go through.
        is_shown: Whether to show anything; it counts all the same.
    """

    def __init__(self, total: int, is_shown: bool = True) -> None:
        self.total = total
        self.images = 0
        self.persons = 0
        self._begin = self._said = time.monotonic()
        self._bar = None
        self._is_shown = is_shown
        if is_shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="photo", file=sys.stderr, dynamic_ncols=True)

    def skip(self) -> None:
        """One photo less to do: it is done already, or another shard's."""
        self.total -= 1
        if self._bar is not None:
            self._bar.total = self.total

    def add(self, images: int, persons: int) -> None:
        """Note photos that are done and persons that were fitted in them."""
        self.images += images
        self.persons += persons
        if self._bar is not None:
            self._bar.update(images)
            self._bar.set_postfix_str(f"{self._rate():.1f} persons/s", refresh=False)
        elif self._is_shown and time.monotonic() - self._said > _EVERY_S:
            self._said = time.monotonic()
            _log.info("%s", self._line())

    def _rate(self) -> float:
        return self.persons / max(time.monotonic() - self._begin, 1e-9)

    def _line(self) -> str:
        seconds = time.monotonic() - self._begin
        left = (self.total - self.images) * seconds / max(self.images, 1)
        minutes, rest = divmod(round(left), 60)
        return (
            f"{self.images}/{self.total} photos, {self._rate():.1f} persons/s, "
            f"{minutes}:{rest:02d} left"
        )

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
