"""Pictures of stored fits, drawn in worker processes beside the solver. Torch-free.

A picture is drawn from the stored row, not from the solver's memory: it shows what the store holds,
and a picture that is missing can be drawn at any later time.
"""

import io
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from curation.crops import person_window
from curation.schema import PARAMETERS
from curation.store import FitStore
from curation.worker_pool import serve_parent

__all__ = ["OVERLAY_COLUMNS", "VIEWS", "OverlayPool", "draw_fit"]

VIEWS = ("front", "side", "top")
OVERLAY_COLUMNS = (
    "fit_id", "run_id", "image_path", "body_sha256", *PARAMETERS, "focal_px", "center_px",
    "has_bbox", "bbox_xyxy_px",
)  # fmt: skip
"""What of a row a picture needs."""

_MAX_PENDING = 64
_log = logging.getLogger(__name__)

Draw = Callable[[BodyData, Mapping[str, Any], Path], dict[str, np.ndarray]]


def draw_fit(body: BodyData, row: Mapping[str, Any], photo: Path) -> dict[str, np.ndarray]:
    """Return the pictures of a row by view, (H, W, 3) uint8 RGB; the photo cut to the person.

    Args:
        body: The row's body.
        row: With OVERLAY_COLUMNS.
        photo: The file.
    """
    from bodymodel.render import render_views
    from curation.images import read_image
    from curation.reproject import posed_vertices

    image = read_image(photo)[0]
    vertices = posed_vertices(body, row).astype(np.float32)
    corner = np.zeros(2)
    if row["has_bbox"]:
        image, corner = _around(image, np.asarray(row["bbox_xyxy_px"], np.float64))
    center_px = np.asarray(row["center_px"], np.float64) - corner
    return render_views(image, vertices, body.faces, float(row["focal_px"]), center_px)


def _around(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of a photo round a box (x0 y0 x1 y1), and its corner (x, y)."""
    x0, y0, x1, y1 = person_window(image.shape[:2], box)
    return np.ascontiguousarray(image[y0:y1, x0:x1]), np.array((x0, y0))


class OverlayPool:
    """Draws overlays in processes of their own and writes them into the store.

    Args:
        store: Whose overlays.
        load_body: Loads the body of the rows; called in the workers, so it must be importable
            there (a module-level function, or a functools.partial of one).
        dataset_root: Where the photos are.
        workers: Processes; they start when there is something to draw.
        draw: A module-level function as draw_fit, in tests another.
    """

    def __init__(
        self,
        store: FitStore,
        load_body: Callable[[], BodyData],
        dataset_root: Path,
        workers: int = 1,
        draw: Draw = draw_fit,
    ) -> None:
        self._store = store
        self._root = dataset_root
        self._context = multiprocessing.get_context("spawn")
        self._arguments = (load_body, draw)
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._pending: set[Future] = set()
        self._broken = False
        self.drawn = 0
        self.failed = 0

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a picture of the row is missing."""
        return not all(self._path(row, view).exists() for view in VIEWS)

    def _path(self, row: Mapping[str, Any], view: str) -> Path:
        return self._store.overlay_path(row["run_id"], row["fit_id"], view)

    def submit(self, row: Mapping[str, Any], wait: bool) -> bool:
        """Have a row's pictures drawn.

        Args:
            row: With OVERLAY_COLUMNS; numbers only, ``has_fit``.
            wait: Whether to wait while the workers are far behind; otherwise such a row is left
                out, to be drawn later.

        Returns:
            Whether the row was taken.
        """
        while wait and len(self._pending) >= _MAX_PENDING and not self._broken:
            self._collect(next(iter(self._pending)))
        for future in [future for future in self._pending if future.done()]:
            self._collect(future)
        if self._broken or len(self._pending) >= _MAX_PENDING:
            return False
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._workers, self._context, _start, self._arguments
            )
        job = {name: row[name] for name in OVERLAY_COLUMNS if name in row}
        paths = {view: self._path(row, view) for view in VIEWS}
        try:
            # Here workers are started. They inherit the mask: a Ctrl-C is for all processes of the
            # terminal, and must not end them before they can ignore it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            future = self._executor.submit(_draw, job, self._root / row["image_path"], paths)
        except BrokenProcessPool:
            self._give_up()
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._pending.add(future)
        return True

    def _collect(self, future: Future) -> None:
        self._pending.discard(future)
        try:
            problem = future.result()
        except BrokenProcessPool:
            self._give_up()
            return
        self.drawn += not problem
        self.failed += bool(problem)
        if problem:
            _log.warning("no overlay: %s", problem)

    def _give_up(self) -> None:
        if not self._broken:
            _log.warning("the process that draws overlays died; the fits go on without")
        self._broken = True

    def finish(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Wait until everything that was submitted is drawn, or until asked to stop."""
        while self._pending and not should_stop():
            done, _ = wait_for(self._pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                self._collect(future)

    def __enter__(self) -> "OverlayPool":
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; what is not drawn yet stays missing."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


# --- in the worker ------------------------------------------------------------------------------

_BODY: BodyData
_DRAW: Draw


def _start(load_body: Callable[[], BodyData], draw: Draw) -> None:
    global _BODY, _DRAW
    # The body is loaded here, not sent: a parent that sends megabytes to a worker that dies while
    # it starts would wait for ever.
    logging.disable(logging.WARNING)  # the parent has said it all
    _BODY, _DRAW = load_body(), draw
    serve_parent()  # the solver has the cores; what is drawn beside it may take longer


def _draw(row: Mapping[str, Any], photo: Path, paths: Mapping[str, Path]) -> str:
    """Draw and write one row's pictures; return what went wrong, or nothing."""
    from PIL import Image

    try:
        if row["body_sha256"] != _BODY.sha256:
            raise ValueError(f"fitted with another body than {_BODY.name}")
        pictures = _DRAW(_BODY, row, photo)
        for view, path in paths.items():
            data = io.BytesIO()
            Image.fromarray(pictures[view]).save(data, "JPEG", quality=88)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_bytes(data.getvalue())
            temporary.replace(path)
    except Exception as error:  # one photo that is gone must not stop the others
        return f"{photo}: {error or type(error).__name__}"
    return ""
