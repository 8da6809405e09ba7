"""Samples in, observed people out: labels and detections, streaming and in order. Torch-free."""

import importlib.util
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from curation.detect import DetectJob, DetectResult, PersonQuery, start_detector
from curation.evidence import (
    Evidence,
    add_detection,
    from_detection,
    from_labels,
    is_complete,
)
from curation.holistic import Detection
from curation.images import ImageError, ImageHeader, read_header
from curation.oks import object_keypoint_similarity
from curation.people import keypoint_box
from curation.proposals import enlarged
from curation.samples import KeypointSource, LabelledPerson, PersonObservation, Sample
from curation.worker_pool import JobError, WorkerPool

__all__ = ["ObserveSource", "observe"]

ObserveSource = Literal["auto", "annotations", "openpose", "wholebody", "mediapipe"]

PREFETCH = 256
"""Photos that are detected ahead of the solver: more than a batch, and a few MB of memory."""

_LABELS: dict[str, frozenset[KeypointSource] | None] = {
    "auto": None,
    "annotations": None,
    "openpose": frozenset((KeypointSource.OPENPOSE,)),
    "wholebody": frozenset((KeypointSource.WHOLEBODY,)),
    "mediapipe": None,  # they say where to look
}
_NO_LABELS = {
    "annotations": "the dataset has no keypoints for this photo",
    "openpose": "there are no OpenPose keypoints for this photo",
    "wholebody": "there are no COCO-WholeBody keypoints for this photo",
}

_log = logging.getLogger(__name__)


