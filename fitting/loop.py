"""The main loop: observations in, batches through the solver, whole images out. Torch-free.

Batches are filled by count alone, never by the clock, so that the same photos make the same
batches; parts are written by the clock, and hold whole images only.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from curation.progress import Progress
from curation.run_writer import RunWriter
from curation.samples import PersonObservation, Sample
from curation.schema import image_key
from curation.store import StoredImages
from fitting.inits import Starter, ToStart
from fitting.mask_source import MaskSource
from fitting.overlays import OverlayPool
from fitting.records import FitResult, FitTarget
from fitting.rows import RowMaker
from fitting.tracks import folder_of, follow

__all__ = ["FitLoop", "RunError", "Solver", "Tally", "in_shard"]

_log = logging.getLogger(__name__)

_FIRST_PART_S = 1.0


class RunError(RuntimeError):
    """The run as a whole cannot go on."""


class Solver(Protocol):
    """What fits a batch of people; fitting.fit.Fitter."""

    def fit(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        """Return one result a target, in their order."""
        ...


@dataclass
class Tally:
    """What this invocation has done."""

    images: int = 0
    fitted: int = 0
    failed: int = 0
    skipped: int = 0
    by_status: Counter = field(default_factory=Counter)
    warnings: Counter = field(default_factory=Counter)
    solve_s: float = 0.0

    def add(self, row: dict[str, Any]) -> None:
        """Count a row."""
        self.by_status[row["status"]] += 1
        self.fitted += row["status"] == "ok"
        self.failed += row["status"] != "ok"

    def counts(self) -> dict[str, int]:
        """Return the counts as the run's record and the last line of stdout hold them."""
        names = ("fitted", "failed", "skipped", "images")
        return {name: int(getattr(self, name)) for name in names}


@dataclass
class _Image:
    """A photo whose people are on their way through the solver."""

    image_id: str
    image_path: str
    attempt: int
    frame: int = 0  # which photo of its folder
    rows: list[dict[str, Any] | None] = field(default_factory=list)
    is_whole: bool = False  # all its people are known

    @property
    def is_done(self) -> bool:
        return self.is_whole and all(row is not None for row in self.rows)


def in_shard(image_id: str, shard: tuple[int, int]) -> bool:
    """Tell whether a photo is of shard I of N; by a hash of its id, so that it never moves."""
    index, count = shard
    return int.from_bytes(image_key(image_id)[:8], "big") % count == index


