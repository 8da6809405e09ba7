"""People followed from photo to photo of a folder, by where their keypoints are. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation.people import body_gap

__all__ = ["folder_of", "follow"]

_NEAR = 0.35
"""Keypoints of one person move less than this share of their size from photo to photo."""

_LOST_AFTER = 10
"""Photos after which a person who was not seen is somebody new."""


@dataclass
class _Track:
    name: str
    points: np.ndarray
    frame: int
    members: list[int]


def folder_of(image_id: str) -> str:
    """Return the folder of a photo; its photos in order are the frames of a clip."""
    return image_id.rpartition("/")[0]


def follow(frames: Sequence[int], people: Sequence[np.ndarray], prefix: str) -> list[str]:
    """Tell which observations are of one person.

    The nearest pairs are joined first, as long as each person and each track is free.

    Args:
        frames: Of the observations, never falling; several of one frame are different people.
        people: Their (145, 3) keypoints.
        prefix: Of the names.

    Returns:
        A name each; the same for one person. Empty where a person is seen once only.
    """
    tracks: list[_Track] = []
    order = list(range(len(frames)))
    for frame in sorted(set(frames)):
        here = [k for k in order if frames[k] == frame]
        alive = [t for t in tracks if frame - t.frame <= _LOST_AFTER]
        gaps = sorted(
            (gap, a, k)
            for a, track in enumerate(alive)
            for k in here
            if (gap := body_gap(track.points, people[k])) <= _NEAR
        )
        taken: set[int] = set()
        free = set(range(len(alive)))
        for _, a, k in gaps:
            if a in free and k not in taken:
                free.discard(a)
                taken.add(k)
                alive[a].points, alive[a].frame = people[k], frame
                alive[a].members.append(k)
        for k in here:
            if k not in taken:
                tracks.append(_Track(f"{prefix}#{frame}.{len(tracks)}", people[k], frame, [k]))
    names = [""] * len(order)
    for track in tracks:
        for k in track.members if len(track.members) > 1 else ():
            names[k] = track.name
    return names
