"""Fit SMPL-X to the keypoints of many persons at once."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from bodymodel.body import BodyData
from fitting.clip_search import alike_frames, group_clips, search_clip
from fitting.config import FitConfig
from fitting.ending import end_fit
from fitting.energy import TERMS
from fitting.evidence import gather_points, in_units, refusal, stage_energy
from fitting.extra import depth_terms, has_extra
from fitting.prepared import PreparedBody
from fitting.priors import BodyPrior
from fitting.records import FitResult, FitTarget
from fitting.results import make_results, refused_result
from fitting.search import search_answers
from fitting.starts import pixels_per_metre

__all__ = ["Fitter"]

_CPU_CHUNK = 64  # people: enough to hide the cost of a call, little enough for the cache


class Fitter:
    """Fits bodies to keypoints; make one and give it batches.

    Args:
        body: A SMPL-X body.
        config: How to fit.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``float32`` or ``float64``. In float64 a person's result is the same in any batch; in
            float32 rounding, which differs with the batch, may choose another of two nearly equal
            answers.
        prior: On the body's pose; the Gaussian by default (fitting.prior_choice.load_prior).
        conventions: Where points come from, as in bodymodel.fit_points. Targets with others are
            fitted as well: this is what the body is prepared for at once.

    Attributes:
        prepared: The body for ``conventions``.

    Raises:
        ValueError: If the body is of another family.
    """

    def __init__(
        self,
        body: BodyData,
        config: FitConfig | None = None,
        device: str = "cpu",
        dtype: str = "float64",
        prior: BodyPrior | None = None,
        conventions: tuple[str, ...] = (),
    ):
        self.body = body
        self.config = config or FitConfig()
        self.device = torch.device(device)
        self.dtype = {"float32": torch.float32, "float64": torch.float64}[dtype]
        self.conventions = conventions
        self.prepared = PreparedBody.of(
            body, self.config, self.dtype, self.device, prior, conventions
        )
        self._placed = {conventions: self.prepared}

    def fit(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        """Fit all persons; a result for each, in order, whatever its status."""
        results: list[FitResult | None] = [None] * len(targets)
        places = {t.clip: t.conventions for t in reversed(targets)}  # a clip's: its first frame's
        own = [places[t.clip] if t.clip else t.conventions for t in targets]
        for conventions in dict.fromkeys(own):
            if conventions not in self._placed:
                self._placed[conventions] = self.prepared.placed(conventions)
            mine = [k for k, its in enumerate(own) if its == conventions]
            fitted = _fit_alike(self._placed[conventions], [targets[k] for k in mine])
            for k, result in zip(mine, fitted, strict=True):
                results[k] = result
        return results

    def energy(self, target: FitTarget, params: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the energy by term that any solver's parameters have in the last stage.

        Args:
            target: The person.
            params: The fields of BodyParams, without batch dimension, as in FitResult. Of the hands
                what their PCA components can hold.
        """
        prepared, config = self.prepared, self.config
        coarse = gather_points(prepared, [target], prepared.coarse)
        scale = pixels_per_metre(prepared.coarse, coarse, prepared.rest)
        coarse = in_units(coarse, [target], scale, config)
        fine = in_units(gather_points(prepared, [target], prepared.fine), [target], scale, config)
        seen = depth_terms([target], prepared.depth, prepared.trunk, prepared.coarse, coarse)
        energy = stage_energy(prepared, prepared.fine, config.fine[-1], fine, seen)
        zero = torch.zeros(prepared.layout.size, dtype=self.dtype, device=self.device)
        terms = energy.terms(prepared.layout.vector(params, zero)[None])[0]
        return dict(zip(TERMS, terms.tolist(), strict=True))


def _fit_alike(prepared: PreparedBody, targets: Sequence[FitTarget]) -> list[FitResult]:
    """Fit people whose points lie where the prepared body's do."""
    problems = [refusal(target, prepared.config) for target in targets]
    usable = [k for k, problem in enumerate(problems) if not problem]
    results = {
        k: refused_result(prepared, problem) for k, problem in enumerate(problems) if problem
    }
    for clip in group_clips(targets, usable):
        fitted = _fit_clip(prepared, [targets[k] for k in clip])
        results.update(zip(clip, fitted, strict=True))
    chunks = _chunks(prepared, targets, usable)
    batches = [[targets[k] for k in chunk] for chunk in chunks]
    for chunk, fitted in zip(chunks, _fit_batches(prepared, batches), strict=True):
        results.update(zip(chunk, fitted, strict=True))
    return [results[k] for k in range(len(targets))]


def _chunks(
    prepared: PreparedBody, targets: Sequence[FitTarget], usable: list[int]
) -> list[list[int]]:
    """Return which targets are solved together, those of clips left out."""
    size = max(1, len(usable))
    if prepared.device.type == "cpu":
        size = min(_CPU_CHUNK, math.ceil(size / torch.get_num_threads()))
    # those with more evidence apart: the others need not carry its terms
    single = [k for k in usable if not targets[k].clip]
    kinds = ([k for k in single if has_extra(targets[k]) == extra] for extra in (False, True))
    return [kind[k : k + size] for kind in kinds for k in range(0, len(kind), size)]


def _fit_batches(
    prepared: PreparedBody, batches: Sequence[Sequence[FitTarget]]
) -> list[list[FitResult]]:
    """Fit batches of people side by side, each on one core.

    The matrices are small: a core for each batch is used well, several cores for one operation
    mostly wait for each other.
    """
    if prepared.device.type != "cpu":
        return [_fit_batch(prepared, batch) for batch in batches]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(lambda batch: _fit_batch(prepared, batch), batches))
    finally:
        torch.set_num_threads(threads)


def _fit_batch(prepared: PreparedBody, targets: Sequence[FitTarget]) -> list[FitResult]:
    search = search_answers(prepared, targets)
    chosen = search.best()
    ending = end_fit(prepared, targets, search, chosen)
    return make_results(prepared, targets, chosen.energy, ending)


def _fit_clip(prepared: PreparedBody, targets: Sequence[FitTarget]) -> list[FitResult]:
    """Fit frames of one person together; the targets are in the order of their frames."""
    targets = alike_frames(targets)
    search, chosen = search_clip(prepared, targets, _CPU_CHUNK)
    ending = end_fit(prepared, targets, search, chosen)
    results = make_results(prepared, targets, chosen.energy, ending)
    if not bool(chosen.answer.converged.all()):
        limit = prepared.config.clip.iterations
        reason = f"the clip's energy still fell after {limit} iterations of all frames"
        results = [replace(r, reason=reason) if r.reason else r for r in results]
    return results
