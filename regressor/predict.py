"""Photos to bodies: ``python -m regressor.predict PHOTOS``.

Everybody in the photos becomes a row of the same store as fits (``PHOTOS/fits`` unless --out), as a
run of its own: review them, export them, or start fits from them (``fitting.run --init fits:...``).
People are found by labels, by the detector, or by boxes that you give.

Without --checkpoint, bodies are lifted from keypoints by the small network that comes with the
package; no picture is looked at but by the detector. With it, an image network of regressor.train
looks at the people. Run it again and it goes on where it stopped.
"""

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

if TYPE_CHECKING:
    from bodymodel.body import BodyData
    from curation.samples import PersonObservation
    from curation.store import FitStore
    from regressor.people_in_photos import Boxes
    from regressor.people_regressors import PeopleRegressor


@dataclass(frozen=True)
class PredictConfig:
    """What is predicted. Every field is a flag."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS")]
    """Directory of photos, with labels if there are any."""
    out: Path | None = None
    """The store. [PHOTOS/fits]"""
    checkpoint: Path | None = None
    """Weights of an image network, of regressor.train; "bundled" are those that come along.
    [bodies are lifted from keypoints alone]"""
    align: bool = True
    """Bring the image network's bodies onto the keypoints where there are any."""
    body: str = "open"
    """The body of the weights: open, or your own SMPL-X model."""
    boxes: Path | None = None
    """CSV file with a row ``photo,x0,y0,x1,y1`` for each person, photo relative to PHOTOS; then
    nobody else is looked for."""
    dataset: str = "auto"
    """What PHOTOS is, as for fitting.run."""
    keypoints: Literal["auto", "annotations", "openpose", "wholebody", "mediapipe"] = "auto"
    """Where people are found: auto, annotations, openpose, wholebody or mediapipe."""
    focal_px: float | None = None
    """Focal length of all photos. [the data set's, EXIF's, else the diagonal]"""
    batch: int | None = None
    """People at a time. [16 with an image network, else 128]"""
    workers: int | None = None
    """Processes that look for people in photos. [the processor's cores but one]"""
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
    from regressor.people_in_photos import BoxesError

    set_up_logging("info")
    try:
        return predict(config)
    except (UsageError, BoxesError, DatasetError, StoreError, ModuleNotFoundError) as error:
        print(f"regressor.predict: {error}", file=sys.stderr)  # noqa: T201
        return 2


def predict(config: PredictConfig) -> int:
    """Predict as configured; return the exit status."""
    from bodymodel.files import load_body
    from curation.file_stems import FolderStems
    from curation.progress import Progress
    from curation.run_writer import RunWriter
    from curation.stopping import StopSignals
    from curation.store import FitStore
    from regressor.people_in_photos import read_boxes, whole_photos
    from regressor.predicted_files import (
        claim_glbs,
        complete_glbs,
        draw_overlays,
        write_film,
        write_glbs,
    )
    from regressor.predicted_rows import PredictedRows

    _check(config)
    boxes = None if config.boxes is None else read_boxes(config.boxes)
    body = load_body(config.body)
    device = _device(config.device)
    regressor = _regressor(config, body, device)
    info = _run_info(config, regressor, body)
    store = FitStore(config.out or config.data / "fits")
    maker = PredictedRows(info, body, device, config.focal_px, regressor.needs_keypoints)
    counts = Counter(people=0, nobody=0, photos=0)
    stem_of = FolderStems(config.data)
    if config.glb:
        claim_glbs(config.glb, info.run_id)
    began = time.monotonic()
    with StopSignals() as stop, RunWriter(store, info) as writer:
        people = _people(config, boxes, store, info.run_id, regressor.needs_keypoints)
        with Progress(None, "photo", "person", is_shown=True) as progress:
            for some in whole_photos(people, config.batch or regressor.batch):
                answered = regressor([p for p in some if p.status == "ok"])
                rows = maker.rows(answered, [p for p in some if p.status != "ok"])
                writer.write(rows)
                if config.glb:
                    write_glbs(rows, config.glb, body, stem_of)
                found, photos = len(answered.people), len({p.image_id for p in some})
                counts.update(people=found, nobody=len(rows) - found, photos=photos)
                progress.add(photos, found)
                if stop.signal is not None:
                    break
        seconds = time.monotonic() - began
        outcome = "complete" if stop.signal is None else "interrupted"
        writer.finish(outcome, counts)
    if config.glb:  # those of rows that an earlier, interrupted call wrote
        complete_glbs(store, info.run_id, config.glb, body, stem_of)
    draw_overlays(store, info.run_id, body, config.data, config.overlays)
    if config.video and outcome == "complete":
        write_film(store, info.run_id, body, config.data, config.video, config.fps)
    print(_table(store, info.run_id, counts, seconds))  # noqa: T201
    last = {**counts, "outcome": outcome, "run_id": info.run_id, "out": str(store.root)}
    print(json.dumps(last))  # noqa: T201
    return 0 if outcome == "complete" else 130


