"""Look at photos with a trained regressor: ``python -m regressor.predict PHOTOS``.

Everybody in the photos becomes a row of the same store as fits (``PHOTOS/fits`` unless --out), as a
run of its own: review them, export them, or start fits from them (``fitting.run --init fits:...``).
People are found by labels, by the detector, or by boxes that you give. Run it again and it goes on
where it stopped.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

if TYPE_CHECKING:
    from bodymodel.body import BodyData
    from curation.formats.fits import Fits
    from curation.samples import PersonObservation
    from regressor.predictor import Predictor

_log = logging.getLogger("regressor.predict")


@dataclass(frozen=True)
class PredictConfig:
    """What is predicted. Every field is a flag."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS")]
    """Directory of photos, with labels if there are any."""
    out: Path | None = None
    """The store. [PHOTOS/fits]"""
    checkpoint: Path | None = None
    """Weights of regressor.train; those that come with the package by default."""
    body: str = "open"
    """The body of the weights: open, or your own SMPL-X model."""
    boxes: Path | None = None
    """CSV file with a row ``photo,x0,y0,x1,y1`` for each person, photo relative to PHOTOS; then
    nobody is looked for."""
    dataset: str = "auto"
    """What PHOTOS is, as for fitting.run."""
    keypoints: str = "auto"
    """Where people are found: auto, annotations, openpose, wholebody or mediapipe."""
    focal_px: float | None = None
    """Focal length of all photos. [EXIF, else the diagonal]"""
    batch: int = 16
    """People at a time."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    overlays: int = 50
    """Pictures to draw: of so many people, side view and view from above along."""
    glb: Path | None = None
    """Folder for a GLB mesh of each person."""
    video: Path | None = None
    """Take the photos for frames of one video in the order of their names, smooth the motion of the
    first person, and write it with the body drawn over it (an .mp4 file)."""
    fps: float = 30.0
    """Frames a second of that video."""


class UsageError(ValueError):
    """What was asked for cannot be done; the message says why and how to go on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    config = tyro.cli(PredictConfig, args=argv, description=__doc__)
    from curation.datasets.base import DatasetError
    from curation.progress import set_up_logging
    from curation.store import StoreError

    set_up_logging("info")
    try:
        return predict(config)
    except (UsageError, DatasetError, StoreError) as error:
        print(f"regressor.predict: {error}", file=sys.stderr)  # noqa: T201
        return 2


def predict(config: PredictConfig) -> int:
    """Predict as configured; return the exit status."""
    import torch

    from bodymodel.files import load_body
    from curation.formats.posing import Poser
    from curation.import_fits import import_rows
    from curation.progress import Progress
    from curation.run_writer import RunInfo, RunWriter
    from curation.stopping import StopSignals
    from curation.store import FitStore
    from regressor.checkpoints import bundled_path, load_model
    from regressor.predictor import Predictor

    if not config.data.is_dir():
        raise UsageError(f"{config.data} is no directory; give the one that holds the photos")
    weights = config.checkpoint or bundled_path()
    if not weights.is_file():
        raise UsageError(f"there are no weights at {weights}; train some with regressor.train")
    body = load_body(config.body)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model, _ = load_model(body, weights, device)
    except ValueError as error:
        raise UsageError(str(error)) from None
    predictor = Predictor(model, body)
    name = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    dataset = config.data.resolve().name
    info = RunInfo(
        run_id=f"regressor-{name}",
        config={"checkpoint": str(weights), "keypoints": config.keypoints},
        config_hash=name,
        dataset=dataset,
        dataset_root=config.data,
        body_name=body.name,
        body_sha256=body.sha256,
        body_is_open=body.is_open,
        code_version=f"regressor {name}",
        num_betas=body.num_betas,
        num_expression=body.num_expression,
    )
    store = FitStore(config.out or config.data / "fits")
    poser = Poser(body)
    counts = {"people": 0, "nobody": 0, "photos": 0}
    frames: list[Fits] = []
    with StopSignals() as stop, RunWriter(store, info) as writer:
        done = store.stored_images(info.run_id).done
        with Progress(None, "photo", "person", is_shown=True) as progress:
            for photos in _photos(config, done):
                if stop.signal is not None:
                    break
                fits = _look(predictor, photos, dataset, body, config)
                rows = import_rows(
                    fits, poser, config.data, info.run_id, info.code_version, config.focal_px
                ) if len(fits) else []  # fmt: skip
                nobody = [o for people in photos for o in people if o.status != "ok"]
                rows += [_nobody(person, info, body) for person in nobody]
                writer.write(rows)
                frames.append(fits)
                counts["people"] += len(fits)
                counts["photos"] += len(photos)
                counts["nobody"] += len(nobody)
                progress.add(len(photos), len(fits))
        outcome = "complete" if stop.signal is None else "stopped"
        writer.finish(outcome, counts)
    if frames and config.glb:
        from curation.formats.meshes import write_meshes

        for fits in frames:
            write_meshes(fits, config.glb, body, "glb")
    _draw(store, info.run_id, body, config)
    if frames and config.video:
        _film(frames, body, config)
    print(f"photos   {counts['photos']:6d}\npeople   {counts['people']:6d}")  # noqa: T201
    last = {**counts, "outcome": outcome, "run_id": info.run_id, "out": str(store.root)}
    print(json.dumps(last))  # noqa: T201
    return 0 if outcome == "complete" else 130


