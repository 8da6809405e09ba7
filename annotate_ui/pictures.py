"""The pictures of an item: those in the store's cache, and those that are drawn when missing.

``fitting.run`` leaves three pictures a person in the store; the rest (the bare photo, cut the same,
face and hands enlarged, the keypoints in the picture's coordinates, the mesh) is made by a worker
process, ahead of the person who will look at it, and kept in the same cache.
"""

import asyncio
import functools
import io
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.crops import person_window
from curation.schema import PARAMETERS
from curation.store import FitStore
from curation.worker_pool import serve_parent

if TYPE_CHECKING:
    from bodymodel.body import BodyData

__all__ = ["FILES", "PICTURE_COLUMNS", "PICTURE_FILES", "PictureMaker", "draw_item"]

MAX_SIDE_PX, ZOOM_PX = 512, 288
_ZOOMS = {"face": ("face",), "left_hand": ("left_hand",), "right_hand": ("right_hand",)}
_WRIST = {"left_hand": "left_wrist", "right_hand": "right_wrist"}

PICTURE_FILES: tuple[str, ...] = (
    "photo.jpg", "front.jpg", "side.jpg", "top.jpg",
    *(f"{zoom}{kind}.jpg" for zoom in _ZOOMS for kind in ("", "_photo")),
)  # fmt: skip
FILES: tuple[str, ...] = (*PICTURE_FILES, "points.json", "mesh.glb")
"""Names of what there is of an item, as in ``overlays/<run_id>/<fit_id>.<name>``."""

_AHEAD = (*PICTURE_FILES, "points.json")
_MEDIA = {".jpg": "image/jpeg", ".json": "application/json", ".glb": "model/gltf-binary"}

PICTURE_COLUMNS: tuple[str, ...] = (
    "fit_id", "run_id", "image_path", "body_sha256", *PARAMETERS, "focal_px", "center_px",
    "has_bbox", "bbox_xyxy_px", "keypoints_2d", "residual_px",
    "has_left_hand", "has_right_hand", "has_face",
)  # fmt: skip
"""What of a row the pictures need."""

_REST_SECONDS = 20.0
"""Between a drawing process that died and the next."""

_PROBLEM_SECONDS = 120.0
"""After which a photo that could not be read is tried again."""

_log = logging.getLogger(__name__)


def draw_item(
    body: "BodyData", row: Mapping[str, Any], photo: Path, names: Iterable[str]
) -> dict[str, bytes]:
    """Return files of an item by name.

    Args:
        body: The row's body.
        row: With PICTURE_COLUMNS.
        photo: The file.
        names: Of FILES; zooms of parts that the image does not show are empty files.
    """
    from curation.reproject import Reprojector, posed_vertices

    wanted = set(names)
    vertices = posed_vertices(body, row).astype(np.float32)
    files: dict[str, bytes] = {}
    if "mesh.glb" in wanted:
        files["mesh.glb"] = _glb(vertices, body.faces)
    if wanted <= {"mesh.glb"}:
        return files

    from curation.images import read_image

    image = read_image(photo)[0]
    window = (0, 0, image.shape[1], image.shape[0])
    if row["has_bbox"]:
        window = person_window(image.shape[:2], row["bbox_xyxy_px"])
    x0, y0, x1, y1 = window
    cut = np.ascontiguousarray(image[y0:y1, x0:x1])
    focal_px, center_px = float(row["focal_px"]), np.asarray(row["center_px"], np.float64)
    if wanted & {"front.jpg", "side.jpg", "top.jpg"}:
        from bodymodel.render import render_views

        views = render_views(cut, vertices, body.faces, focal_px, center_px - (x0, y0), MAX_SIDE_PX)
        files |= {f"{view}.jpg": _jpeg(picture) for view, picture in views.items()}
    if "photo.jpg" in wanted:
        scale = min(1.0, MAX_SIDE_PX / max(cut.shape[:2]))
        files["photo.jpg"] = _jpeg(_resized(cut, scale))

    projected = Reprojector.for_body(body).project(row)
    seen = np.asarray(row["keypoints_2d"], np.float64)
    if "points.json" in wanted:
        files["points.json"] = _points(row, seen, projected, window)
    for zoom in _ZOOMS:
        if wanted & {f"{zoom}.jpg", f"{zoom}_photo.jpg"}:
            files |= _zoom(zoom, body, row, image, vertices, seen, projected)
    return {name: data for name, data in files.items() if name in wanted}


