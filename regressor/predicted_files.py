"""Meshes, pictures and films of predictions, made from the rows of the store.

From the rows and from nothing else: a run that was stopped and started again leaves the same files
as one that ran through, and memory does not grow with the number of people.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from curation.crops import person_window
from curation.images import ImageError, read_image
from curation.reproject import posed_vertices
from curation.schema import PARAMETERS, POSE_SHAPES
from curation.store import FitStore

__all__ = ["VIEWS", "claim_glbs", "complete_glbs", "draw_overlays", "write_film", "write_glbs"]

_log = logging.getLogger("regressor.predict")

VIEWS = ("front", "side", "top")
_PLACE = ("image_path", "person_index", "has_fit", "fit_id")
_CAMERA = ("focal_px", "center_px")
_TO_VIEWER = np.array([1.0, -1.0, -1.0])  # glTF's axes: y up, z to the viewer


def write_glbs(
    rows: Iterable[Mapping[str, Any]],
    folder: Path,
    body: BodyData,
    stem_of: Callable[[str], str],
    only_missing: bool = False,
) -> int:
    """Write a mesh for each row that has a fit; return how many.

    Args:
        rows: With image_path, person_index, has_fit and the parameters.
        folder: Where ``<image path>_<person>.glb`` goes.
        body: The rows'.
        stem_of: What the image path becomes in it (curation.file_stems.FolderStems).
        only_missing: Leave those alone that are there.
    """
    from curation.formats.meshes import glb_bytes

    count = 0
    for row in rows:
        path = folder / f"{stem_of(row['image_path'])}_{row['person_index']}.glb"
        if not row["has_fit"] or (only_missing and path.exists()):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_bytes(glb_bytes(posed_vertices(body, row) * _TO_VIEWER, body.faces, path.stem))
        part.replace(path)
        count += 1
    return count


def claim_glbs(folder: Path, run_id: str) -> None:
    """Note whose meshes a folder without any is going to hold, in its ``run.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.rglob("*.glb")):
        (folder / "run.txt").write_text(run_id + "\n", encoding="utf-8")


