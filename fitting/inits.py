"""Where the fits of a run start, as ``--init`` names it. Torch is loaded for networks only."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from curation.samples import PersonObservation
from curation.schema import FIT_STATUSES, PARAMETERS, image_key
from curation.store import FitStore
from fitting.records import FitTarget
from fitting.starts import MOST_GIVEN

if TYPE_CHECKING:
    from bodymodel.body import BodyData
    from regressor.lifter.predict import Lifter

__all__ = [
    "INITS",
    "Starter",
    "ToStart",
    "fits_source",
    "lifted_starts",
    "lifter_starts",
    "regressor_starts",
    "starts_of_fits",
]

INITS = "auto, keypoints, lifter, mean, fits:STORE, or regressor:CHECKPOINT"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ToStart:
    """A person who is about to be fitted.

    Attributes:
        observation: What was seen.
        target: What the solver will be given.
        image_path: The photo.
    """

    observation: PersonObservation
    target: FitTarget
    image_path: Path


Starts = tuple[Mapping[str, np.ndarray], ...]
"""FitTarget.starts."""

Starter = Callable[[Sequence[ToStart]], list[Starts]]
"""The starts of a batch of persons."""


def fits_source(init: str) -> tuple[Path, str | None] | None:
    """Return the store and the run that ``fits:...`` names; None for any other ``--init``.

    The path is a store's, such as ``lsp/fits``, or of one of its runs, ``lsp/fits/data/run=X``.

    Raises:
        ValueError: If no store or run is there.
    """
    if not init.startswith("fits:"):
        return None
    path = Path(init.removeprefix("fits:"))
    run_id = None
    if path.name.startswith("run=") and path.parent.name == "data":
        path, run_id = path.parents[1], path.name.removeprefix("run=")
    store = FitStore(path)
    found = store.run_ids()
    if not found:
        raise ValueError(f"--init {init}: there are no fits in {path}; give a run's output folder")
    if run_id is None and len(found) > 1:
        runs = ", ".join(str(store.run_dir(r)) for r in found)
        raise ValueError(f"--init {init}: {path} has several runs; name one: fits: with {runs}")
    if run_id is not None and run_id not in found:
        raise ValueError(f"--init {init}: no run {run_id} in {path}; it has {', '.join(found)}")
    return path, run_id or found[0]


def starts_of_fits(path: Path, run_id: str, body_sha256: str) -> Starter:
    """Return the starts that a run's fits are, for the same persons of the same photos.

    The parameters of all persons are held: about 1 kB each.

    Args:
        path: Of the store.
        run_id: The run.
        body_sha256: Of the body that is fitted now.

    Raises:
        ValueError: If the fits are of another body.
        StoreError: If the store cannot be read.
    """
    store = FitStore(path)
    bodies = {part.body_sha256: part.body_name for part in store.parts(run_id)}
    if set(bodies) - {body_sha256}:
        raise ValueError(
            f"the fits of run {run_id} in {path} are of the body {' and '.join(bodies.values())}, "
            "not of the one that is fitted now; parameters of one body mean nothing with another"
        )
    starts: dict[tuple[bytes, int], dict[str, np.ndarray]] = {}
    known = [name for name in PARAMETERS if _has_column(store, run_id, name)]
    for row in store.iter_rows([*known, "image_id", "person_index", "status"], run_id):
        if row["status"] in FIT_STATUSES:
            key = image_key(row["image_id"]), int(row["person_index"])
            starts[key] = {name: np.asarray(row[name], np.float32).copy() for name in known}

    def of(person: ToStart) -> Starts:
        seen = person.observation
        start = starts.get((image_key(seen.image_id), seen.person_index))
        return () if start is None else (start,)

    return lambda people: [of(person) for person in people]


def _has_column(store: FitStore, run_id: str, name: str) -> bool:
    import pyarrow.parquet as pq

    parts = store.parts(run_id)
    return bool(parts) and name in pq.read_schema(parts[0].path).names


def lifted_starts(lifter: "Lifter", targets: Sequence[FitTarget]) -> list[Starts]:
    """Return the bodies that a keypoint lifter sees in the keypoints alone, the likeliest first.

    Args:
        lifter: Of regressor.lifter.predict.load_lifter.
        targets: The persons; their own starts are not looked at.
    """
    import torch

    points = np.nan_to_num(np.stack([t.keypoints_2d for t in targets]).astype(np.float32))
    lifted = lifter(
        torch.as_tensor(points),
        torch.tensor([t.focal_px for t in targets], dtype=torch.float32),
        torch.as_tensor(np.stack([t.center_px for t in targets]).astype(np.float32)),
    ).numpy()
    answers = range(min(MOST_GIVEN, lifted["body_pose"].shape[1]))
    return [
        tuple({name: value[k, place] for name, value in lifted.items()} for place in answers)
        for k in range(len(targets))
    ]


def lifter_starts(body: "BodyData", device: str) -> Starter:
    """Return the starts of :func:`lifted_starts` by the weights that come with the package.

    Args:
        body: That is fitted.
        device: Where the network runs.
    """
    from regressor.lifter.predict import load_lifter

    lifter = load_lifter(body, device=device)
    return lambda people: lifted_starts(lifter, [person.target for person in people])


def regressor_starts(body: "BodyData", checkpoint: Path, device: str) -> Starter:
    """Return the bodies that an image regressor sees in the photos.

    A photo that cannot be read again, or a person without a box, starts by keypoints.

    Args:
        body: That is fitted.
        checkpoint: Of regressor.train.
        device: Where the network runs.

    Raises:
        ValueError: If the checkpoint cannot be used with this body.
    """
    from curation.images import ImageError, read_image
    from curation.people import keypoint_box
    from regressor.checkpoints import load_model
    from regressor.predictor import PersonBox, Predictor

    predictor = Predictor(load_model(body, checkpoint, device)[0], body)

    def look(person: ToStart) -> "PersonBox | None":
        box = person.observation.bbox_xyxy_px
        if not np.isfinite(box).all():
            box = keypoint_box(person.observation.keypoints_2d)
        if not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
            return None
        picture = read(person.image_path)
        if picture is None:
            return None
        target = person.target
        return PersonBox(picture, box, target.focal_px, np.asarray(target.center_px))

    @lru_cache(maxsize=1)  # the people of a photo follow each other
    def read(path: Path) -> np.ndarray | None:
        try:
            return read_image(path)[0]
        except ImageError as error:
            _log.warning("%s starts by keypoints: %s", path.name, error)
            return None

    def starts(people: Sequence[ToStart]) -> list[Starts]:
        found: list[Starts] = [()] * len(people)
        for first in range(0, len(people), 16):
            boxes = {k: look(p) for k, p in enumerate(people[first : first + 16], start=first)}
            seen = {k: box for k, box in boxes.items() if box is not None}
            if seen:
                params = predictor(list(seen.values())).params.numpy()
                for place, k in enumerate(seen):
                    found[k] = ({name: value[place] for name, value in params.items()},)
        return found

    return starts
