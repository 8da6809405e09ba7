"""Detection jobs: what MediaPipe sees in one photo, cached on disk. Torch-free.

Runs in worker processes (see worker_pool). One job is one photo; its result is everything that
the caller needs of the photo, so that the caller never opens the file.
"""

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bodymodel.keypoints import Keypoints2D
from curation.evidence import SAME_PERSON_GAP
from curation.holistic import CONVENTION, Detection, HolisticDetector
from curation.images import ImageError, ImageHeader, open_image
from curation.people import as_fit, body_gap
from curation.proposals import find_everyone

__all__ = ["DETECTOR_VERSION", "DetectJob", "DetectResult", "PersonQuery", "start_detector"]

DETECTOR_VERSION = "holistic-0.10.21-1"
"""In every cache path. Raise the last number whenever a detection would come out differently."""

_CACHE_FORMAT = 1


@dataclass(frozen=True, eq=False)
class PersonQuery:
    """A person whose place in the photo is known.

    Attributes:
        boxes: (B, 4) float32, where to look, in the order to be tried.
        reference: (145, 3) ``fit`` points that the labels give, all zero if none: a detection that
            contradicts them is somebody else, and the next box is tried.
    """

    boxes: np.ndarray
    reference: np.ndarray


@dataclass(frozen=True, eq=False)
class DetectJob:
    """What to look for in one photo.

    Attributes:
        path: Of the photo.
        queries: The people to be found; None for everybody who can be found.
        cache_dir: Where results are kept; None for nowhere.
    """

    path: Path
    queries: tuple[PersonQuery, ...] | None = None
    cache_dir: Path | None = None


@dataclass(frozen=True, eq=False)
class DetectResult:
    """What was found.

    Attributes:
        header: Of the photo; width and height are 0 if it could not be read.
        people: One per query, None where nobody was found; or everybody.
        problem: Why the photo could not be read, empty if it could.
        cached: Whether the result came from the cache.
    """

    header: ImageHeader
    people: tuple[Detection | None, ...] = ()
    problem: str = ""
    cached: bool = False


def start_detector() -> Callable[[DetectJob], DetectResult]:
    """Load the models, once per worker process; returns the function that does a job."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    detector: HolisticDetector | None = None

    def detect(job: DetectJob) -> DetectResult:
        nonlocal detector
        try:
            file = open_image(job.path)
            entry = _cache_path(job, file.header.sha256)
            people = None if entry is None else _load(entry, job)
            if people is not None:
                return DetectResult(file.header, people, cached=True)
            rgb = file.decode()
        except ImageError as error:
            nothing = ImageHeader(error.sha256, 0, 0, float("nan"))
            return DetectResult(nothing, problem=error.reason)
        if detector is None:  # not before it is needed: a resumed run reads the cache only
            detector = HolisticDetector()
        if job.queries is None:
            people = tuple(find_everyone(detector, rgb))
        else:
            people = tuple(_find(detector, rgb, query) for query in job.queries)
        if entry is not None:
            _save(entry, people)
        return DetectResult(file.header, people)

    return detect


def _find(detector: HolisticDetector, rgb: np.ndarray, query: PersonQuery) -> Detection | None:
    """Return the first detection that does not contradict the labels."""
    for box in query.boxes:
        found = detector.person(rgb, box)
        if found is None:
            continue
        gap = body_gap(query.reference, as_fit(found.keypoints.points, CONVENTION))
        if not gap > SAME_PERSON_GAP:  # NaN: the labels say too little to contradict
            return found
    return None


# --- the cache ------------------------------------------------------------------------------


def _cache_path(job: DetectJob, sha256: str) -> Path | None:
    if job.cache_dir is None:
        return None
    digest = hashlib.sha256(b"everyone" if job.queries is None else b"queries")
    for query in job.queries or ():
        digest.update(np.asarray(query.boxes, "<f4").tobytes())
        digest.update(np.asarray(query.reference, "<f4").tobytes())
    name = f"{sha256}-{digest.hexdigest()[:16]}.npz"
    return job.cache_dir / DETECTOR_VERSION / sha256[:2] / name


def _load(entry: Path, job: DetectJob) -> tuple[Detection | None, ...] | None:
    """Return a cached result; None if there is none or it is damaged."""
    try:
        data = io.BytesIO(entry.read_bytes())
        with zipfile.ZipFile(data) as archive:
            if archive.testzip() is not None:  # numpy does not look at the checksums
                return None
        data.seek(0)
        with np.load(data, allow_pickle=False) as arrays:
            if int(arrays["format"]) != _CACHE_FORMAT:
                return None
            found, points, world = arrays["found"], arrays["points"], arrays["world"]
        if found.ndim != 1 or len(found) != len(points) or world.shape != (len(found), 33, 3):
            return None
        if job.queries is not None and len(found) != len(job.queries):
            return None
        return tuple(
            Detection(Keypoints2D(CONVENTION, p), w) if f else None
            for f, p, w in zip(found, points, world, strict=True)
        )
    except Exception:
        return None  # whatever is wrong with the file, it is made again


def _save(entry: Path, people: tuple[Detection | None, ...]) -> None:
    """Write the entry as a whole or not at all; a full disk costs the cache, not the run."""
    count = len(people)
    points = np.zeros((count, 543, 3), np.float32)
    world = np.full((count, 33, 3), np.nan, np.float32)
    for i, person in enumerate(people):
        if person is not None:
            points[i], world[i] = person.keypoints.points, person.world
    buffer = io.BytesIO()
    np.savez(
        buffer,
        format=np.int64(_CACHE_FORMAT),
        found=np.array([person is not None for person in people], bool),
        points=points,
        world=world,
    )
    temporary = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=entry.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(buffer.getvalue())
        Path(temporary).replace(entry)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
