"""One person's labels and detection put together into ``fit`` points. Torch-free.

Labels are trusted for every point that their convention has, present or not: where an annotator
left an ankle out, the detector's ankle would be a guess. The detector gives the points that the
convention lacks, part by part, and only parts that hang on the labelled body: a hand whose wrist
is not the labelled wrist is another hand.
"""

from dataclasses import dataclass

import numpy as np

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from bodymodel.spec import keypoint_part
from curation.holistic import CONVENTION, Detection
from curation.people import as_fit, body_gap, known_names, person_size
from curation.samples import KeypointSource, LabelledPerson

__all__ = ["Evidence", "add_detection", "from_detection", "from_labels", "is_complete"]

SAME_PERSON_GAP = 0.12
"""Limbs further apart than this, in person sizes, are another person's. On LSPET's first 40 photos,
right detections have gaps below 0.11, another person's above 0.2."""

ATTACHED_GAP = 0.1
"""A part whose root is further from its place on the labelled body, in person sizes, is dropped."""

LEG_SEEN = 0.5
"""The detector's points of a leg below this are guesses and do not count: on 80 rendered people
knees are off by 4 % of the trunk where nothing hides them (above 0.5 for 158 of 160), and by 40 %
and more, ankles by its whole length, below 0.5 where the picture or a table ends at the hips."""

HIPS_ALONE = 0.4
"""What hips count of what the detector says, where no knee or no ankle is seen. It squeezes what is
missing into the picture: the trunk gets shorter, and would lean to the camera for that, by 2.7
degrees in the mean of 80 rendered people cut off below the hips or in the thighs, by 11 behind a
table (tests/benchmarks/bench_cut_off.py)."""

_INDEX = {name: i for i, name in enumerate(FIT_KEYPOINTS)}
_HEAD = frozenset(("nose", "left_eye", "right_eye", "left_ear", "right_ear"))
_FOOT_ENDINGS = ("big_toe", "small_toe", "heel")


def _both(*names: str) -> list[int]:
    return [_INDEX[f"{side}_{name}"] for side in ("left", "right") for name in names]


_HIPS, _KNEES, _ANKLES = _both("hip"), _both("knee"), _both("ankle")
_LEGS = _both("knee", "ankle", *_FOOT_ENDINGS)


def _attachment(name: str) -> str:
    """The group a point is attached with: a hand, a foot, the head, or the body itself."""
    part = keypoint_part(name)
    if part in ("left_hand", "right_hand"):
        return part
    if part == "face" or name in _HEAD:
        return "head"
    if name.endswith(_FOOT_ENDINGS):
        return f"{name.split('_')[0]}_foot"
    return "body"


_GROUPS = np.array([_attachment(name) for name in FIT_KEYPOINTS])
_ROOT_OF_GROUP = {
    "left_hand": "left_wrist",
    "right_hand": "right_wrist",
    "left_foot": "left_ankle",
    "right_foot": "right_ankle",
}


