"""Fit SMPL-X to the keypoints of many persons at once."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS, LOOSE_POINTS
from bodymodel.sliced import SlicedBody, slice_body, sliced_forward
from bodymodel.spec import PARTS, keypoint_part
from fitting.candidates import Candidates
from fitting.config import FitConfig, StageConfig
from fitting.contacts import BodyContacts
from fitting.energy import TERMS, Energy, Evidence
from fitting.limits import joint_limits
from fitting.prior_choice import load_prior
from fitting.priors import BodyPrior
from fitting.records import FitResult, FitTarget, SelfPenetration
from fitting.reference_energy import IGNORED, OPENPOSE_POINTS
from fitting.solver import Solution, minimise
from fitting.starts import (
    COARSE_POINTS,
    FLIPS,
    HEADINGS,
    LIMBS,
    flip_limb,
    heading_starts,
    pixels_per_metre,
    stature_m,
)
from fitting.state import Layout
from fitting.target_check import find_problem, seen_points

_USUAL_STATURE_M = 1.7
_PICTURE_PER_PERSON = 1.25  # the picture height of SMPLify-X's units, in heights of the person
_RIGID_ITERATIONS = 10
_WRISTS = ("left_wrist", "right_wrist")
_CPU_CHUNK = 64  # people: enough to hide the cost of a call, little enough for the cache


def _fine_points() -> tuple[str, ...]:
    """The points that any 2D convention has, fixed on the body."""
    annotated = {
        name
        for convention, names in CONVENTIONS.items()
        if convention not in ("fit", "smplx144")
        for name in names
    }
    return tuple(n for n in FIT_KEYPOINTS if n in annotated and "contour" not in n)


FINE_POINTS = _fine_points()

START_NAMES = (*(name for name, _ in HEADINGS), "given")
"""What FitResult.starts may hold."""


@dataclass(frozen=True, eq=False)
class _Ending:
    """Where each person of a batch ended, and how: FitResult's fields by the same names."""

    x: Tensor
    converged: Tensor
    iterations: Tensor
    winner: Tensor
    tried: Tensor
    start_energies: Tensor
    start_margin: Tensor
    self_penetration: list[SelfPenetration]


