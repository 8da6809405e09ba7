"""Keeps the queue fresh: fits that are stored meanwhile, and an order learnt from the decisions.

The order is learnt in a process of its own (``python -m curation.triage_report DATA --order``), so
that nobody who judges waits for it.
"""

import logging
import subprocess
import sys
import threading

import sqlalchemy as sa

from annotate_ui.review import Review
from curation import database as db

__all__ = ["Retrainer", "StoreWatch"]

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 20.0


class StoreWatch:
    """Takes up fits that are stored while the page is open, while it is entered.

    Args:
        review: Whose store.
        seconds: Between two looks.
    """

    def __init__(self, review: Review, seconds: float = _LOOK_SECONDS) -> None:
        self._review, self._seconds = review, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "StoreWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join(2)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                new = self._review.refresh()
                if new:
                    _log.info("%d new fits are in the queue", new)
            except Exception:  # the page goes on with what it has
                _log.exception("the store could not be read again")


class Retrainer:
    """Has the model retrained after so many new decisions, while it is entered.

    Args:
        review: Whose decisions.
        every: So many.
    """

    def __init__(self, review: Review, every: int) -> None:
        self._review, self._every = review, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._learned = 0

    def __enter__(self) -> "Retrainer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; a training that is under way is left to end by itself."""
        self._stop.set()
        self._thread.join(2)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception:  # the page goes on with the old order
                _log.exception("the queue could not be ordered anew")

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
