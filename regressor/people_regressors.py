"""The two ways from people in photos to bodies, behind one interface: pixels, or keypoints alone.

``PhotoRegressor`` looks at the pictures with a network that ``regressor.train`` made.
``KeypointRegressor`` sees nothing but the points that labels or the detector put there: the lifter
that comes with the package answers, and its answers are brought onto the points.
"""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from bodymodel.body import BodyData
from bodymodel.params import BodyParams
from curation.images import ImageError, read_image
from curation.people import keypoint_box
from curation.samples import PersonObservation
from curation.schema import PARAMETERS
from regressor.checkpoints import load_model
from regressor.lifter.align import AlignConfig, Aligner
from regressor.lifter.predict import POINTS_IN_FIT, load_lifter, packaged_weights
from regressor.lifter.view import MIN_CONFIDENCE
from regressor.predictor import PersonBox, Predictor

__all__ = ["Answered", "KeypointRegressor", "PeopleRegressor", "PhotoRegressor", "choose_camera"]

_log = logging.getLogger("regressor.predict")

MIN_POINTS = 6
"""The lifter never saw anybody with fewer."""


@dataclass(frozen=True, eq=False)
class Answered:
    """What a regressor says of some people.

    Attributes:
        people: (B) those of whom it says something.
        params: bodymodel.params.BodyParams by name, (B, ...) float32, camera frame.
        focal_px: (B,) that ``transl`` belongs to.
        center_px: (B, 2) likewise.
        refused: The others, with status and reason.
    """

    people: tuple[PersonObservation, ...]
    params: dict[str, np.ndarray]
    focal_px: np.ndarray
    center_px: np.ndarray
    refused: tuple[PersonObservation, ...]


class PeopleRegressor(Protocol):
    """People in photos to bodies.

    Attributes:
        name: What runs of it are called.
        digest: Hash of all that its answers depend on beside the people: weights and settings.
        needs_keypoints: Whether a box does not suffice.
        batch: People that are best looked at together.
    """

    name: str
    digest: str
    needs_keypoints: bool
    batch: int

    def __call__(self, people: Sequence[PersonObservation]) -> Answered:
        """Answer for people whose status is "ok"; one that it cannot is among the refused."""


@dataclass(frozen=True)
class Camera:
    """A photo's camera.

    Attributes:
        focal_px: In pixels of the upright photo.
        center_px: Principal point.
        source: "dataset", "given", "exif" or "default" (the diagonal).
    """

    focal_px: float
    center_px: tuple[float, float]
    source: str


def choose_camera(person: PersonObservation, given_px: float | None) -> Camera:
    """Return the camera of a person's photo; what the data set says of it comes first.

    Args:
        person: With the photo's size.
        given_px: The user's focal length, None for none.
    """
    center = (person.width / 2, person.height / 2)
    if person.camera is not None:
        return Camera(person.camera.focal_px, person.camera.center_px or center, "dataset")
    if given_px is not None:
        return Camera(given_px, center, "given")
    if person.focal_px > 0 and math.isfinite(person.focal_px):
        return Camera(person.focal_px, center, "exif")
    return Camera(math.hypot(person.width, person.height), center, "default")


class KeypointRegressor:
    """The lifter, aligned to the keypoints.

    Args:
        body: Whose parameters are wanted.
        device: Where it runs.
        focal_px: The user's focal length, None for none.
    """

    name = "lifter"
    needs_keypoints = True
    batch = 128

    def __init__(
        self, body: BodyData, device: torch.device | str = "cpu", focal_px: float | None = None
    ) -> None:
        config = AlignConfig()
        self.digest = _digest(packaged_weights().read_bytes(), repr(config).encode())
        self._lifter = load_lifter(body, device=device)
        self._aligner = Aligner(body, config, device)
        self._focal_px = focal_px

    def __call__(self, people: Sequence[PersonObservation]) -> Answered:
        """Answer for people with keypoints."""
        enough, refused = [], []
        for person in people:
            seen = _points_seen(person)
            if seen >= MIN_POINTS:
                enough.append(_with_box(person))
                continue
            reason = f"{seen} of the points that the lifter knows are seen, it needs {MIN_POINTS}"
            refused.append(replace(person, status="too_few_keypoints", reason=reason))
        if not enough:
            return _nothing(refused)
        cameras = [choose_camera(person, self._focal_px) for person in enough]
        focal = torch.tensor([c.focal_px for c in cameras], dtype=torch.float32)
        center = torch.tensor([c.center_px for c in cameras], dtype=torch.float32)
        points = torch.as_tensor(np.stack([p.keypoints_2d for p in enough])).float()
        answers = self._lifter.answers(points, focal, center)
        params = _aligned(self._aligner, answers.params, answers.scores, enough, focal, center)
        return Answered(tuple(enough), params, focal.numpy(), center.numpy(), tuple(refused))