class Fitter:
    """Fits bodies to keypoints; make one and give it batches.

    Args:
        body: A SMPL-X body.
        config: How to fit.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        prior: On the body's pose; the one that comes with the package by default.
        dtype: ``float32`` or ``float64``. In float64 a person's result is the same in any batch; in
            float32 rounding, which differs with the batch, may choose another of two nearly equal
            answers.
        prior: On the body's pose; the Gaussian by default (fitting.prior_choice.load_prior).

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
    ):
        self.body = body
        self.config = config or FitConfig()
        self.device = torch.device(device)
        self.dtype = {"float32": torch.float32, "float64": torch.float64}[dtype]
        options = {"dtype": self.dtype, "device": self.device}
        self._coarse = slice_body(body, COARSE_POINTS, **options)
        self._fine = slice_body(body, FINE_POINTS, **options)
        self._all = slice_body(body, **options)
        self._limbs = [slice_body(body, limb.points, **options) for limb in LIMBS]
        self._layout = Layout.of(body, self.config.num_hand_components, **options)
        self._prior = (load_prior("gaussian") if prior is None else prior).to(**options)
        self._coarse_prior = self._prior.coarse
        self._limits = joint_limits(**options)
        wants_contacts = self.config.interpenetration != "off"
        self._contacts = BodyContacts(body, **options) if wants_contacts else None
        self._rigid_columns = self._layout.columns("global_orient", "transl")
        self._limb_columns = [self._layout.body_columns(limb.joints) for limb in LIMBS]

    def fit(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        """Fit all persons; a result for each, in order, whatever its status."""
        usable = [k for k, target in enumerate(targets) if not self._problem(target)]
        size = max(1, len(usable))
        if self.device.type == "cpu":
            size = min(_CPU_CHUNK, math.ceil(size / torch.get_num_threads()))
        chunks = [usable[k : k + size] for k in range(0, len(usable), size)]
        results: dict[int, FitResult] = {}
        for chunk, fitted in zip(chunks, self._fit_chunks(targets, chunks), strict=True):
            results.update(zip(chunk, fitted, strict=True))
        return [
            results[k] if k in results else self._refused(target, self._problem(target))
            for k, target in enumerate(targets)
        ]

    def energy(self, target: FitTarget, params: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the energy by term that any solver's parameters have in the last stage.

        Args:
            target: The person.
            params: The fields of BodyParams, without batch dimension, as in FitResult. Of the hands
                what their PCA components can hold.
        """
        evidence = self._evidence([target], self._coarse)
        scale = pixels_per_metre(self._coarse, evidence, self._rest())
        evidence = self._scaled(self._evidence([target], self._fine), [target], scale)
        energy = self._energy(self._fine, self.config.fine[-1], evidence)
        zero = torch.zeros(self._layout.size, dtype=self.dtype, device=self.device)
        terms = energy.terms(self._layout.vector(params, zero)[None])[0]
        return dict(zip(TERMS, terms.tolist(), strict=True))

    def _rest(self) -> Tensor:
        """Return (P, 3) the coarse points of the mean body at rest."""
        like = self._layout.hand_means
        return sliced_forward(
            self._coarse,
            like.new_zeros(1, 55, 3),
            like.new_zeros(1, self._coarse.num_shape),
            like.new_zeros(1, 3),
        ).points[0]

    def _fit_chunks(
        self, targets: Sequence[FitTarget], chunks: list[list[int]]
    ) -> list[list[FitResult]]:
        """Fit chunks of people side by side, each on one core.

        The matrices are small: a core for each chunk is used well, several cores for one operation
        mostly wait for each other.
        """
        batches = [[targets[k] for k in chunk] for chunk in chunks]
        if self.device.type != "cpu":
            return [self._fit_batch(batch) for batch in batches]
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(
                threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                return list(pool.map(self._fit_batch, batches))
        finally:
            torch.set_num_threads(threads)

    def _problem(self, target: FitTarget) -> str:
        """Say why a person cannot be fitted, or nothing."""
        config = self.config
        limits = COARSE_POINTS, config.min_points, config.min_confidence
        if problem := find_problem(target, *limits):
            return problem
        if config.residuals == "published" and not target.picture_height_px > 0:
            return f"the photo's height is {target.picture_height_px} px; residuals count by it"
        spread = np.ptp(seen_points(target, COARSE_POINTS, config.min_confidence), axis=0).max()
        if spread < 2:
            return f"the points of the body lie within {spread:.1f} px of each other"
        return ""

    def _refused(self, target: FitTarget, reason: str) -> FitResult:
        unknown = torch.full(
            (1, self._layout.size), torch.nan, dtype=self.dtype, device=self.device
        )
        params = self._layout.params(unknown).numpy()
        nothing = np.full(len(FIT_KEYPOINTS), np.nan, np.float32)
        return FitResult(
            params={name: value[0].astype(np.float32) for name, value in params.items()},
            projected_2d=np.stack([nothing, nothing], 1),
            residual_px=nothing,
            residual_part_px=dict.fromkeys(PARTS, float("nan")),
            person_height_px=float("nan"),
            energy=dict.fromkeys(TERMS, float("nan")),
            energy_total=float("nan"),
            starts=(),
            start_energies=np.zeros(0, np.float32),
            start_margin=float("nan"),
            winner="",
            iterations=0,
            status="too_few_keypoints",
            reason=reason,
        )

    # --- the batch ---------------------------------------------------------------------------

    def _evidence(self, targets: Sequence[FitTarget], sliced: SlicedBody) -> Evidence:
        """Gather the points of a slice; the unit is set once the person's size is known."""
        rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
        points = np.stack([t.keypoints_2d for t in targets]).astype(np.float64)[:, rows]
        seen = np.isfinite(points).all(-1) & (points[..., 2] >= self.config.min_confidence)
        points = np.where(seen[..., None], points, 0)
        own = np.array([self._point_weight(name) for name in sliced.points])

        def real(x) -> Tensor:
            return torch.as_tensor(np.asarray(x), dtype=self.dtype, device=self.device)

        return Evidence(
            points_px=real(points[..., :2]),
            weights=real(points[..., 2] ** 2 * own),
            focal_px=real([t.focal_px for t in targets]),
            center_px=real(np.stack([t.center_px for t in targets])),
            unit=real(np.ones(len(targets))),
            robust_unit=real(np.ones(len(targets))),
        )

    def _point_weight(self, name: str) -> float:
        """Weight of a point's squared residuals in every stage."""
        if self.config.residuals == "published":
            return float(name in OPENPOSE_POINTS and name not in IGNORED)
        return self.config.loose_weight if name in LOOSE_POINTS else 1.0

    def _stage_weight(self, name: str, stage: StageConfig) -> float:
        """What a stage makes of a point's weight."""
        part = keypoint_part(name)
        if part == "body":
            # OpenPose has the wrists twice: as ends of the arms and as roots of the hands
            is_twice = self.config.residuals == "published" and name in _WRISTS
            return 1.0 + stage.w_hand_points * is_twice
        return stage.w_face_points if part == "face" else stage.w_hand_points

    def _energy(self, sliced: SlicedBody, stage: StageConfig, evidence: Evidence) -> Energy:
        size = self._layout.coarse_size
        if stage.w_hand_points or stage.w_face_points:
            size = self._layout.size
            weight = [self._stage_weight(name, stage) for name in sliced.points]
            weight = torch.tensor(weight, dtype=self.dtype, device=self.device)
            evidence = replace(evidence, weights=evidence.weights * weight)
        return Energy(sliced, self._layout, self._prior, self._limits, stage, evidence, size)

    def _run(
        self, energy: Energy, candidates: Candidates, iterations: int, *, go_on: bool = False
    ) -> Candidates:
        """Minimise from the open candidates of the energy's persons.

        With ``go_on`` this energy was minimised before, and those that converged stay.
        """

        def solve(person: Tensor, x: Tensor) -> Candidates:
            solution: Solution = minimise(
                energy.take(person),
                x,
                self._layout.step,
                iterations=iterations,
                tolerance=self.config.tolerance,
            )
            found = Candidates.at(solution.x[:, None])
            return replace(
                found,
                energy=torch.nan_to_num(solution.energy, nan=torch.inf)[:, None],
                iterations=solution.iterations[:, None],
                converged=solution.converged[:, None],
            )

        return candidates.solved(solve, go_on=go_on)

    def _measure(self, energy: Energy, candidates: Candidates) -> Candidates:
        """Evaluate all candidates, closed ones too, without moving them."""
        batch, count, size = candidates.x.shape
        owner = torch.arange(batch, device=self.device).repeat_interleave(count)
        values = energy.take(owner).terms(candidates.x.reshape(-1, size)).sum(1)
        values = torch.nan_to_num(values, nan=torch.inf).view(batch, count)
        return replace(candidates, energy=values)

    def _thin(self, candidates: Candidates, factor: float) -> Candidates:
        """Close the candidates that have come to one answer, and the hopeless ones."""
        merged = candidates.merged(self._coarse, self._layout, self.config.same_m)
        return merged.hopeless(factor)

    def _fit_batch(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        config, layout = self.config, self._layout
        coarse = self._evidence(targets, self._coarse)
        scale = pixels_per_metre(self._coarse, coarse, self._rest())
        coarse = self._scaled(coarse, targets, scale)
        fine = self._scaled(self._evidence(targets, self._fine), targets, scale)

        found, tried, trusted = self._starts(targets, coarse)
        # All starts are compared by one energy, so that the margin between them means something.
        found = self._measure(self._energy(self._coarse, config.flip, coarse), found)
        measured = found.energy.gather(1, found.same_as)
        found = self._thin(found, config.hopeless_fine)
        which = found.distinct(layout, min(config.keep, found.x.shape[1]))
        kept = self._flip_limbs(found.take(which), coarse, trusted)
        start_energies = measured.scatter(1, which, kept.energy)
        margin = kept.margin(layout)
        for stage in config.fine:
            kept = self._thin(kept, config.hopeless_fine)
            energy = self._energy(self._fine, stage, fine)
            # the last stage is the longest: whoever is behind after some of it will not win
            first = min(config.probation, stage.iterations)
            kept = self._run(energy, kept, first)
            if stage.iterations > first:
                kept = self._thin(kept, config.hopeless_last)
                kept = self._run(energy, kept, stage.iterations - first, go_on=True)
        final, order = kept.best()
        winner = which.gather(1, order)[:, 0]
        apart, penetration = self._separate(energy, final)
        ending = _Ending(
            apart.x[:, 0], final.converged[:, 0], apart.iterations[:, 0], winner, tried,
            start_energies, margin, penetration,
        )  # fmt: skip
        return self._results(targets, energy, ending)

    def _separate(
        self, energy: Energy, final: Candidates
    ) -> tuple[Candidates, list[SelfPenetration]]:
        """Push apart what is inside each other, and measure what is left. (B, 1) candidates."""
        config, x = self.config, final.x[:, 0].clone()
        batch, iterations = len(x), final.iterations.clone()
        if self._contacts is None:
            return final, [SelfPenetration()] * batch
        found = self._contacts.find(self._layout.params(x))
        measured = self._contacts.measure(found, batch)
        rounds = config.penetration_rounds if config.interpenetration == "on" else 0
        who = torch.arange(batch, device=self.device)
        for _ in range(rounds):
            still = [
                m.depth_mm > config.penetration_mm for m in (measured[k] for k in who.tolist())
            ]
            is_deep = torch.tensor(still, device=self.device)
            if not is_deep.any():
                break
            found, who = found.take(is_deep), who[is_deep]
            moved = energy.take(who)
            term = self._contacts.term(moved, x[who], found, config.w_penetration)
            moved = replace(moved, extra=(*moved.extra, term))
            solved = self._run(moved, Candidates.at(x[who, None]), config.penetration_iterations)
            x[who] = solved.x[:, 0]
            iterations[who] += solved.iterations
            found = self._contacts.find(self._layout.params(x[who]))
            for k, new in zip(who.tolist(), self._contacts.measure(found, len(who)), strict=True):
                measured[k] = new
        return replace(final, x=x[:, None], iterations=iterations), measured

    def _scaled(self, evidence: Evidence, targets: Sequence[FitTarget], scale: Tensor) -> Evidence:
        """Set the unit of the residuals; ``scale`` (B,) is in pixels per metre."""
        if self.config.residuals == "person":
            return replace(evidence, unit=1000 / (_PICTURE_PER_PERSON * _USUAL_STATURE_M * scale))
        heights = [t.picture_height_px for t in targets]
        unit = 1000 / torch.tensor(heights, dtype=self.dtype, device=self.device)
        return replace(evidence, unit=unit, robust_unit=unit)

    def _starts(
        self, targets: Sequence[FitTarget], coarse: Evidence
    ) -> tuple[Candidates, Tensor, Tensor]:
        """Anneal from the headings, and come close from given starts, by the body's points.

        Returns:
            Candidates (B, headings + 1), the given one last; which of them were tried, (B, headings
            + 1); and whose given start is trusted to be the only one, (B,).
        """
        config, layout = self.config, self._layout
        x = heading_starts(self._coarse, layout, self._prior, coarse)
        has_given = torch.tensor([t.start is not None for t in targets], device=self.device)
        trusted = has_given & (config.given_starts == "alone")
        named = torch.tensor([n in config.headings for n, _ in HEADINGS], device=self.device)
        is_open = named & ~trusted[:, None]
        rigid = self._energy(self._coarse, config.coarse[0], coarse)
        rigid = replace(rigid, free=self._rigid_columns, prior=self._coarse_prior)
        found = self._run(rigid, Candidates.at(x, is_open), _RIGID_ITERATIONS)
        for stage in config.coarse:
            energy = self._energy(self._coarse, stage, coarse)
            energy = replace(energy, prior=self._coarse_prior)
            found = self._run(energy, found, stage.iterations)
            found = self._thin(found, config.hopeless_coarse)
        given = self._given(targets, x[:, 0])
        given = self._run(
            rigid, Candidates.at(given[:, None], has_given[:, None]), _RIGID_ITERATIONS
        )
        tried = torch.cat([is_open, has_given[:, None]], 1)
        return found.joined(given), tried, trusted

    def _given(self, targets: Sequence[FitTarget], default: Tensor) -> Tensor:
        """(B, size) the given starts, the default where there is none."""
        x = default.clone()
        for k, target in enumerate(targets):
            if target.start is not None:
                x[k] = self._layout.vector(target.start, x[k])
        return x

    def _flip_limbs(self, kept: Candidates, coarse: Evidence, trusted: Tensor) -> Candidates:
        """Turn every limb over in depth, alone and then together where it helped.

        Limbs hardly know of each other, so the best way of each is found alone and all are joined.
        Given starts that are trusted are not turned over.
        """
        layout, stage = self._layout, self.config.flip
        energy = self._energy(self._coarse, stage, coarse)
        may_flip = kept.is_open & ~trusted[:, None]
        person, place = torch.nonzero(may_flip, as_tuple=True)
        if self.config.limb_flips and len(person):
            evidence = coarse.take(person)
            base = kept.x[person, place]
            joined = base.clone()
            for limb, sliced, columns in zip(LIMBS, self._limbs, self._limb_columns, strict=True):
                one = replace(
                    self._energy(sliced, stage, evidence.points(self._limb_points(sliced))),
                    free=columns,
                )
                flips = [flip_limb(self._coarse, layout, base, limb, which) for which in FLIPS]
                tried = Candidates.at(torch.stack([base, *flips], 1))
                best, _ = self._run(one, tried, stage.iterations).best()
                joined[:, columns] = best.x[:, 0, columns]
            both = Candidates.at(torch.stack([base, joined], 1))
            best, _ = self._measure(energy.take(person), both).best()
            x = kept.x.clone()
            x[person, place] = best.x[:, 0]
            kept = replace(kept, x=x)
        return self._run(energy, kept, stage.iterations)

    def _limb_points(self, sliced: SlicedBody) -> Tensor:
        """Where the points of a limb stand among those of the coarse stages."""
        return torch.tensor([COARSE_POINTS.index(n) for n in sliced.points], device=self.device)

    def _results(
        self,
        targets: Sequence[FitTarget],
        energy: Energy,
        ending: _Ending,
    ) -> list[FitResult]:
        x = ending.x
        layout = self._layout
        terms = energy.terms(x)
        total = terms.sum(1)
        state = sliced_forward(self._all, layout.full_pose(x), layout.shape(x), layout.transl(x))
        focal, center = energy.evidence.focal_px, energy.evidence.center_px
        pixels = focal[:, None, None] * state.points[..., :2] / state.points[..., 2:]
        pixels = (pixels + center[:, None]).cpu().double().numpy()
        tall = stature_m(self._all, layout.shape(x)) * focal / layout.transl(x)[:, 2]
        params = layout.params(x).numpy()
        tried = ending.tried.cpu().numpy()
        energies = ending.start_energies.cpu().float().numpy()
        rows = [FIT_KEYPOINTS.index(name) for name in self._all.points]
        parts = np.array([keypoint_part(name) for name in FIT_KEYPOINTS])
        results = []
        for k, target in enumerate(targets):
            projected = np.full((len(FIT_KEYPOINTS), 2), np.nan, np.float32)
            projected[rows] = pixels[k]
            points = target.keypoints_2d
            distance = np.linalg.norm(projected - points[:, :2], axis=-1)
            residual = np.where(points[:, 2] > 0, distance, np.nan).astype(np.float32)
            is_used = (points[:, 2] >= self.config.min_confidence) & (points[:, 2] > 0)
            used, used_parts = residual[is_used], parts[is_used]
            status, reason = "ok", ""
            if not (torch.isfinite(x[k]).all() and torch.isfinite(total[k])):
                status, reason = "solver_error", "the solver ended at values that are not numbers"
            elif not ending.converged[k]:
                limit = self.config.fine[-1].iterations
                status = "not_converged"
                reason = f"the energy still fell after {limit} iterations of the last stage"
            results.append(
                FitResult(
                    params={n: v[k].astype(np.float32) for n, v in params.items()},
                    projected_2d=projected,
                    residual_px=residual,
                    residual_part_px={p: _median(used[used_parts == p]) for p in PARTS},
                    person_height_px=float(tall[k]),
                    energy=dict(zip(TERMS, terms[k].tolist(), strict=True)),
                    energy_total=float(total[k]),
                    starts=tuple(
                        name for name, ok in zip(START_NAMES, tried[k], strict=True) if ok
                    ),
                    start_energies=energies[k][tried[k]],
                    start_margin=float(ending.start_margin[k]),
                    winner=START_NAMES[int(ending.winner[k])],
                    iterations=int(ending.iterations[k]),
                    status=status,
                    reason=reason,
                    self_penetration=ending.self_penetration[k],
                )
            )
        return results


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")