def _check(config: PredictConfig) -> None:
    from regressor.weights import weights_file

    if not config.data.is_dir():
        raise UsageError(f"{config.data} is no directory; give the one that holds the photos")
    if config.checkpoint is not None and not weights_file(config.checkpoint).is_file():
        raise UsageError(
            f"there are no weights at {config.checkpoint}; train some with regressor.train, take "
            "those that come along (--checkpoint bundled), or leave --checkpoint out: then bodies "
            "are lifted from keypoints"
        )
    if config.focal_px is not None and not config.focal_px > 0:
        raise UsageError(f"--focal-px must be above 0, got {config.focal_px}")
    if config.batch is not None and config.batch < 1:
        raise UsageError(f"--batch must be at least 1, got {config.batch}")
    if config.workers is not None and config.workers < 1:
        raise UsageError(f"--workers must be at least 1, got {config.workers}")
    if config.video is not None and config.video.suffix.lower() != ".mp4":
        raise UsageError(f"--video writes .mp4 files, got {config.video}")


def _device(name: str) -> str:
    import torch

    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no GPU here; use --device cpu")
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _regressor(config: PredictConfig, body: "BodyData", device: str) -> "PeopleRegressor":
    from regressor.people_regressors import KeypointRegressor, PhotoRegressor
    from regressor.weights import weights_file

    if config.checkpoint is None:
        return KeypointRegressor(body, device, config.focal_px)
    weights = weights_file(config.checkpoint)
    try:
        return PhotoRegressor(body, weights, config.data, device, config.focal_px, config.align)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _run_info(config: PredictConfig, regressor: "PeopleRegressor", body: "BodyData"):
    """Return what the run is called; whatever changes its rows makes it another run."""
    from curation.run_writer import RunInfo

    settings = {
        "checkpoint": str(config.checkpoint or ""),
        "keypoints": config.keypoints,
        "dataset": config.dataset,
        "focal_px": config.focal_px,
        "boxes": str(config.boxes or ""),
    }
    digest = hashlib.sha256(regressor.digest.encode())
    digest.update(json.dumps({k: settings[k] for k in ("keypoints", "focal_px")}).encode())
    if config.boxes is not None:
        digest.update(config.boxes.read_bytes())
    name = digest.hexdigest()[:8]
    return RunInfo(
        run_id=f"{regressor.name}-{name}",
        config=settings,
        config_hash=name,
        dataset=config.data.resolve().name,
        dataset_root=config.data,
        body_name=body.name,
        body_sha256=body.sha256,
        body_is_open=body.is_open,
        code_version=f"{regressor.name} {regressor.digest[:8]}",
        num_betas=body.num_betas,
        num_expression=body.num_expression,
    )


def _people(
    config: PredictConfig,
    boxes: "Boxes | None",
    store: "FitStore",
    run_id: str,
    needs_keypoints: bool,
) -> "Iterator[PersonObservation]":
    from regressor.people_in_photos import people_in_boxes, people_in_dataset

    done = store.stored_images(run_id).done
    cache = store.root / "cache" / "keypoints"
    workers = config.workers or max(1, (os.cpu_count() or 2) - 1)
    if boxes is not None:
        into = cache if needs_keypoints else None
        return people_in_boxes(config.data, boxes, done, into, workers)
    kind = None if config.dataset == "auto" else config.dataset
    try:
        return people_in_dataset(config.data, kind, config.keypoints, done, cache, workers)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _table(store: "FitStore", run_id: str, counts: Counter, seconds: float) -> str:
    """Return what a person wants to know of the whole run, earlier calls' rows included."""
    from bodymodel.spec import PARTS
    from curation.tables import text_table

    columns = ["status", "person_height_px", *(f"residual_{part}_px" for part in PARTS)]
    statuses: Counter = Counter()
    parts: dict[str, list[np.ndarray]] = {part: [np.zeros(0)] for part in PARTS}
    shares: dict[str, list[np.ndarray]] = {part: [np.zeros(0)] for part in PARTS}
    for table in store.iter_tables(columns, run_id):
        statuses.update(table["status"].to_pylist())
        height = table["person_height_px"].to_numpy()
        for part in PARTS:
            error = table[f"residual_{part}_px"].to_numpy()
            known = np.isfinite(error)
            parts[part].append(error[known])
            shares[part].append(100 * error[known] / height[known])
    lines = [text_table(("people", ""), [(k, str(n)) for k, n in statuses.most_common()])]
    if counts["people"]:
        rate = counts["people"] / max(seconds, 1e-9)
        lines.append(f"{counts['people']} people in {seconds:.1f} s, {rate:.1f} a second")
    seen = []
    for part in PARTS:
        error, share = np.concatenate(parts[part]), np.concatenate(shares[part])
        if len(error):
            row = (str(len(error)), f"{np.median(error):.1f}", f"{np.median(share):.2f}")
            seen.append((part.replace("_", " "), *row))
    if seen:
        lines.append(text_table(("off the keypoints", "people", "median px", "% of height"), seen))
    return "\n\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