def _photos(config: PredictConfig, done: set[bytes]) -> "Iterator[list[list[PersonObservation]]]":
    """Yield photos, a batch of people at a time; a photo is the list of its people."""
    from curation.schema import image_key

    batch: list[list[PersonObservation]] = []
    photo: list[PersonObservation] = []
    for person in _people(config, done):
        if photo and photo[0].image_id != person.image_id:
            batch.append(photo)
            photo = []
            if sum(map(len, batch)) >= config.batch:
                yield batch
                batch = []
        if image_key(person.image_id) not in done:
            photo.append(person)
    if photo:
        batch.append(photo)
    if batch:
        yield batch


def _people(config: PredictConfig, done: set[bytes]) -> "Iterator[PersonObservation]":
    from curation.datasets import open_dataset
    from curation.observe import observe
    from curation.schema import image_key

    if config.boxes is not None:
        yield from _given_boxes(config)
        return
    kind = None if config.dataset == "auto" else config.dataset
    samples = open_dataset(config.data, kind).iter_samples()
    wanted = (s for s in samples if image_key(s.image_id) not in done)
    store = config.out or config.data / "fits"
    yield from observe(
        wanted, source=config.keypoints, workers=1, cache_dir=store / "cache" / "keypoints"
    )


def _given_boxes(config: PredictConfig) -> "Iterator[PersonObservation]":
    import csv

    from curation.images import ImageError, read_header
    from curation.samples import PersonObservation

    people: dict[str, list[np.ndarray]] = {}
    with config.boxes.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            try:
                name, box = row[0].strip(), np.array([float(v) for v in row[1:5]], np.float32)
                if len(row) < 5 or not (box[2:] > box[:2]).all():
                    raise ValueError
            except (IndexError, ValueError):
                if number == 1:
                    continue  # a header
                raise UsageError(
                    f"{config.boxes}, line {number}: expected photo,x0,y0,x1,y1 with x0 < x1 and "
                    f"y0 < y1, got {','.join(row)}"
                ) from None
            people.setdefault(name, []).append(box)
    for name, boxes in people.items():
        try:
            header = read_header(config.data / name)
        except ImageError as error:
            yield PersonObservation(name, 0, status="image_error", reason=error.reason)
            continue
        for index, box in enumerate(boxes):
            yield PersonObservation(
                name, index, header.sha256, header.width, header.height, box,
                focal_px=header.focal_px,
            )  # fmt: skip


def _look(
    predictor: "Predictor",
    photos: "list[list[PersonObservation]]",
    dataset: str,
    body: "BodyData",
    config: PredictConfig,
) -> "Fits":
    """Predict the people of some photos."""
    from curation.formats.fits import new_fits
    from curation.images import ImageError, read_image
    from curation.people import keypoint_box
    from regressor.predictor import PersonBox

    people, boxes = [], []
    for photo in photos:
        picture = None
        for person in photo:
            if person.status != "ok":
                continue
            box = person.bbox_xyxy_px
            if not np.isfinite(box).all():
                box = keypoint_box(person.keypoints_2d)
            if not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
                _log.warning("%s: a person without a box is left out", person.image_id)
                continue
            if picture is None:
                try:
                    picture = read_image(config.data / person.image_id)[0]
                except ImageError as error:
                    _log.warning("%s: %s", person.image_id, error)
                    break
            focal = config.focal_px or (person.focal_px if person.focal_px > 0 else 0.0)
            people.append(person)
            boxes.append(PersonBox(picture, box, focal))
    if not people:
        return new_fits((), {"betas": np.zeros((0, body.num_betas))}, dataset=dataset)
    found = predictor(boxes)
    return new_fits(
        [p.image_id for p in people],
        found.params.numpy(),
        dataset=dataset,
        person_index=np.array([p.person_index for p in people], np.int32),
        size=np.array([(p.width, p.height) for p in people], np.int32),
        bbox_xyxy_px=np.stack([b.bbox_xyxy_px for b in boxes]),
        focal_px=found.focal_px.cpu().numpy(),
        center_px=found.center_px.cpu().numpy(),
        keypoints_2d=np.stack([p.keypoints_2d for p in people]),
        body_name=body.name,
        body_sha256=body.sha256,
        gender=body.gender,
    )