@dataclass(eq=False)
class FitLoop:
    """Fits everybody in a stream of photos and stores their rows.

    When asked to stop, it finishes the batch in hand and writes the photos that are whole; the
    others are done again by the next run.

    Attributes:
        observe: Samples to observations, in order; those of one photo together.
        solver: Fits batches.
        rows: Makes rows.
        writer: Takes them.
        stored: Photos that are done.
        dataset_root: What ``image_path`` is relative to.
        batch_size: Persons solved together.
        shard: (I, N), only the photos of in_shard.
        clips: Whether the photos of a folder are frames of a clip: people are followed and each is
            solved as a whole; batches then end where a photo does, and a shard has whole folders.
        retry_failed: Whether photos of ``stored.failed`` are done again.
        before_batch: Called before each batch, to seed random generators.
        should_stop: Asked between photos and batches.
        part_s: Most seconds between parts: what a killed run loses. The first ones come sooner.
        part_rows: Rows after which a part is written anyway.
        overlays: Draws pictures beside the solver; None for no pictures.
        max_overlays: Persons to draw; None for all.
        progress: Told what is done.
        masks: Gives masks of persons; None for none. Whoever runs the loop closes it.
        starter: Says where the fits of persons start; None for the solver's own starts.
        tally: What was done; right even if ``run`` raises.
    """

    observe: Callable[[Iterable[Sample]], Iterable[PersonObservation]]
    solver: Solver
    rows: RowMaker
    writer: RunWriter
    stored: StoredImages
    dataset_root: Path
    batch_size: int
    shard: tuple[int, int] = (0, 1)
    clips: bool = False
    retry_failed: bool = False
    before_batch: Callable[[], None] = lambda: None
    should_stop: Callable[[], bool] = lambda: False
    part_s: float = 10.0
    part_rows: int = 4096
    overlays: OverlayPool | None = None
    max_overlays: int | None = None
    progress: Progress = field(default_factory=lambda: Progress(0, is_shown=False))
    starter: Starter | None = None
    masks: MaskSource | None = None
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._under_way: dict[str, _Image] = {}  # in the order of the samples
        self._batch: list[tuple[PersonObservation, _Image, int]] = []
        self._finished: list[dict[str, Any]] = []
        self._last_part = time.monotonic()
        self._parts = 0
        self._drawn = 0

    def run(self, samples: Iterable[Sample]) -> None:
        """Fit the people in the samples, which are consumed lazily.

        Raises:
            RunError: If the solver fails for everybody in the first batch.
            StoreError: If a part cannot be written.
        """
        observations = iter(self.observe(self._wanted(samples)))
        current: _Image | None = None
        try:
            for observation in observations:
                image = self._under_way.get(observation.image_id)
                if image is None:
                    raise RunError(f"{observation.image_id!r} was observed, but not asked for")
                if image is not current:
                    self._close_before(image)
                current = image
                self._take(observation, image)
                if self.should_stop():
                    return
                is_time = time.monotonic() - self._last_part > self._interval_s()
                if is_time or len(self._finished) >= self.part_rows:
                    self._write()
            self._close_before(None)
            self._solve()
            self._collect()
        finally:
            # What is whole is kept, whatever ended the loop.
            if isinstance(observations, Generator):
                observations.close()
            self._write()

    def _interval_s(self) -> float:
        """Return the seconds to the next part: short at first, so that no start is for nothing."""
        return min(self.part_s, _FIRST_PART_S * 2**self._parts)

    def _wanted(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        frames: Counter[str] = Counter()
        for sample in samples:
            folder = folder_of(sample.image_id)
            frames[folder] += 1
            key = image_key(sample.image_id)
            attempt = self.stored.failed.get(key)
            is_retry = self.retry_failed and attempt is not None
            is_done = key in self.stored.done and not is_retry
            if is_done or not in_shard(folder if self.clips else sample.image_id, self.shard):
                self.tally.skipped += is_done
                self.progress.skip()
                continue
            self._under_way[sample.image_id] = _Image(
                sample.image_id,
                _relative(sample.path, self.dataset_root, sample.image_id),
                attempt + 1 if is_retry else 0,
                frames[folder],
            )
            yield sample

    def _take(self, observation: PersonObservation, image: _Image) -> None:
        if self.clips and self._batch and self._batch[-1][1] is not image:
            is_new_clip = folder_of(self._batch[-1][1].image_id) != folder_of(image.image_id)
            if is_new_clip or len(self._batch) >= self.batch_size:
                self._solve()
        image.rows.append(None)
        place = len(image.rows) - 1
        if observation.warning and place == 0:  # once a photo
            self.tally.warnings[observation.warning] += 1
        if observation.status == "ok":
            self._batch.append((observation, image, place))
            if self.masks is not None:
                self.masks.ask(observation, self.dataset_root / image.image_path)
        else:
            image.rows[place] = self._row(observation, None, image)
        if len(self._batch) >= self.batch_size and not self.clips:
            self._solve()
        self._collect()

    def _solve(self) -> None:
        if not self._batch:
            return
        self.before_batch()
        begin = time.perf_counter()
        targets = self._targets()
        results = _fit_all(self.solver, targets, is_first=not self.tally.solve_s)
        seconds = time.perf_counter() - begin
        self.tally.solve_s += seconds
        share_ms = 1000 * seconds / len(self._batch)
        for (observation, image, place), target, result in zip(
            self._batch, targets, results, strict=True
        ):
            row = self._row(observation, result, image, share_ms)
            if self.masks is not None and target.silhouette is not None and row["has_fit"]:
                row["silhouette"] = self.masks.name
            image.rows[place] = row
        self._batch.clear()

    def _targets(self) -> list[FitTarget]:
        """Return what the solver is given of the batch."""
        targets = [self.rows.target(observation) for observation, _, _ in self._batch]
        if self.clips:
            frames = [image.frame for _, image, _ in self._batch]
            people = [observation.keypoints_2d for observation, _, _ in self._batch]
            names = follow(frames, people, folder_of(self._batch[0][1].image_id))
            targets = [
                replace(target, clip=name, frame=frame)
                for target, name, frame in zip(targets, names, frames, strict=True)
            ]
        if self.masks is not None:
            people = [observation for observation, _, _ in self._batch]
            targets = [
                replace(target, silhouette=self.masks.take(person))
                for target, person in zip(targets, people, strict=True)
            ]
        if self.starter is None:
            return targets
        asked = [
            ToStart(observation, target, self.dataset_root / image.image_path)
            for (observation, image, _), target in zip(self._batch, targets, strict=True)
        ]
        starts = self.starter(asked)
        return [replace(t, starts=theirs) for t, theirs in zip(targets, starts, strict=True)]

    def _row(
        self,
        observation: PersonObservation,
        result: FitResult | None,
        image: _Image,
        solve_ms: float = math.nan,
    ) -> dict[str, Any]:
        return self.rows.row(observation, result, image.image_path, solve_ms, image.attempt)

    def _collect(self) -> None:
        """Move the rows of photos that are done to the part that is written next, in order."""
        photos = people = 0
        while self._under_way:
            image_id, image = next(iter(self._under_way.items()))
            if not image.is_done:
                break
            del self._under_way[image_id]
            self._finished.extend(row for row in image.rows if row is not None)
            photos += 1
            people += sum(row["has_fit"] for row in image.rows if row is not None)
        if photos:  # all at once: the first of a batch would tell a poor rate
            self.tally.images += photos
            self.progress.add(photos, people)

    def _close_before(self, next_image: _Image | None) -> None:
        """Note that the photos before this one, or all, have no further people."""
        for image in self._under_way.values():
            if image is next_image:
                return
            image.is_whole = True
            if not image.rows:
                nobody = PersonObservation(
                    image.image_id, 0, status="no_person", reason="nothing was observed in it"
                )
                image.rows.append(self._row(nobody, None, image))

    def _write(self) -> None:
        rows = self._finished
        self.writer.write(rows)
        self._finished = []  # at once: whatever goes wrong below, they are never written twice
        self._last_part = time.monotonic()
        for row in rows:
            self.tally.add(row)
            may_draw = self.max_overlays is None or self._drawn < self.max_overlays
            if self.overlays is not None and row["has_fit"] and may_draw:
                self._drawn += self.overlays.submit(row, wait=False)


def _relative(path: Path, root: Path, image_id: str) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return image_id


def _fit_all(solver: Solver, targets: Sequence[FitTarget], is_first: bool) -> list[FitResult]:
    """Fit a batch; whoever makes the solver raise becomes a result with status solver_error."""
    try:
        return _checked(solver, targets)
    except Exception as error:
        first_error = error
    _log.warning("the solver raised %r; trying the %d people in parts", first_error, len(targets))
    results = _fit_parts(solver, targets, first_error)
    if is_first and len(results) > 1 and all(r.status == "solver_error" for r in results):
        raise RunError(
            f"the solver failed for every one of the first {len(targets)} people: {first_error!r}"
        ) from first_error
    return results


def _fit_parts(solver: Solver, targets: Sequence[FitTarget], error: Exception) -> list[FitResult]:
    """Fit what raised as a whole in halves, down to single people.

    So a batch that is too large for the memory fits, and one bad person is found in log n steps.
    """
    if len(targets) == 1:
        return [_error_result(error)]
    results = []
    middle = len(targets) // 2
    for half in (targets[:middle], targets[middle:]):
        try:
            results += _checked(solver, half)
        except Exception as part_error:
            results += _fit_parts(solver, half, part_error)
    return results


def _checked(solver: Solver, targets: Sequence[FitTarget]) -> list[FitResult]:
    results = list(solver.fit(targets))
    if len(results) != len(targets):
        raise RuntimeError(f"the solver gave {len(results)} results for {len(targets)} people")
    return results


def _error_result(error: Exception) -> FitResult:
    text = " ".join(str(error).split())[:300]
    nothing = np.zeros(0, np.float32)
    return FitResult(
        params={},
        projected_2d=nothing,
        residual_px=nothing,
        residual_part_px={},
        person_height_px=math.nan,
        energy={},
        energy_total=math.nan,
        starts=(),
        start_energies=nothing,
        start_margin=math.nan,
        winner="",
        iterations=0,
        status="solver_error",
        reason=f"the solver raised {type(error).__name__}: {text}",
    )
