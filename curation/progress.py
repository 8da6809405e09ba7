"""One line of progress on stderr: a bar on a terminal, plain log lines elsewhere. Torch-free."""

import logging
import sys
import time

__all__ = ["Progress", "set_up_logging"]

_log = logging.getLogger(__name__)
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
    for name in ("fitting", "conversion", "curation", "bodymodel"):
        logging.getLogger(name).setLevel(level.upper())


class Progress:
    """Counts things and what is in them, and says how fast and how long.

    Args:
        total: Things to go through, None where that is not known.
        thing: What one is called.
        piece: What is in them and makes the rate; None where the things themselves do.
        is_shown: Whether to show anything; it counts all the same.
    """

    def __init__(
        self,
        total: int | None,
        thing: str = "photo",
        piece: str | None = "person",
        is_shown: bool = True,
    ) -> None:
        self.total = total
        self.done = 0
        self.pieces = 0
        self._thing, self._piece = thing, piece
        self._begin = self._said = time.monotonic()
        self._bar = None
        self._is_shown = is_shown
        if is_shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=thing, file=sys.stderr, dynamic_ncols=True)

    def skip(self) -> None:
        """One thing less to do: it is done already, or another shard's."""
        if self.total is None:
            return
        self.total -= 1
        if self._bar is not None:
            self._bar.total = self.total

    def add(self, count: int, pieces: int = 0) -> None:
        """Note things that are done, and how many pieces were in them."""
        self.done += count
        self.pieces += pieces
        if self._bar is not None:
            self._bar.update(count)
            if self._piece is not None:
                self._bar.set_postfix_str(self._rate(), refresh=False)
        elif self._is_shown and time.monotonic() - self._said > _EVERY_S:
            self._said = time.monotonic()
            _log.info("%s", self._line())

    def _rate(self) -> str:
        what, number = self._thing, self.done
        if self._piece is not None:
            what, number = self._piece, self.pieces
        return f"{number / max(time.monotonic() - self._begin, 1e-9):.1f} {_plural(what)}/s"

    def _line(self) -> str:
        seconds = time.monotonic() - self._begin
        things = _plural(self._thing)
        if self.total is None:
            return f"{self.done} {things}, {self._rate()}"
        if self._piece is not None and not self.pieces:
            # photos that show nobody come first, while a batch fills: they tell no rate
            return f"{self.done}/{self.total} {things}"
        left = (self.total - self.done) * seconds / max(self.done, 1)
        minutes, rest = divmod(round(left), 60)
        return f"{self.done}/{self.total} {things}, {self._rate()}, {minutes}:{rest:02d} left"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("sh") else "s")
