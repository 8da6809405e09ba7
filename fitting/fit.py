"""Fit SMPL-X to the keypoints of many persons at once."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.fit_points import fit_points
from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS, LOOSE_POINTS
from bodymodel.sliced import SlicedBody, slice_body, sliced_forward
from bodymodel.spec import BODY_JOINTS, PARTS, keypoint_part
from fitting.candidates import Candidates
from fitting.clip import choose_path, minimise_clip, motion_matrix
from fitting.config import FitConfig, StageConfig
from fitting.contacts import BodyContacts
from fitting.covariance import Rivals, joint_covariance, relative_joints
from fitting.depth import depth_slice
from fitting.energy import TERMS, Energy, Evidence, Term
from fitting.extra import (
    SeenTerm,
    at_stage,
    depth_terms,
    find_extra_problem,
    has_2d,
    has_extra,
    residual_3d_mm,
    seen_terms,
    start_from_points,
    weighted,
)
from fitting.focal_term import FocalTerm, focal_start
from fitting.limits import joint_limits
from fitting.prior_choice import load_prior
from fitting.priors import BodyPrior
from fitting.records import FitResult, FitTarget, SelfPenetration
from fitting.reference_energy import IGNORED, OPENPOSE_POINTS
from fitting.silhouette import HeldSurface, SilhouetteTerm
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
from fitting.uncertainty import pack_mm2

_USUAL_STATURE_M = 1.7
_PICTURE_PER_PERSON = 1.25  # the picture height of SMPLify-X's units, in heights of the person
_RIGID_ITERATIONS = 10
_OTHER_ANSWER_M = 0.05  # joints that far from where another answer has them are elsewhere
_ANY_FOCAL_PX = 1000.0  # of persons who are not seen in a photo
_FOLLOW_ITERATIONS = 10  # from the answer of a frame to that of the next
_WRISTS = ("left_wrist", "right_wrist")
_SILHOUETTE_ITERATIONS = 12
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
    rivals: Rivals


@dataclass(frozen=True, eq=False)
class _Search:
    """What competes in the end.

    Attributes:
        energy: Of the last stage.
        kept: (B, K) answers.
        which: (B, K) from which of the starts they came.
        tried: (B, starts) bool, start_energies: (B, starts).
        margin: (B,) of the best against the best that faces another way.
        limbs: See Fitter._flip_limbs.
    """

    energy: Energy
    kept: Candidates
    which: Tensor
    tried: Tensor
    start_energies: Tensor
    margin: Tensor
    limbs: tuple[Tensor, Tensor]

    @classmethod
    def join(cls, parts: "Sequence[_Search]") -> "_Search":
        """Put batches after one another; the energy keeps its evidence, but no further terms."""

        def cat(values: "Sequence[Tensor | None]") -> Tensor | None:
            return None if values[0] is None else torch.cat(values)

        evidence = [vars(part.energy.evidence) for part in parts]
        joined = Evidence(**{k: cat([e[k] for e in evidence]) for k in evidence[0]})
        kept = [vars(part.kept) for part in parts]
        limbs = tuple(torch.cat([part.limbs[k] for part in parts]) for k in range(2))
        return cls(
            replace(parts[0].energy, evidence=joined, extra=()),
            Candidates(**{k: torch.cat([c[k] for c in kept]) for k in kept[0]}),
            *(
                torch.cat([getattr(part, name) for part in parts])
                for name in ("which", "tried", "start_energies", "margin")
            ),
            limbs,
        )


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
        conventions: Where points come from, as in bodymodel.fit_points. Targets with others are
            fitted as well: this is what the body is prepared for at once.

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
        self.conventions = conventions
        self._others: dict[tuple[str, ...], Fitter] = {}
        self._dtype_name = dtype
        self.config = config or FitConfig()
        self.device = torch.device(device)
        self.dtype = {"float32": torch.float32, "float64": torch.float64}[dtype]
        options = {"dtype": self.dtype, "device": self.device}
        placed = {**options, "places": fit_points(body, conventions)}
        self._coarse = slice_body(body, COARSE_POINTS, **placed)
        self._fine = slice_body(body, FINE_POINTS, **placed)
        self._all = slice_body(body, **placed)
        self._limbs = [slice_body(body, limb.points, **placed) for limb in LIMBS]
        # what these are for means the body's own places
        self._body_joints = slice_body(body, BODY_JOINTS, **options)
        self._stature = slice_body(body, ("left_heel", "right_heel", "head_top"), **options)
        self._depth = depth_slice(body, **options)
        self._surface: HeldSurface | None = None
        self._layout = Layout.of(body, self.config.num_hand_components, **options)
        self._prior = (load_prior("gaussian") if prior is None else prior).to(**options)
        self._coarse_prior = self._prior.coarse
        self._limits = joint_limits(**options)
        wants_contacts = self.config.interpenetration != "off"
        self._contacts = BodyContacts(body, **options) if wants_contacts else None
        everything = torch.arange(self._layout.size, device=self.device)
        is_beta = torch.isin(everything, self._layout.columns("betas"))
        self._shape_columns = self._layout.columns("betas", "transl").sort()[0]
        self._but_betas = everything[~is_beta]
        self._rigid_columns = self._layout.columns("global_orient", "transl")
        self._limb_columns = [self._layout.body_columns(limb.joints) for limb in LIMBS]

    def fit(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        """Fit all persons; a result for each, in order, whatever its status."""
        results: list[FitResult | None] = [None] * len(targets)
        places = {t.clip: t.conventions for t in reversed(targets)}  # a clip's: its first frame's
        own = [places[t.clip] if t.clip else t.conventions for t in targets]
        for conventions in dict.fromkeys(own):
            mine = [k for k, its in enumerate(own) if its == conventions]
            fitted = self._of(conventions)._fit_alike([targets[k] for k in mine])
            for k, result in zip(mine, fitted, strict=True):
                results[k] = result
        return results

    def _of(self, conventions: tuple[str, ...]) -> "Fitter":
        """Return the fitter whose points lie where these conventions put them."""
        if conventions == self.conventions:
            return self
        if conventions not in self._others:
            self._others[conventions] = Fitter(
                self.body, self.config, str(self.device), self._dtype_name, self._prior, conventions
            )
        return self._others[conventions]

    def _fit_alike(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        """Fit people whose points lie where this fitter's do."""
        usable = [k for k, target in enumerate(targets) if not self._problem(target)]
        size = max(1, len(usable))
        if self.device.type == "cpu":
            size = min(_CPU_CHUNK, math.ceil(size / torch.get_num_threads()))
        # those with more evidence apart: the others need not carry its terms
        single = [k for k in usable if not targets[k].clip]
        kinds = ([k for k in single if has_extra(targets[k]) == extra] for extra in (False, True))
        chunks = [kind[k : k + size] for kind in kinds for k in range(0, len(kind), size)]
        results: dict[int, FitResult] = {}
        for clip in self._clips(targets, usable):
            fitted = self._fit_clip([targets[k] for k in clip])
            results.update(zip(clip, fitted, strict=True))
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
        coarse = self._evidence([target], self._coarse)
        scale = pixels_per_metre(self._coarse, coarse, self._rest())
        coarse = self._scaled(coarse, [target], scale)
        evidence = self._scaled(self._evidence([target], self._fine), [target], scale)
        seen = depth_terms([target], self._depth, self._coarse, coarse)
        energy = self._energy(self._fine, self.config.fine[-1], evidence, seen)
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

    def _clips(self, targets: Sequence[FitTarget], usable: list[int]) -> list[list[int]]:
        """Return the targets of each clip, in the order of their frames."""
        clips: dict[str, list[int]] = {}
        for k in usable:
            if targets[k].clip:
                clips.setdefault(targets[k].clip, []).append(k)
        for name, members in clips.items():
            members.sort(key=lambda k: targets[k].frame)
            frames = [targets[k].frame for k in members]
            if len(set(frames)) < len(frames):
                raise ValueError(
                    f"clip {name!r} has a frame number twice; a clip is one person in one camera"
                )
        return list(clips.values())

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
        if has_extra(target):
            return find_extra_problem(target, *limits)
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
            focal_px=real([t.focal_px if has_2d(t) or t.views else _ANY_FOCAL_PX for t in targets]),
            center_px=real(np.nan_to_num(np.stack([t.center_px for t in targets]))),
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

    def _energy(
        self,
        sliced: SlicedBody,
        stage: StageConfig,
        evidence: Evidence,
        seen: tuple[SeenTerm, ...] = (),
        extra: tuple[Term, ...] = (),
    ) -> Energy:
        """Return a stage's energy.

        Args:
            sliced: The points.
            stage: The weights.
            evidence: The photo.
            seen: Further evidence; the weights of points and parts are the photo's.
            extra: Other terms.
        """
        size = self._layout.coarse_size
        if stage.w_hand_points or stage.w_face_points:
            size = self._layout.size
            weight = [self._stage_weight(name, stage) for name in sliced.points]
            weight = torch.tensor(weight, dtype=self.dtype, device=self.device)
            evidence = replace(evidence, weights=evidence.weights * weight)
            seen = weighted(seen, weight)
        extra = (*at_stage(seen, stage), *extra)
        return Energy(
            sliced, self._layout, self._prior, self._limits, stage, evidence, size, extra=extra
        )

    def _unknown_focal(
        self, targets: Sequence[FitTarget], scale: Tensor
    ) -> tuple[FocalTerm, Tensor]:
        """Return the term of the focal lengths, and where they start; ``scale`` in px per metre."""

        def real(x) -> Tensor:
            return torch.as_tensor(np.asarray(x), dtype=self.dtype, device=self.device)

        sd = real([t.focal_sd if has_2d(t) and not t.views else 0 for t in targets])
        expected = real([t.focal_px if has_2d(t) or t.views else _ANY_FOCAL_PX for t in targets])
        start = focal_start(expected, sd, scale, self.config.focal)
        free = (sd > 0).to(self.dtype)
        known_sd = torch.where(sd > 0, sd, 1.0)
        return FocalTerm((start / expected).log(), known_sd, free, self.config.focal), start

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

    def _fine_slice(self, targets: Sequence[FitTarget]) -> SlicedBody:
        """Return the points of the last stages: all if any are in space, else what photos have."""
        has_3d = any(target.keypoints_3d is not None for target in targets)
        return self._all if has_3d else self._fine

    def _search(self, targets: Sequence[FitTarget]) -> _Search:
        """Find the answers of each person that compete in the end."""
        config, layout = self.config, self._layout
        coarse = self._evidence(targets, self._coarse)
        scale = pixels_per_metre(self._coarse, coarse, self._rest())
        focal, focal_px = self._unknown_focal(targets, scale)
        coarse = replace(self._scaled(coarse, targets, scale), focal_px=focal_px)
        points = self._fine_slice(targets)
        fine = self._scaled(self._evidence(targets, points), targets, scale)
        fine = replace(fine, focal_px=focal_px, focal_free=focal.free)
        lens = (focal,) if bool(focal.free.any()) else ()
        seen = fine_seen = depth_terms(targets, self._depth, self._coarse, coarse)
        if any(has_extra(target) for target in targets):
            seen = seen_terms(targets, self._coarse, config, coarse.unit)
            fine_seen = seen_terms(targets, points, config, coarse.unit)

        found, tried, trusted = self._starts(targets, coarse, seen)
        # All starts are compared by one energy, so that the margin between them means something.
        found = self._measure(self._energy(self._coarse, config.flip, coarse, seen), found)
        measured = found.energy.gather(1, found.same_as)
        found = self._thin(found, config.hopeless_fine)
        which = found.distinct(layout, min(config.keep, found.x.shape[1]))
        kept, limbs = self._flip_limbs(found.take(which), coarse, trusted, seen)
        start_energies = measured.scatter(1, which, kept.energy)
        margin = kept.margin(layout)
        for stage in config.fine:
            kept = self._thin(kept, config.hopeless_fine)
            energy = self._energy(points, stage, fine, fine_seen, lens)
            # the last stage is the longest: whoever is behind after some of it will not win
            first = min(config.probation, stage.iterations)
            kept = self._run(energy, kept, first)
            if stage.iterations > first:
                kept = self._thin(kept, config.hopeless_last)
                kept = self._run(energy, kept, stage.iterations - first, go_on=True)
        return _Search(energy, kept, which, tried, start_energies, margin, limbs)

    def _fit_batch(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        search = self._search(targets)
        final, order = search.kept.best()
        return self._end(targets, search, search.energy, final, order)

    def _end(
        self,
        targets: Sequence[FitTarget],
        search: _Search,
        energy: Energy,
        final: Candidates,
        order: Tensor,
    ) -> list[FitResult]:
        """Make the results of (B, 1) answers, which the search had at the places ``order``."""
        is_clip = bool(targets[0].clip)  # what is pushed apart frame by frame would jitter
        final = self._fill_masks(targets, energy, final)
        masked = torch.tensor([t.silhouette is not None for t in targets], device=self.device)
        apart, penetration = self._separate(energy, final, masked, measure_only=is_clip)
        ending = _Ending(
            apart.x[:, 0],
            final.converged[:, 0],
            apart.iterations[:, 0],
            search.which.gather(1, order)[:, 0],
            search.tried,
            search.start_energies,
            search.margin,
            penetration,
            self._rivals(search.kept, order, search.limbs),
        )
        return self._results(targets, energy, ending)

    def _fit_clip(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        """Fit frames of one person together; the targets are in the order of their frames."""
        if any(target.keypoints_3d is not None for target in targets):  # all frames alike
            none = np.zeros((len(FIT_KEYPOINTS), 4))
            targets = [
                t if t.keypoints_3d is not None else replace(t, keypoints_3d=none) for t in targets
            ]
        chunks = [targets[k : k + _CPU_CHUNK] for k in range(0, len(targets), _CPU_CHUNK)]
        search = _Search.join([self._search(chunk) for chunk in chunks])
        alone, order = search.kept.best()
        frames, count = [t.frame for t in targets], len(targets)
        energy = self._clip_energy(targets, search, alone.x[:, 0])
        kept = search.kept.x.clone()
        kept[..., self._layout.log_focal] += (
            search.energy.evidence.focal_px / energy.evidence.focal_px
        ).log()[:, None]
        # what the frames before and after think may be the better answer here
        near = torch.arange(count, device=self.device)
        before, after = (near - 1).clamp_min(0), (near + 1).clamp_max(count - 1)
        best = kept[near, order[:, 0]]
        follow = Candidates.at(torch.stack([best[before], best[after]], 1))
        tried = self._run(energy, follow, _FOLLOW_ITERATIONS)
        x = torch.cat([kept, tried.x], 1)
        own = self._measure(energy, replace(search.kept, x=kept)).open_energy
        energies = torch.cat([own, tried.energy], 1)
        path = choose_path(energies, self._joints(x), frames, self.config.clip)
        x = x[near, path]

        shared = self._layout.columns("betas").tolist()
        if energy.evidence.focal_free is not None and bool(energy.evidence.focal_free.any()):
            shared.append(self._layout.log_focal)
        shared = torch.tensor(shared, device=self.device)
        x[:, shared] = x[:, shared].mean(0)
        local = torch.ones(self._layout.size, dtype=torch.bool, device=self.device)
        local[shared] = local[self._layout.log_focal] = False
        local = torch.nonzero(local)[:, 0]
        settled = self._run(
            replace(energy, free=local), Candidates.at(x[:, None]), _FOLLOW_ITERATIONS
        )
        motion = motion_matrix(frames, self.config.clip.longest_gap)
        solution = minimise_clip(
            energy, settled.x[:, 0], self._body_joints, motion, shared, self.config.clip
        )
        converged = torch.full_like(alone.converged, solution.converged)
        order = torch.where(path[:, None] < search.kept.x.shape[1], path[:, None], order)
        final = replace(
            alone,
            x=solution.x[:, None],
            iterations=search.kept.iterations.gather(1, order) + solution.iterations,
            converged=converged,
        )
        results = self._end(targets, search, energy, final, order)
        if not solution.converged:
            limit = self.config.clip.iterations
            reason = f"the clip's energy still fell after {limit} iterations of all frames"
            results = [replace(r, reason=reason) if r.reason else r for r in results]
        return results

    def _clip_energy(self, targets: Sequence[FitTarget], search: _Search, x: Tensor) -> Energy:
        """Return the last stage's energy of all frames, with one focal length to start from.

        What is expected of shape and lens weighs in every frame, as alone: frames that follow each
        other err alike, and hardly say more of the shape than one.

        Args:
            targets: The frames.
            search: What was found frame by frame.
            x: (T, size) its best answers.
        """
        evidence = search.energy.evidence
        stage = self.config.fine[-1]
        lens: tuple[Term, ...] = ()
        if evidence.focal_free is not None and bool((evidence.focal_free > 0).any()):
            found = (evidence.focal_px * self._layout.zoom(x)).log().median().exp()
            expected = evidence.points_px.new_tensor([t.focal_px for t in targets])
            sd = evidence.points_px.new_tensor([max(t.focal_sd, 1e-3) for t in targets])
            offset = (found / expected).log()
            lens = (FocalTerm(offset, sd, evidence.focal_free, self.config.focal),)
            evidence = replace(evidence, focal_px=found.expand(len(targets)).contiguous())
        points = self._fine_slice(targets)
        own = self._evidence(targets, points)
        evidence = replace(evidence, weights=own.weights)  # without the weights of the parts
        coarse = self._evidence(targets, self._coarse)
        coarse = replace(coarse, focal_px=evidence.focal_px)
        seen = depth_terms(targets, self._depth, self._coarse, coarse)
        if any(has_extra(target) for target in targets):
            seen = seen_terms(targets, points, self.config, evidence.unit)
        return self._energy(points, stage, evidence, seen, lens)

    def _fill_masks(
        self, targets: Sequence[FitTarget], energy: Energy, final: Candidates
    ) -> Candidates:
        """Let those who have a mask fill it: shape by the mask, then pose by the points, in turns.

        (B, 1) candidates.
        """
        config, x = self.config, final.x.clone()
        fields = {
            k: target.silhouette
            for k, target in enumerate(targets)
            if target.silhouette is not None and torch.isfinite(x[k]).all()
        }
        if not fields:
            return final
        if self._surface is None:
            self._surface = HeldSurface(self.body, self.device)
        who = torch.tensor(list(fields), device=self.device)
        mine = energy.take(who)
        for turn in reversed(range(config.silhouette_rounds)):
            term = SilhouetteTerm.of(
                self._surface, self._layout, x[who, 0], list(fields.values()),
                w_inside=config.w_silhouette_inside,
                w_outside=config.w_silhouette_outside,
                slack=config.silhouette_slack_m * 2**turn,  # first what is far, too
            )  # fmt: skip
            shaped = replace(mine, free=self._shape_columns, extra=(*mine.extra, term))
            x[who] = self._run(shaped, Candidates.at(x[who]), _SILHOUETTE_ITERATIONS).x
            posed = replace(mine, free=self._but_betas)
            x[who] = self._run(posed, Candidates.at(x[who]), _SILHOUETTE_ITERATIONS).x
        return replace(final, x=x)

    def _separate(
        self, energy: Energy, final: Candidates, masked: Tensor, *, measure_only: bool = False
    ) -> tuple[Candidates, list[SelfPenetration]]:
        """Push apart what is inside each other, and measure what is left. (B, 1) candidates.

        Those who are ``masked`` (B,) keep the shape that their mask gave them.
        """
        config, x = self.config, final.x[:, 0].clone()
        batch, iterations = len(x), final.iterations.clone()
        if self._contacts is None:
            return final, [SelfPenetration()] * batch
        found = self._contacts.find(self._layout.params(x))
        measured = self._contacts.measure(found, batch)
        rounds = config.penetration_rounds if config.interpenetration == "on" else 0
        if measure_only:
            rounds = 0
        who = torch.arange(batch, device=self.device)
        for _ in range(rounds):
            still = [
                m.depth_mm > config.penetration_mm for m in (measured[k] for k in who.tolist())
            ]
            is_deep = torch.tensor(still, device=self.device)
            if not is_deep.any():
                break
            found, who = found.take(is_deep), who[is_deep]
            for keeps_shape in (False, True):
                group = masked[who] == keeps_shape
                if not group.any():
                    continue
                them = who[group]
                moved = energy.take(them)
                term = self._contacts.term(moved, x[them], found.take(group), config.w_penetration)
                free = self._but_betas if keeps_shape else None
                moved = replace(moved, free=free, extra=(*moved.extra, term))
                solved = self._run(
                    moved, Candidates.at(x[them, None]), config.penetration_iterations
                )
                x[them] = solved.x[:, 0]
                iterations[them] += solved.iterations
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
        self,
        targets: Sequence[FitTarget],
        coarse: Evidence,
        seen: tuple[SeenTerm, ...] = (),
    ) -> tuple[Candidates, Tensor, Tensor]:
        """Anneal from the headings, and come close from given starts, by the body's points.

        Returns:
            Candidates (B, headings + 1), the given one last; which of them were tried, (B, headings
            + 1); and whose given start is trusted to be the only one, (B,).
        """
        config, layout = self.config, self._layout
        x = heading_starts(self._coarse, layout, self._prior, coarse)
        if any(has_extra(target) for target in targets):
            x = start_from_points(x, targets, self._coarse, layout, self._prior, config)
        has_given = torch.tensor([t.start is not None for t in targets], device=self.device)
        trusted = has_given & (config.given_starts == "alone")
        named = torch.tensor([n in config.headings for n, _ in HEADINGS], device=self.device)
        is_open = named & ~trusted[:, None]
        rigid = self._energy(self._coarse, config.coarse[0], coarse, seen)
        rigid = replace(rigid, free=self._rigid_columns, prior=self._coarse_prior)
        found = self._run(rigid, Candidates.at(x, is_open), _RIGID_ITERATIONS)
        for stage in config.coarse:
            energy = self._energy(self._coarse, stage, coarse, seen)
            energy = replace(energy, prior=self._coarse_prior)
            found = self._run(energy, found, stage.iterations)
            found = self._thin(found, config.hopeless_coarse)
        given = self._given(targets, x[:, 0])
        given = self._run(
            rigid, Candidates.at(given[:, None], has_given[:, None]), _RIGID_ITERATIONS
        )
        if config.given_starts == "compete":  # as settled as those that it is compared with
            given = self._run(energy, given, config.coarse[-1].iterations)
        tried = torch.cat([is_open, has_given[:, None]], 1)
        return found.joined(given), tried, trusted

    def _given(self, targets: Sequence[FitTarget], default: Tensor) -> Tensor:
        """(B, size) the given starts, the default where there is none."""
        x = default.clone()
        for k, target in enumerate(targets):
            if target.start is not None:
                x[k] = self._layout.vector(target.start, x[k])
        return x

    def _flip_limbs(
        self,
        kept: Candidates,
        coarse: Evidence,
        trusted: Tensor,
        seen: tuple[SeenTerm, ...] = (),
    ) -> tuple[Candidates, tuple[Tensor, Tensor]]:
        """Turn every limb over in depth, alone and then together where it helped.

        Limbs hardly know of each other, so the best way of each is found alone and all are joined.
        Given starts that are trusted are not turned over.

        Returns:
            The candidates, and what each limb might have done instead: where it would have the
            body's joints against where it has them, (B, C, limbs, 22, 3), and for which excess of
            energy, (B, C, limbs).
        """
        layout, stage = self._layout, self.config.flip
        energy = self._energy(self._coarse, stage, coarse, seen)
        shape = (*kept.x.shape[:2], len(LIMBS))
        shift = kept.x.new_zeros(*shape, len(BODY_JOINTS), 3)
        excess = kept.x.new_full(shape, torch.inf)
        may_flip = kept.is_open & ~trusted[:, None]
        person, place = torch.nonzero(may_flip, as_tuple=True)
        if self.config.limb_flips and len(person):
            evidence = coarse.take(person)
            base = kept.x[person, place]
            joined = base.clone()
            theirs = tuple(term.take(person) for term in seen)
            limbs = zip(LIMBS, self._limbs, self._limb_columns, strict=True)
            for k, (limb, sliced, columns) in enumerate(limbs):
                points = self._limb_points(sliced)
                here = tuple(term.at(points) for term in theirs)
                one = self._energy(sliced, stage, evidence.points(points), here)
                one = replace(one, free=columns)
                flips = [flip_limb(self._coarse, layout, base, limb, which) for which in FLIPS]
                tried = Candidates.at(torch.stack([base, *flips], 1))
                tried = self._run(one, tried, stage.iterations)
                best, _ = tried.best()
                joined[:, columns] = best.x[:, 0, columns]
                shift[person, place, k], excess[person, place, k] = self._runner_up(tried)
            both = Candidates.at(torch.stack([base, joined], 1))
            best, _ = self._measure(energy.take(person), both).best()
            x = kept.x.clone()
            x[person, place] = best.x[:, 0]
            kept = replace(kept, x=x)
        return self._run(energy, kept, stage.iterations), (shift, excess)

    def _joints(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., 22, 3) the body's joints, the others relative to the pelvis."""
        flat, layout = x.reshape(-1, x.shape[-1]), self._layout
        state = sliced_forward(
            self._body_joints, layout.full_pose(flat), layout.shape(flat), layout.transl(flat)
        )
        return relative_joints(state.points).view(*x.shape[:-1], -1, 3)

    def _runner_up(self, tried: Candidates) -> tuple[Tensor, Tensor]:
        """Of the states that were tried, the best that is another answer than the best.

        Returns:
            (B, 22, 3) where it has the joints against where the best has them, and (B,) the excess
            of its energy, infinite if there is none.
        """
        _, order = tried.best()
        joints = self._joints(tried.x)
        away = joints - joints.gather(1, order[..., None, None].expand(-1, -1, *joints.shape[2:]))
        excess = tried.energy - tried.energy.gather(1, order)
        excess = torch.where(away.norm(dim=-1).amax(-1) > _OTHER_ANSWER_M, excess, torch.inf)
        excess, which = excess.min(1)
        return away[torch.arange(len(which), device=which.device), which], excess

    def _rivals(self, kept: Candidates, order: Tensor, limbs: tuple[Tensor, Tensor]) -> Rivals:
        """Gather the answers that lost against the winner, ``order`` (B, 1)."""
        person = torch.arange(len(order), device=self.device)
        winner = order[:, 0]
        joints = self._joints(kept.x)
        excess = kept.open_energy - kept.energy.gather(1, order)
        excess = torch.where(excess > 0, excess, torch.inf)  # not the winner itself
        shift, more = (values[person, winner] for values in limbs)
        joints = torch.cat([joints, joints[person, winner][:, None] + shift], 1)
        excess = torch.cat([excess, more], 1)
        return Rivals(joints, excess)

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
        focal = energy.evidence.focal_px * layout.zoom(x)
        center = energy.evidence.center_px
        pixels = focal[:, None, None] * state.points[..., :2] / state.points[..., 2:]
        pixels = (pixels + center[:, None]).cpu().double().numpy()
        covariance = joint_covariance(
            energy, energy(x).matrix, x, self._body_joints, self.config.uncertainty, ending.rivals
        )
        covariance = pack_mm2(covariance.cpu().double().numpy())
        tall = stature_m(self._stature, layout.shape(x)) * focal / layout.transl(x)[:, 2]
        params = layout.params(x).numpy()
        places = state.points.cpu().double().numpy()
        tried = ending.tried.cpu().numpy()
        energies = ending.start_energies.cpu().float().numpy()
        rows = [FIT_KEYPOINTS.index(name) for name in self._all.points]
        parts = np.array([keypoint_part(name) for name in FIT_KEYPOINTS])
        results = []
        for k, target in enumerate(targets):
            projected = np.full((len(FIT_KEYPOINTS), 2), np.nan, np.float32)
            is_seen = has_2d(target) or bool(target.views)
            if is_seen:
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
                    person_height_px=float(tall[k]) if is_seen else float("nan"),
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
                    focal_px=float(focal[k]) if is_seen else float("nan"),
                    joint_covariance_mm2=covariance[k],
                    residual_3d_mm=residual_3d_mm(target, rows, places[k]),
                    self_penetration=ending.self_penetration[k],
                )
            )
        return results


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")