def complete_glbs(
    store: FitStore, run_id: str, folder: Path, body: BodyData, stem_of: Callable[[str], str]
) -> int:
    """Write the meshes of a run that its folder lacks; return how many.

    Where ``run.txt`` does not say that what is there is this run's, all are written anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "run.txt"
    is_ours = note.exists() and note.read_text(encoding="utf-8").strip() == run_id
    if not is_ours:
        note.unlink(missing_ok=True)
    rows = store.iter_rows([*_PLACE, *PARAMETERS], run_id)
    count = write_glbs(rows, folder, body, stem_of, only_missing=is_ours)
    note.write_text(run_id + "\n", encoding="utf-8")
    return count


def draw_overlays(store: FitStore, run_id: str, body: BodyData, photos: Path, how_many: int) -> int:
    """Draw the first people of a run, those that have no picture yet; return how many it drew.

    Args:
        store: Where the run is, and the pictures go.
        run_id: The run.
        body: Its.
        photos: Directory that the photos' names are relative to.
        how_many: People who shall have pictures.
    """
    from PIL import Image

    from bodymodel.render import render_views

    drawn = seen = 0
    columns = [*_PLACE, *_CAMERA, "bbox_xyxy_px", *PARAMETERS]
    for row in store.iter_rows(columns, run_id) if how_many > 0 else ():
        if seen >= how_many:
            break
        if not row["has_fit"]:
            continue
        seen += 1
        paths = {view: store.overlay_path(run_id, row["fit_id"], view) for view in VIEWS}
        if all(path.exists() for path in paths.values()):
            continue
        try:
            image = read_image(photos / row["image_path"])[0]
        except ImageError as error:
            _log.warning("no picture of %s: %s", row["image_path"], error)
            continue
        left, top, right, bottom = person_window(image.shape[:2], row["bbox_xyxy_px"])
        center = np.asarray(row["center_px"], np.float64) - (left, top)
        vertices = posed_vertices(body, row).astype(np.float32)
        views = render_views(
            image[top:bottom, left:right], vertices, body.faces, float(row["focal_px"]), center
        )
        for view, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(views[view]).save(path, quality=90)
        drawn += 1
    return drawn


def write_film(
    store: FitStore, run_id: str, body: BodyData, photos: Path, film: Path, fps: float
) -> int:
    """Smooth the first person's motion over all photos of a run, draw it over them as a film.

    Photos are frames in the order of their names; where nobody was found, the bare photo is shown.

    Args:
        store: Where the run is.
        run_id: The run.
        body: Its.
        photos: Directory that the photos' names are relative to.
        film: The .mp4 file.
        fps: Frames a second.

    Returns:
        Frames written; 0, and no film, if nobody was found in any photo.
    """
    from bodymodel.render import overlay

    columns = [*_PLACE, *_CAMERA, *PARAMETERS]
    names: set[str] = set()
    people: dict[str, dict[str, Any]] = {}
    for row in store.iter_rows(columns, run_id):
        names.add(row["image_path"])
        if row["has_fit"] and row["person_index"] == 0:
            people[row["image_path"]] = row
    order = sorted(people)
    if not order:
        _log.warning("nobody was found, so there is no film")
        return 0
    smooth = _smoothed([people[name] for name in order], fps)
    place = {name: t for t, name in enumerate(order)}

    def frames() -> Iterator[np.ndarray]:
        for name in sorted(names):
            try:
                image = read_image(photos / name)[0]
            except ImageError as error:
                _log.warning("the film lacks %s: %s", name, error)
                continue
            if name in place:
                row, params = people[name], {k: v[place[name]] for k, v in smooth.items()}
                vertices = posed_vertices(body, params).astype(np.float32)
                image = overlay(
                    image, vertices, body.faces, float(row["focal_px"]), row["center_px"]
                )
            yield image

    return _write_frames(frames(), film, fps)


def _smoothed(rows: list[dict[str, Any]], fps: float) -> dict[str, np.ndarray]:
    """Filter the parameters of a person in frames, (T, ...) each; the shape is everybody's mean."""
    import torch

    from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
    from regressor.smoothing import smooth_rotations, smooth_vectors

    params: dict[str, np.ndarray] = {}
    for name in PARAMETERS:
        if name not in rows[0]:
            continue
        values = torch.as_tensor(np.stack([row[name] for row in rows]))
        if name in POSE_SHAPES:
            turned = rotvec_to_rotmat(values.reshape(len(rows), -1, 3))
            values = rotmat_to_rotvec(smooth_rotations(turned, fps)).reshape(values.shape)
        elif name == "betas":
            values = values.mean(0).expand_as(values)
        else:
            values = smooth_vectors(values, fps)
        params[name] = values.numpy()
    return params


def _write_frames(frames: Iterator[np.ndarray], film: Path, fps: float) -> int:
    """Write a film whole or not at all; frames of another size than the first are put into it."""
    import cv2

    film.parent.mkdir(parents=True, exist_ok=True)
    part = film.with_name(f"{film.stem}.part{film.suffix}")
    writer, count = None, 0
    try:
        for frame in frames:
            if writer is None:
                size = tuple(max(2, side - side % 2) for side in frame.shape[1::-1])
                code = cv2.VideoWriter_fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(part), code, fps, size)
                if not writer.isOpened():
                    raise OSError(f"no film can be written to {film}; name a file that ends .mp4")
            writer.write(cv2.cvtColor(_fitted(frame, size), cv2.COLOR_RGB2BGR))
            count += 1
    finally:
        if writer is not None:
            writer.release()
    if count:
        part.replace(film)
    return count


def _fitted(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a frame into (width, height), black around it."""
    import cv2

    scale = min(size[0] / frame.shape[1], size[1] / frame.shape[0])
    width, height = (max(1, round(scale * side)) for side in frame.shape[1::-1])
    out = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    out[top : top + height, left : left + width] = cv2.resize(frame, (width, height))
    return out