def _zoom(
    zoom: str,
    body: "BodyData",
    row: Mapping[str, Any],
    image: np.ndarray,
    vertices: np.ndarray,
    seen: np.ndarray,
    projected: np.ndarray,
) -> dict[str, bytes]:
    """A square round a part, with and without the mesh; empty where the part is not to be seen."""
    from bodymodel.render import overlay

    names = (f"{zoom}.jpg", f"{zoom}_photo.jpg")
    members = _members(zoom)
    points = np.concatenate([projected[members], seen[members, :2][seen[members, 2] > 0]])
    points = points[np.isfinite(points).all(-1)]
    if not row[f"has_{zoom}"] or not len(points):
        return dict.fromkeys(names, b"")
    low, high = points.min(0), points.max(0)
    height, width = image.shape[:2]
    side = float(np.clip(1.7 * (high - low).max(), 16, 4 * max(height, width)))
    corner = (low + high) / 2 - side / 2
    scale = ZOOM_PX / side
    bare = _square(image, corner, side)
    center = (np.asarray(row["center_px"], np.float64) - corner) * scale
    drawn = overlay(bare, vertices, body.faces, float(row["focal_px"]) * scale, center, opacity=0.7)
    return {names[0]: _jpeg(drawn), names[1]: _jpeg(bare)}


@functools.cache
def _members(part: str) -> np.ndarray:
    """Indices of a part's points, its wrist among them."""
    from bodymodel.keypoints import FIT_KEYPOINTS
    from bodymodel.spec import keypoint_part

    chosen = [
        keypoint_part(name) in _ZOOMS[part] or name == _WRIST.get(part) for name in FIT_KEYPOINTS
    ]
    return np.flatnonzero(chosen)


def _square(image: np.ndarray, corner: np.ndarray, side: float) -> np.ndarray:
    """Return a square of an image at ZOOM_PX, grey where it lies outside."""
    from PIL import Image

    box = (corner[0], corner[1], corner[0] + side, corner[1] + side)
    low = np.floor(corner).astype(int) - 2
    high = np.ceil(corner + side).astype(int) + 2
    size = high - low
    canvas = np.full((size[1], size[0], 3), 128, np.uint8)
    height, width = image.shape[:2]
    a, b = np.clip(low, 0, (width, height)), np.clip(high, 0, (width, height))
    inside = image[a[1] : b[1], a[0] : b[0]]
    at = a - low
    canvas[at[1] : at[1] + inside.shape[0], at[0] : at[0] + inside.shape[1]] = inside
    local = tuple(float(v - low[k % 2]) for k, v in enumerate(box))
    how = Image.Resampling.BICUBIC if side < ZOOM_PX else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(canvas).resize((ZOOM_PX, ZOOM_PX), how, box=local))


def _points(
    row: Mapping[str, Any], seen: np.ndarray, projected: np.ndarray, window: tuple[int, ...]
) -> bytes:
    """Keypoints in parts of the picture's width and height: part, seen, model, distance, name."""
    from bodymodel.keypoints import FIT_KEYPOINTS
    from bodymodel.spec import keypoint_part

    corner = np.array(window[:2], np.float64)
    size = np.array(window[2:], np.float64) - corner
    residual = np.asarray(row["residual_px"], np.float64)
    points = []
    for k, name in enumerate(FIT_KEYPOINTS):
        if seen[k, 2] <= 0:
            continue
        a, b = (seen[k, :2] - corner) / size, (projected[k] - corner) / size
        known = bool(np.isfinite(b).all())
        points.append(
            {
                "name": name,
                "part": keypoint_part(name),
                "seen": [round(float(v), 5) for v in a],
                "conf": round(float(seen[k, 2]), 3),
                "model": [round(float(v), 5) for v in b] if known else None,
                "px": round(float(residual[k]), 2) if np.isfinite(residual[k]) else None,
            }
        )
    return json.dumps({"points": points, "window": list(window)}).encode()


def _glb(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """The mesh for a viewer whose y is up and which looks along -z; its middle in the origin."""
    import trimesh

    points = vertices * np.array((1, -1, -1), np.float32)
    points = points - (points.min(0) + points.max(0)) / 2
    mesh = trimesh.Trimesh(points, faces, process=False)
    mesh.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(
            baseColorFactor=(150, 180, 215, 255), metallicFactor=0.0, roughnessFactor=0.75
        )
    )
    _ = mesh.vertex_normals  # computed, so that they are written
    return mesh.export(file_type="glb")


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    from PIL import Image

    if scale >= 1:
        return image
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(picture)


def _jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=88)
    return data.getvalue()


# --- where they are, and having them made --------------------------------------------------------


