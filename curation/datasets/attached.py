"""Labels of one kind with a detector's keypoint files beside them. Torch-free.

LSP with OpenPose files in ``keypoints/``, say: the annotator's body, OpenPose's hands and face.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from curation.datasets.base import Dataset
from curation.datasets.openpose import KEYPOINT_FOLDERS, OpenPoseDataset
from curation.datasets.results import WholeBodyDataset, result_files
from curation.evidence import SAME_PERSON_GAP, from_labels
from curation.people import body_gap
from curation.samples import LabelledPerson, Sample

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttachedDataset:
    """A dataset whose people also get the point sets that a detector's files have of them.

    Attributes:
        base: Says which photos and people there are.
        files: Gives the detections of each photo.
    """

    base: Dataset
    files: OpenPoseDataset | WholeBodyDataset

    @property
    def kind(self) -> str:
        """The kind of the labels."""
        return self.base.kind

    @property
    def root(self) -> Path:
        """The directory."""
        return self.base.root

    def count(self) -> int:
        """Return the number of samples of the labels."""
        return self.base.count()

    def iter_samples(self) -> Iterator[Sample]:
        """Yield the samples of the labels, in their order.

        A photo without labels has the people of the detector's file.
        """
        for sample in self.base.iter_samples():
            detected = self.files.sample_of(sample.path)
            if detected.problem:
                _log.warning("%s: %s", sample.image_id, detected.problem)
            if sample.people:
                yield replace(sample, people=_attach(sample.people, detected.people))
            elif sample.problem:
                yield sample
            else:
                yield detected


def with_detections(dataset: Dataset) -> Dataset:
    """Add the detector's files that lie in ``keypoints/`` beside the labels, if there are any."""
    if dataset.kind not in ("lsp", "lspet", "mpii", "coco"):
        return dataset
    if result_files(dataset.root):
        return AttachedDataset(dataset, WholeBodyDataset(dataset.root))
    folders = (dataset.root / name for name in KEYPOINT_FOLDERS)
    if any(folder.is_dir() and any(folder.rglob("*.json")) for folder in folders):
        return AttachedDataset(dataset, OpenPoseDataset(dataset.root))
    return dataset


def _attach(
    people: tuple[LabelledPerson, ...], detected: tuple[LabelledPerson, ...]
) -> tuple[LabelledPerson, ...]:
    """Give each detection to the labelled person it is nearest to, one each, the nearest first."""
    ours = [from_labels(person).points for person in people]
    theirs = [from_labels(person).points for person in detected]
    gaps = [
        (gap, i, j)
        for i, a in enumerate(ours)
        for j, b in enumerate(theirs)
        if (gap := body_gap(a, b)) <= SAME_PERSON_GAP
    ]
    attached = list(people)
    free_people, free_detections = set(range(len(ours))), set(range(len(theirs)))
    for _, i, j in sorted(gaps):
        if i in free_people and j in free_detections:
            attached[i] = replace(people[i], keypoints=people[i].keypoints + detected[j].keypoints)
            free_people.discard(i)
            free_detections.discard(j)
    return tuple(attached)