def observe(
    samples: Iterable[Sample],
    *,
    source: ObserveSource = "auto",
    workers: int = 1,
    cache_dir: Path | None = None,
) -> Iterator[PersonObservation]:
    """Yield what is to be fitted, photo by photo in the order of the samples.

    Every sample gives at least one observation; what goes wrong with one is its status and
    reason. Detection runs ahead in worker processes while the caller works; memory does not grow
    with the number of samples.

    ``auto`` trusts labels for the points that their convention has, and adds hands, face, feet and
    whatever else is missing from MediaPipe, where it saw the same person. A photo without labels
    gets everybody that MediaPipe finds. Labels that are complete need no detection.

    Args:
        samples: Consumed lazily.
        source: Where keypoints come from. ``annotations`` means whatever the dataset's own files
            say, ``openpose`` and ``wholebody`` only those of that kind; ``mediapipe`` uses labels
            for nothing but to know where people are.
        workers: Detector processes.
        cache_dir: Where detections are kept between runs; None for nowhere.

    Raises:
        ModuleNotFoundError: If a photo needs MediaPipe and it is not installed.
        ValueError: If source is unknown or workers less than 1.
    """
    if source not in _LABELS:
        raise ValueError(f"source must be one of {', '.join(_LABELS)}, got {source!r}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    return _stream(iter(samples), source, workers, cache_dir)


@dataclass(frozen=True, eq=False)
class _Plan:
    """One photo on its way.

    Attributes:
        sample: The photo.
        labels: By person, what the labels say.
        asked: Positions in ``sample.people`` of the people that the job asks for, in its order;
            empty where it asks for everybody.
        future: Of the detection; None if none is needed.
    """

    sample: Sample
    labels: tuple[Evidence, ...]
    asked: tuple[int, ...] = ()
    future: Future | None = None


def _stream(
    samples: Iterator[Sample], source: ObserveSource, workers: int, cache_dir: Path | None
) -> Iterator[PersonObservation]:
    window: deque[_Plan] = deque()
    with WorkerPool(start_detector, workers) as pool:
        more = True
        while more or window:
            while more and len(window) < PREFETCH:
                sample = next(samples, None)
                if sample is None:
                    more = False
                    break
                window.append(_plan(sample, source, cache_dir, pool))
                if window[0].future is None:
                    break  # nothing to wait for: hand it on before planning further
            if window:
                yield from _finish(window.popleft(), source)


def _plan(sample: Sample, source: ObserveSource, cache_dir: Path | None, pool: WorkerPool) -> _Plan:
    labels = tuple(from_labels(person, _LABELS[source]) for person in sample.people)
    if source not in ("auto", "mediapipe"):
        return _Plan(sample, labels)
    asked, queries = [], []
    for position, (person, evidence) in enumerate(zip(sample.people, labels, strict=True)):
        if source == "auto" and is_complete(evidence):
            continue
        query = _query(person, evidence)
        if query is not None:
            asked.append(position)
            queries.append(query)
    has_labels = bool(sample.people or sample.problem)
    everyone = not queries and (source == "mediapipe" or not has_labels)
    if not queries and not everyone:
        return _Plan(sample, labels)
    _require_mediapipe()
    job = DetectJob(sample.path, None if everyone else tuple(queries), cache_dir)
    return _Plan(sample, labels, tuple(asked), pool.submit(job))


@cache
def _require_mediapipe() -> None:
    if importlib.util.find_spec("mediapipe") is None:
        raise ModuleNotFoundError(
            "detection needs mediapipe==0.10.21, which is not installed; install it, or use "
            "keypoints that the dataset has (annotations, openpose, wholebody)"
        )


def _query(person: LabelledPerson, evidence: Evidence) -> PersonQuery | None:
    """Say where to look for a person; None if the labels do not tell.

    Keypoints end before the person does (ankles, wrists), and MediaPipe wants some room around
    people: of LSPET's first 40 photos it finds the right person in 24 with 1.25 times the
    keypoints' box, in 32 with 1.5 times, and in 32, not all the same, with 2 times.
    """
    boxes = []
    if person.bbox_xyxy_px is not None:
        boxes = [enlarged(person.bbox_xyxy_px, 1.25), enlarged(person.bbox_xyxy_px, 1.75)]
    elif not evidence.is_empty:
        extent = keypoint_box(evidence.points)
        boxes = [enlarged(extent, 1.5), enlarged(extent, 2.0)]
    if not boxes:
        return None
    return PersonQuery(np.stack(boxes).astype(np.float32), evidence.points)


def _finish(plan: _Plan, source: ObserveSource) -> Iterator[PersonObservation]:
    sample = plan.sample
    first = sample.people[0].person_index if sample.people else 0
    failed = PersonObservation(sample.image_id, first)
    result: DetectResult | None = None
    crash = ""
    if plan.future is not None:
        try:
            result = plan.future.result()
        except JobError as error:
            crash = str(error)
    try:
        header = result.header if result is not None else read_header(sample.path)
    except ImageError as error:
        header = ImageHeader(error.sha256, 0, 0, float("nan"))
        result = DetectResult(header, problem=error.reason)
    failed = replace(
        failed,
        image_sha256=header.sha256,
        width=header.width,
        height=header.height,
        focal_px=header.focal_px,
        camera=sample.camera,
    )
    if result is not None and result.problem:
        yield replace(failed, status="image_error", reason=result.problem)
    elif crash and (not sample.people or source == "mediapipe"):
        yield replace(failed, status="image_error", reason=crash)
    elif result is not None and not plan.asked:
        yield from _everyone(result, replace(failed, person_index=0))
    elif sample.people:
        if crash:
            _log.warning("%s: %s; its labels are used alone", sample.image_id, crash)
            failed = replace(failed, warning=crash)
        yield from _labelled(plan, source, failed, result)
    elif sample.problem:
        yield replace(failed, status="label_error", reason=sample.problem)
    else:
        yield replace(failed, status="no_person", reason=_NO_LABELS[source])


def _everyone(result: DetectResult, blank: PersonObservation) -> Iterator[PersonObservation]:
    people = [from_detection(p) for p in result.people if p is not None]
    people = [evidence for evidence in people if not evidence.is_empty]
    if not people:
        yield replace(blank, status="no_person", reason="MediaPipe found nobody in this photo")
    for index, evidence in enumerate(people):
        yield _observation(replace(blank, person_index=index), evidence, None)


def _labelled(
    plan: _Plan, source: ObserveSource, blank: PersonObservation, result: DetectResult | None
) -> Iterator[PersonObservation]:
    found: dict[int, Detection | None] = {}
    if result is not None:
        found = dict(zip(plan.asked, result.people, strict=True))
    size = (blank.width, blank.height)
    for position, (person, labels) in enumerate(zip(plan.sample.people, plan.labels, strict=True)):
        mine = replace(
            blank, person_index=person.person_index, truth=person.truth, further=person.further
        )
        detection = found.get(position)
        is_bare = labels.is_empty and person.bbox_xyxy_px is None and person.further is None
        if is_bare and plan.sample.problem:
            yield replace(mine, status="label_error", reason=plan.sample.problem)
            continue
        if _is_elsewhere(labels, size):
            yield replace(mine, status="label_error", reason=_elsewhere(size))
            continue
        if detection is not None:
            agreement = object_keypoint_similarity(
                from_detection(detection).points, labels.points, person.bbox_xyxy_px
            )
            mine = replace(mine, oks_detection=agreement)
        if source == "mediapipe":
            evidence = None if detection is None else from_detection(detection)
        else:
            evidence = labels if detection is None else add_detection(labels, detection)
        if person.further is not None:  # it may stand alone
            nothing = from_labels(replace(person, keypoints=()))
            yield _observation(mine, evidence or nothing, person.bbox_xyxy_px)
        elif evidence is None or evidence.is_empty:
            reason = _why_nothing(person, position in found, source)
            yield replace(mine, status="no_person", reason=reason)
        else:
            yield _observation(mine, evidence, person.bbox_xyxy_px)


def _why_nothing(person: LabelledPerson, was_asked: bool, source: ObserveSource) -> str:
    if was_asked:
        return "MediaPipe found nobody where the labels say that a person is"
    if source in _NO_LABELS and not person.keypoints:
        return _NO_LABELS[source]
    return "the labels of this person have no point with a finite position and a confidence"


def _is_elsewhere(labels: Evidence, size: tuple[int, int]) -> bool:
    """Whether most labelled points lie outside the photo."""
    points = labels.points[labels.points[:, 2] > 0, :2]
    if not len(points):
        return False
    return bool(((points < 0) | (points > size)).any(-1).mean() > 0.5)


def _elsewhere(size: tuple[int, int]) -> str:
    return (
        f"most labelled points lie outside this {size[0]}x{size[1]} photo; "
        "perhaps they belong to another resolution of it"
    )


def _observation(
    blank: PersonObservation, evidence: Evidence, box: np.ndarray | None
) -> PersonObservation:
    return replace(
        blank,
        bbox_xyxy_px=keypoint_box(evidence.points) if box is None else box,
        keypoints_2d=evidence.points,
        keypoint_source=evidence.source,
        conventions=evidence.conventions,
        world_points=evidence.world,
    )
