"""Keeps the queue fresh: fits that are stored meanwhile, and an order learnt from the decisions.

The order is learnt in a process of its own (``python -m curation.triage_report DATA --order``), so
that nobody who judges waits for it.
"""

import logging
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from typing import Self

import sqlalchemy as sa

from annotate_ui.review import Review
from curation import database as db

__all__ = ["Retrainer", "StoreWatch"]

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 20.0


class _Repeated(ABC):
    """Looks every so many seconds, in a thread of its own, while it is entered.

    What goes wrong is logged: the page goes on with what it has.
    """

    def __init__(self, review: Review, seconds: float) -> None:
        self._review, self._seconds = review, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @abstractmethod
    def look(self) -> bool:
        """Look once; return whether anything was done."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; what is under way is left to end by itself."""
        self._stop.set()
        self._thread.join(2)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.look()
            except Exception:
                _log.exception("%s failed, and is tried again", type(self).__name__)


class StoreWatch(_Repeated):
    """Takes up fits that are stored while the page is open, while it is entered.

    Args:
        review: Whose store.
        seconds: Between two looks.
    """

    def __init__(self, review: Review, seconds: float = _LOOK_SECONDS) -> None:
        super().__init__(review, seconds)

    def look(self) -> bool:
        """Take up what is new; return whether anything was."""
        new = self._review.refresh()
        if new:
            _log.info("%d new fits are in the queue", new)
        return bool(new)


class Retrainer(_Repeated):
    """Has the model retrained after so many new decisions, while it is entered.

    Args:
        review: Whose decisions.
        every: So many.
    """

    def __init__(self, review: Review, every: int) -> None:
        super().__init__(review, _LOOK_SECONDS)
        self._every, self._learned = every, 0

    def look(self) -> bool:
        """Retrain if there are enough new decisions; return whether that was done."""
        self._review.queue.heed()
        with self._review.decisions.database.read() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(db.decision))
        if count < self._learned + self._every:
            return False
        self._learned = count
        url = self._review.decisions.database.url.render_as_string(hide_password=False)
        command = [
            sys.executable, "-m", "curation.triage_report", str(self._review.dataset_root),
            "--out", str(self._review.store.root), "--decisions", url, "--order",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            # Too few of one verdict, at the beginning.
            _log.info("the queue keeps its order: %s", done.stderr.strip()[-300:])
        else:
            _log.info("the queue has a new order: %s", done.stdout.strip().splitlines()[-1])
        return not done.returncode