@dataclass(frozen=True, eq=False)
class Evidence:
    """Points of one person.

    Attributes:
        points: (145, 3) float32, ``fit`` convention.
        source: (145,) int8, KeypointSource; NONE where the confidence is 0.
        known: (145,) bool, the names that the labels' conventions have, seen or not.
        conventions: Of the point sets, in the order in which they are asked for a point's place.
        world: (145, 3) float32, the detector's guess in metres (Detection.world), NaN where there
            is none; None without a detection.
    """

    points: np.ndarray
    source: np.ndarray
    known: np.ndarray
    conventions: tuple[str, ...] = ()
    world: np.ndarray | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no point at all."""
        return not (self.points[:, 2] > 0).any()


def from_labels(
    person: LabelledPerson, sources: frozenset[KeypointSource] | None = None
) -> Evidence:
    """Merge the point sets of a labelled person, the first source first.

    A later source gives the points whose names no earlier source has; within one source (body and
    hands of OpenPose share the wrists) it is enough that the point was not seen.

    Args:
        person: With any number of point sets.
        sources: Those to be used; None for all.
    """
    points = np.zeros((len(FIT_KEYPOINTS), 3), np.float32)
    source = np.zeros(len(FIT_KEYPOINTS), np.int8)
    known: dict[KeypointSource, np.ndarray] = {}
    conventions: dict[str, None] = {}
    for kind, keypoints in person.keypoints:
        if sources is not None and kind not in sources:
            continue
        new = as_fit(keypoints.points, keypoints.convention)
        conventions[keypoints.convention] = None
        take = (points[:, 2] == 0) & (new[:, 2] > 0)
        for other, names in known.items():
            if other != kind:
                take &= ~names
        points[take], source[take] = new[take], kind
        known[kind] = known.get(kind, False) | known_names(keypoints.convention)
    names = np.any([*known.values(), np.zeros(len(source), bool)], axis=0)
    return Evidence(points, source, names, tuple(conventions))


def from_detection(detection: Detection) -> Evidence:
    """Return everything that the detector saw, without the legs that it only guesses."""
    points = as_fit(detection.keypoints.points, CONVENTION)
    points[_LEGS, 2] = np.where(points[_LEGS, 2] < LEG_SEEN, 0, points[_LEGS, 2])
    if not (points[_KNEES, 2].any() and points[_ANKLES, 2].any()):
        points[_HIPS, 2] *= HIPS_ALONE
    source = np.where(points[:, 2] > 0, KeypointSource.MEDIAPIPE, KeypointSource.NONE)
    return Evidence(
        points, source.astype(np.int8), known_names(CONVENTION), (CONVENTION,), _world(detection)
    )


def _world(detection: Detection) -> np.ndarray:
    """Return the detector's points in space under their names, (145, 3)."""
    world = np.full((len(FIT_KEYPOINTS), 3), np.nan, np.float32)
    for name, point in zip(CONVENTIONS["mediapipe_pose33"], detection.world, strict=True):
        if name in _INDEX:
            world[_INDEX[name]] = point
    return world


def is_complete(labels: Evidence) -> bool:
    """Tell whether the labels' conventions have body, both hands and the face already.

    Zeros count: who made them has looked. Then a detector has nothing to add.
    """
    names = ("left_shoulder", "left_knee", "left_index1", "right_index1", "mouth_top", "nose")
    return all(labels.known[_INDEX[name]] for name in names)


def add_detection(labels: Evidence, detection: Detection) -> Evidence:
    """Add to the labels what they cannot say, if the detector saw the same person."""
    detected = from_detection(detection)
    if labels.is_empty:
        return detected
    if body_gap(labels.points, detected.points) > SAME_PERSON_GAP:
        return labels
    take = ~labels.known & (detected.points[:, 2] > 0)
    for group in np.unique(_GROUPS):
        if take[group == _GROUPS].any() and not _is_attached(group, labels, detected):
            take[group == _GROUPS] = False
    return Evidence(
        np.where(take[:, None], detected.points, labels.points),
        np.where(take, detected.source, labels.source).astype(np.int8),
        labels.known,
        (*labels.conventions, *detected.conventions),
        detected.world,
    )


def _is_attached(group: str, labels: Evidence, detected: Evidence) -> bool:
    here, there = _root(group, labels.points), _root(group, detected.points)
    if here is None or there is None:
        return True  # nothing contradicts it
    return bool(np.linalg.norm(here - there) <= ATTACHED_GAP * person_size(labels.points))


def _root(group: str, points: np.ndarray) -> np.ndarray | None:
    """Return the (2,) place that a group of points hangs on, None if the points do not tell."""
    if group == "head":
        head = points[[_INDEX[name] for name in sorted(_HEAD)]]
        if (head[:, 2] > 0).any():
            return head[head[:, 2] > 0, :2].mean(0)
        ends = points[[_INDEX["head_top"], _INDEX["neck"]]]
        return ends[:, :2].mean(0) if (ends[:, 2] > 0).all() else None
    name = _ROOT_OF_GROUP.get(group)
    if name is None or points[_INDEX[name], 2] <= 0:
        return None
    return points[_INDEX[name], :2]