def _aligned(
    aligner: Aligner,
    answers: BodyParams,
    scores: torch.Tensor,
    people: Sequence[PersonObservation],
    focal_px: torch.Tensor,
    center_px: torch.Tensor,
) -> dict[str, np.ndarray]:
    """Bring answers (B, K) with scores (B, K) onto people's keypoints; parameters by name."""
    points = torch.as_tensor(np.stack([p.keypoints_2d for p in people])).float()
    nothing = np.full((points.shape[1], 3), np.nan, np.float32)
    guesses = [nothing if p.world_points is None else p.world_points for p in people]
    world = torch.as_tensor(np.stack(guesses)).float()
    # points of different conventions lie in different places of the body
    groups: dict[tuple[str, ...], list[int]] = {}
    for k, person in enumerate(people):
        groups.setdefault(person.conventions, []).append(k)
    params: dict[str, np.ndarray] = {}
    for conventions, rows in groups.items():
        index = torch.tensor(rows, device=scores.device)
        mine = answers.map(lambda x, index=index: x[index])
        aligned = aligner(
            mine, scores[index], points[rows], focal_px[rows], center_px[rows], conventions,
            world[rows],
        )  # fmt: skip
        for name, values in aligned.params.numpy().items():
            if name not in params:
                params[name] = np.zeros((len(people), *values.shape[1:]), np.float32)
            params[name][rows] = values
    return params


class PhotoRegressor:
    """A network that looks at the pictures; where there are keypoints, its bodies go onto them.

    Args:
        body: Of the weights.
        weights: Of regressor.train.
        photos: Directory that the photos' names are relative to.
        device: Where it runs.
        focal_px: The user's focal length, None for none.
        align: Whether keypoints count, or nothing but the pixels.

    Raises:
        ValueError: If the weights cannot be used with this body.
    """

    name = "regressor"
    needs_keypoints = False
    batch = 16

    def __init__(
        self,
        body: BodyData,
        weights: Path,
        photos: Path,
        device: torch.device | str = "cpu",
        focal_px: float | None = None,
        align: bool = True,
    ) -> None:
        config = AlignConfig()
        self.digest = _digest(weights.read_bytes(), repr(config if align else "").encode())
        self._aligner = Aligner(body, config, device) if align else None
        self._predictor = Predictor(load_model(body, weights, device)[0], body)
        self._photos = photos
        self._focal_px = focal_px

    def __call__(self, people: Sequence[PersonObservation]) -> Answered:
        """Answer for people with boxes or keypoints; their photos are read, each once."""
        shown, boxes, refused = [], [], []
        pictures: dict[str, np.ndarray | str] = {}
        for person in map(_with_box, people):
            box = person.bbox_xyxy_px
            if not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
                reason = "nothing tells where in the photo the person is"
                refused.append(replace(person, status="no_person", reason=reason))
                continue
            if person.image_id not in pictures:
                try:
                    pictures[person.image_id] = read_image(self._photos / person.image_id)[0]
                except ImageError as error:
                    pictures[person.image_id] = error.reason
            picture = pictures[person.image_id]
            if isinstance(picture, str):
                refused.append(replace(person, status="image_error", reason=picture))
                continue
            camera = choose_camera(person, self._focal_px)
            shown.append(person)
            center = np.asarray(camera.center_px, np.float32)
            boxes.append(PersonBox(picture, box, camera.focal_px, center))
        if not shown:
            return _nothing(refused)
        found = self._predictor(boxes)
        focal, center = found.focal_px.cpu(), found.center_px.cpu()
        params = found.params.numpy()
        if self._aligner is not None:
            self._align(self._aligner, params, found.params, shown, focal, center)
        return Answered(tuple(shown), params, focal.numpy(), center.numpy(), tuple(refused))

    @staticmethod
    def _align(
        aligner: Aligner,
        params: dict[str, np.ndarray],
        seen: BodyParams,
        people: Sequence[PersonObservation],
        focal_px: torch.Tensor,
        center_px: torch.Tensor,
    ) -> None:
        """Replace the parameters of those whose keypoints are enough to go by."""
        rows = [k for k, p in enumerate(people) if _points_seen(p) >= MIN_POINTS]
        if not rows:
            return
        index = torch.tensor(rows, device=seen.betas.device)
        only = seen.map(lambda x: x[index][:, None])
        scores = torch.zeros(len(rows), 1, device=seen.betas.device)
        aligned = _aligned(
            aligner, only, scores, [people[k] for k in rows], focal_px[rows], center_px[rows]
        )
        for name, values in aligned.items():
            params[name][rows] = values


def _points_seen(person: PersonObservation) -> int:
    """Of those that the lifter knows."""
    return int((person.keypoints_2d[POINTS_IN_FIT, 2] >= MIN_CONFIDENCE).sum())


def _with_box(person: PersonObservation) -> PersonObservation:
    """Give a person without a box that of the keypoints."""
    if np.isfinite(person.bbox_xyxy_px).all():
        return person
    return replace(person, bbox_xyxy_px=keypoint_box(person.keypoints_2d))


def _nothing(refused: Sequence[PersonObservation]) -> Answered:
    params = {name: np.zeros((0, 0), np.float32) for name in PARAMETERS}
    empty = np.zeros(0, np.float32)
    return Answered((), params, empty, empty.reshape(0, 2), tuple(refused))


def _digest(*parts: bytes) -> str:
    """Hash of the concatenation of some bytes."""
    return hashlib.sha256(b"".join(parts)).hexdigest()