def _nobody(person: "PersonObservation", info: Any, body: "BodyData") -> dict[str, Any]:
    """A row that says why there is nothing."""
    from curation.formats.fits import new_fits
    from curation.formats.posing import Poser
    from curation.import_fits import import_rows

    sizes = {"betas": body.num_betas, "expression": body.num_expression}
    blank = {k: np.full((1, n), np.nan, np.float32) for k, n in sizes.items()}
    fits = new_fits(
        [person.image_id], blank, dataset=info.dataset, body_name=body.name,
        person_index=np.array([person.person_index], np.int32),
        size=np.array([(person.width, person.height)], np.int32),
    )  # fmt: skip
    row = import_rows(
        fits, Poser(body), info.dataset_root, info.run_id, info.code_version, None
    )[0]  # fmt: skip
    return row | {"status": person.status, "reason": person.reason}


def _draw(store: Any, run_id: str, body: "BodyData", config: PredictConfig) -> None:
    """Draw the pictures of the first people that have none."""
    from PIL import Image

    from bodymodel.render import render_views
    from curation.crops import person_window
    from curation.images import ImageError, read_image
    from curation.reproject import posed_vertices

    drawn = 0
    for row in store.iter_rows(run_id=run_id):
        if drawn >= config.overlays:
            break
        if not row["has_fit"]:
            continue
        paths = {v: store.overlay_path(run_id, row["fit_id"], v) for v in ("front", "side", "top")}
        if all(path.exists() for path in paths.values()):
            continue
        try:
            image = read_image(config.data / row["image_path"])[0]
        except ImageError:
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


def _film(frames: "list[Fits]", body: "BodyData", config: PredictConfig) -> None:
    """Smooth the first person's motion and draw it over the photos."""
    import cv2
    import torch

    from bodymodel.render import overlay
    from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
    from curation.images import read_image
    from curation.reproject import posed_vertices
    from curation.schema import POSE_SHAPES
    from regressor.smoothing import smooth_rotations, smooth_vectors

    rows = sorted(
        (path, i, k)
        for i, fits in enumerate(frames)
        for k, path in enumerate(fits.image_path)
        if fits.person_index[k] == 0
    )
    if not rows:
        _log.warning("nobody was found, so there is no video")
        return
    params: dict[str, np.ndarray] = {}
    for name in (*POSE_SHAPES, "betas", "expression", "transl"):
        values = torch.as_tensor(np.stack([frames[i].params[name][k] for _, i, k in rows]))
        if name in POSE_SHAPES:
            turned = rotvec_to_rotmat(values.reshape(len(rows), -1, 3))
            values = rotmat_to_rotvec(smooth_rotations(turned, config.fps)).reshape(values.shape)
        elif name == "betas":
            values = values.mean(0).expand_as(values)
        else:
            values = smooth_vectors(values, config.fps)
        params[name] = values.numpy()
    film = None
    for t, (path, i, k) in enumerate(rows):
        image = read_image(config.data / path)[0]
        vertices = posed_vertices(body, {n: v[t] for n, v in params.items()}).astype(np.float32)
        fits = frames[i]
        drawn = overlay(image, vertices, body.faces, float(fits.focal_px[k]), fits.center_px[k])
        if film is None:
            config.video.parent.mkdir(parents=True, exist_ok=True)
            size = drawn.shape[1], drawn.shape[0]
            code = cv2.VideoWriter_fourcc(*"mp4v")
            film = cv2.VideoWriter(str(config.video), code, config.fps, size)
        film.write(cv2.cvtColor(cv2.resize(drawn, size), cv2.COLOR_RGB2BGR))
    film.release()


if __name__ == "__main__":
    sys.exit(main())
