"""Where the masks of a run come from: nowhere, a directory, or the detector. Torch-free.

Masks are made in worker processes while the run waits for further people, handed on once, and kept
nowhere: not in rows, not in the detections' cache.
"""

import importlib.util
import logging
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from curation.samples import PersonObservation
from curation.worker_pool import JobError, WorkerPool
from fitting.mask_jobs import MaskAnswer, MaskJob, find_mask_file, start_masker
from fitting.masks import MaskField

__all__ = ["MaskSource", "parse_silhouette"]

_log = logging.getLogger(__name__)


def parse_silhouette(text: str) -> Path | None:
    """Return the directory of masks that ``--silhouette`` names, None for off and detector.

    Raises:
        ValueError: If there is no such directory, or no PNG file in it; or MediaPipe is missing.
    """
    if text == "off":
        return None
    if text == "detector":
        if importlib.util.find_spec("mediapipe") is None:
            raise ValueError(
                "detector needs mediapipe==0.10.21, which is not installed; install it, or give a "
                "directory of masks"
            )
        return None
    folder = Path(text)
    if not folder.is_dir():
        raise ValueError(f"expected off, detector or a directory of masks, got {text!r}")
    if next(folder.rglob("*.png"), None) is None:
        raise ValueError(
            f"{folder} holds no PNG file; name masks like their photos: NAME.png, or NAME.K.png "
            "for person K of NAME.jpg"
        )
    return folder


@dataclass(eq=False)
class MaskSource:
    """Makes the masks that are asked for, in worker processes. Close it.

    Attributes:
        folder: Of masks; None to segment the photos.
        workers: Processes.
    """

    folder: Path | None
    workers: int = 1
    _asked: dict[tuple[str, int], Future | MaskAnswer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pool = WorkerPool(start_masker, self.workers)

    @property
    def name(self) -> str:
        """What rows say of masks from here: file or detector."""
        return "detector" if self.folder is None else "file"

    def ask(self, person: PersonObservation, photo: Path) -> None:
        """Have a person's mask made; take it later."""
        file, shared = None, False
        if self.folder is not None:
            found = find_mask_file(self.folder, person.image_id, person.person_index)
            if found is None:
                stem = Path(person.image_id).stem
                reason = f"there is no {stem}.{person.person_index}.png or {stem}.png in "
                self._asked[_key(person)] = MaskAnswer(problem=f"{reason}{self.folder}")
                return
            file, shared = found
        job = MaskJob(photo, person, file, shared)
        self._asked[_key(person)] = self._pool.submit(job)

    def take(self, person: PersonObservation) -> MaskField | None:
        """Return the mask that was asked for; None, and a warning with the reason, without one."""
        asked = self._asked.pop(_key(person))
        try:
            answer = asked.result() if isinstance(asked, Future) else asked
        except JobError as error:
            answer = MaskAnswer(problem=str(error))
        if answer.field is None:
            _log.warning(
                "%s, person %d, is fitted without a mask: %s",
                person.image_id, person.person_index, answer.problem or "it has no outline",
            )  # fmt: skip
        return answer.field

    def close(self) -> None:
        """Stop the processes."""
        self._pool.close()


def _key(person: PersonObservation) -> tuple[str, int]:
    return person.image_id, person.person_index