class PictureMaker:
    """Finds the files of items, and has missing ones drawn in processes beside the server.

    Args:
        store: Whose cache.
        dataset_root: Where the photos are.
        load_body: Loads the rows' body; importable, because it is called in the worker.
        row_of: Gives the row of a fit, with PICTURE_COLUMNS.
        workers: Processes; they start when something is missing. 0: nothing is ever drawn here.
    """

    def __init__(
        self,
        store: FitStore,
        dataset_root: Path,
        load_body: Callable[[], "BodyData"],
        row_of: Callable[[str], Mapping[str, Any]],
        workers: int = 1,
    ) -> None:
        self._store, self._root, self._row_of = store, dataset_root, row_of
        self._load_body, self._workers = load_body, workers
        self._lock = threading.Lock()
        self._executor: ProcessPoolExecutor | None = None
        self._pending: dict[tuple[str, bool], Future] = {}
        self._problems: dict[str, tuple[float, str]] = {}
        self._not_before = 0.0
        self._last_problem = ""

    def path(self, run_id: str, fit_id: str, name: str) -> Path:
        """Return where a file of an item is or would be."""
        stem, ending = name.rsplit(".", 1)
        return self._store.overlay_path(run_id, fit_id, stem).with_suffix(f".{ending}")

    @staticmethod
    def media_type(name: str) -> str:
        """Return the media type of a file's name."""
        return _MEDIA[name[name.rindex(".") :]]

    def missing(self, run_id: str, fit_id: str, names: Iterable[str] = _AHEAD) -> list[str]:
        """Return which files are not there yet."""
        return [name for name in names if not self.path(run_id, fit_id, name).exists()]

    def problem(self, fit_id: str) -> str:
        """Return why files that an item lacks cannot be made, empty if nothing is known."""
        if not self._workers:
            return "it is not drawn yet, and this server draws none (--workers 0)"
        since, problem = self._problems.get(fit_id, (0.0, ""))
        # A disk that was away may be back.
        return problem if time.monotonic() - since < _PROBLEM_SECONDS else ""

    def want(self, run_id: str, fit_id: str, mesh: bool = False) -> Future | None:
        """Have what is missing drawn.

        Args:
            run_id: Of the fit.
            fit_id: The fit.
            mesh: The mesh; otherwise the pictures.

        Returns:
            The work that is under way, None if nothing is missing or it cannot be made.
        """
        names = self.missing(run_id, fit_id, ("mesh.glb",) if mesh else _AHEAD)
        if not names or self.problem(fit_id) or not self._workers:
            return None
        key = (fit_id, mesh)
        with self._lock:
            if key in self._pending:
                return self._pending[key]
            row = self._row_of(fit_id)
            job = {name: row[name] for name in PICTURE_COLUMNS}
            paths = {name: self.path(run_id, fit_id, name) for name in names}
            for _ in range(2):
                if self._executor is None:
                    if time.monotonic() < self._not_before:
                        return None
                    self._executor = ProcessPoolExecutor(
                        self._workers,
                        multiprocessing.get_context("spawn"),
                        _start,
                        (self._load_body,),
                    )
                try:
                    photo = self._root / row["image_path"]
                    future = self._executor.submit(_draw_files, job, photo, paths)
                    break
                except BrokenProcessPool:  # killed for memory, say: another, but not at once
                    self._executor.shutdown(wait=False)
                    self._executor = None
                    self._not_before = time.monotonic() + _REST_SECONDS
            else:
                return None
            self._pending[key] = future
        future.add_done_callback(functools.partial(self._done, key))
        return future

    async def wait(self, run_id: str, fit_id: str, name: str, seconds: float) -> Path | None:
        """Return the path of a file, drawn if it is missing; None if that fails or takes longer."""
        path = self.path(run_id, fit_id, name)
        if not path.exists():
            mesh = name == "mesh.glb"
            work = await asyncio.to_thread(self.want, run_id, fit_id, mesh=mesh)
            if work is not None:
                # Shared: a reader who goes away must not cancel it.
                waiting = asyncio.wrap_future(work)
                waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
                await asyncio.wait([waiting], timeout=seconds)
        return path if path.exists() else None

    def _done(self, key: tuple[str, bool], future: Future) -> None:
        with self._lock:
            self._pending.pop(key, None)
        if future.cancelled():
            return
        error = future.exception()
        problem = f"the drawing process ended: {error}" if error else future.result()
        if problem:
            if not isinstance(error, BrokenProcessPool):
                self._problems[key[0]] = time.monotonic(), problem
            if problem != self._last_problem:
                _log.warning("no pictures: %s", problem)
            self._last_problem = problem

    def close(self) -> None:
        """Stop the workers; what is not drawn stays missing."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)


# --- in the worker -------------------------------------------------------------------------------

_BODY: "BodyData"
_NO_BODY = ""


def _start(load_body: Callable[[], "BodyData"]) -> None:
    global _BODY, _NO_BODY
    logging.disable(logging.WARNING)  # the server has said it all
    serve_parent()
    try:
        _BODY = load_body()
    except Exception as error:  # raised here, it would only end process after process
        _NO_BODY = f"the body cannot be loaded: {error}"


def _draw_files(row: Mapping[str, Any], photo: Path, paths: Mapping[str, Path]) -> str:
    """Draw and write files; return what went wrong, or nothing."""
    if _NO_BODY:
        return _NO_BODY
    try:
        if row["body_sha256"] != _BODY.sha256:
            raise ValueError(f"fitted with another body than {_BODY.name}; pass --body")
        for name, data in draw_item(_BODY, row, photo, list(paths)).items():
            path = paths[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_bytes(data)
            temporary.replace(path)
    except Exception as error:  # one photo that is gone must not stop the others
        return f"{photo.name}: {error or type(error).__name__}"
    return ""
