"""Fit SMPL-X to the keypoints of many persons at once."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.fit_points import fit_points
from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS, LOOSE_POINTS
from bodymodel.model import BodyModel
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import SlicedBody, slice_body, sliced_forward
from bodymodel.spec import PARTS, keypoint_part
from fitting.config import FitConfig, StageConfig
from fitting.contacts import BodyContacts
from fitting.depth import DepthTerm, depth_slice, lines_of_sight
from fitting.energy import TERMS, Energy, Evidence, StageTerm
from fitting.limits import joint_limits
from fitting.priors import load_pose_prior
from fitting.records import FitResult, FitTarget, SelfPenetration
from fitting.silhouette import SilhouetteTerm
from fitting.solver import Solution, minimise
from fitting.starts import (
    COARSE_POINTS,
    FLIPS,
    HEADINGS,
    LIMBS,
    flip_limb,
    heading_starts,
    image_roll,
    pixels_per_metre,
    stature_m,
)
from fitting.state import Layout

_USUAL_STATURE_M = 1.7
_PICTURE_PER_PERSON = 1.25  # the picture height of SMPLify-X's units, in heights of the person
_RIGID_ITERATIONS = 10
_CPU_CHUNK = 32  # people: enough to hide the cost of a call, little enough for the cache
_SILHOUETTE_ITERATIONS = 12
_SAME_HEADING = 0.7  # radians; roots closer than this are one answer


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


@dataclass(frozen=True, eq=False)
class _Candidates:
    """States that compete: (B, C, size), and (B, C) of the rest."""

    x: Tensor
    energy: Tensor
    iterations: Tensor
    converged: Tensor

    def take(self, which: Tensor) -> "_Candidates":
        """Return some (B, k) of each person's candidates."""
        x = self.x.gather(1, which[..., None].expand(-1, -1, self.x.shape[-1]))
        others = (self.energy, self.iterations, self.converged)
        return _Candidates(x, *(values.gather(1, which) for values in others))

    def best(self) -> tuple["_Candidates", Tensor]:
        """Return the best of each person, and which (B, 1) it was."""
        order = self.energy.argsort(dim=1, stable=True)[:, :1]
        return self.take(order), order


@dataclass(frozen=True, eq=False)
class _Ending:
    """Where each person of a batch ended, and how: FitResult's fields by the same names."""

    x: Tensor
    converged: Tensor
    iterations: Tensor
    winner: Tensor
    start_energies: Tensor
    start_margin: Tensor
    self_penetration: list[SelfPenetration]


class Fitter:
    """Fits bodies to keypoints; make one and give it batches.

    Args:
        body: A SMPL-X body.
        config: How to fit.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``float32`` or ``float64``. In float64 a person's result is the same in any batch; in
            float32 rounding, which differs with the batch, may choose another of two nearly equal
            answers.
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
        conventions: tuple[str, ...] = (),
    ):
        self.body = body
        self.conventions = conventions
        self._others: dict[tuple[str, ...], Fitter] = {}
        self.config = config or FitConfig()
        self.device = torch.device(device)
        self._dtype_name = dtype
        self.dtype = {"float32": torch.float32, "float64": torch.float64}[dtype]
        options = {"dtype": self.dtype, "device": self.device}
        placed = {**options, "places": fit_points(body, conventions)}
        self._coarse = slice_body(body, COARSE_POINTS, **placed)
        self._fine = slice_body(body, FINE_POINTS, **placed)
        self._all = slice_body(body, **placed)
        self._limbs = [slice_body(body, limb.points, **placed) for limb in LIMBS]
        self._stature = slice_body(body, ("left_heel", "right_heel", "head_top"), **options)
        self._mesh: BodyModel | None = None
        self._depth = depth_slice(body, **options)
        self._layout = Layout.of(body, self.config.num_hand_components, **options)
        self._prior = load_pose_prior(**options)
        self._limits = joint_limits(**options)
        wants_contacts = self.config.interpenetration != "off"
        self._contacts = BodyContacts(body, **options) if wants_contacts else None
        everything = self._layout.columns(*self._layout.slices)
        betas = self._layout.columns("betas")
        self._shape_columns = self._layout.columns("betas", "transl").sort()[0]
        self._but_betas = everything[~torch.isin(everything, betas)].sort()[0]
        self._rigid_columns = self._layout.columns("global_orient", "transl")
        self._limb_columns = [self._layout.body_columns(limb.joints) for limb in LIMBS]

    def fit(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        """Fit all persons; a result for each, in order, whatever its status."""
        results: list[FitResult | None] = [None] * len(targets)
        for conventions in dict.fromkeys(target.conventions for target in targets):
            mine = [k for k, target in enumerate(targets) if target.conventions == conventions]
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
                self.body, self.config, str(self.device), self._dtype_name, conventions
            )
        return self._others[conventions]

    def _fit_alike(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        """Fit people whose points lie where this fitter's do."""
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
        points = np.asarray(target.keypoints_2d)
        if points.shape != (len(FIT_KEYPOINTS), 3):
            raise ValueError(
                f"keypoints_2d must be ({len(FIT_KEYPOINTS)}, 3) in the 'fit' convention, got "
                f"{points.shape}; Keypoints2D(...).to('fit') gives them"
            )
        if not (np.isfinite(target.focal_px) and target.focal_px > 0):
            return f"the focal length is {target.focal_px} px; it must be positive"
        if not np.isfinite(target.center_px).all():
            return "the principal point is not a number"
        used = [
            name
            for name, point in zip(FIT_KEYPOINTS, points, strict=True)
            if name in COARSE_POINTS
            and np.isfinite(point).all()
            and point[2] >= self.config.min_confidence
        ]
        if len(used) < self.config.min_points:
            return (
                f"{len(used)} points of the body are seen, "
                f"at least {self.config.min_points} are needed"
            )
        spread = np.ptp(points[[FIT_KEYPOINTS.index(n) for n in used], :2], axis=0).max()
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
        own = np.array(
            [self.config.loose_weight if n in LOOSE_POINTS else 1 for n in sliced.points]
        )

        def real(x) -> Tensor:
            return torch.as_tensor(np.asarray(x), dtype=self.dtype, device=self.device)

        return Evidence(
            points_px=real(points[..., :2]),
            weights=real(points[..., 2] ** 2 * own),
            focal_px=real([t.focal_px for t in targets]),
            center_px=real(np.stack([t.center_px for t in targets])),
            unit=real(np.ones(len(targets))),
        )

    def _terms(self, targets: Sequence[FitTarget], coarse: Evidence) -> list[StageTerm]:
        """Return the terms beside the picture."""
        nothing = np.full((len(FIT_KEYPOINTS), 3), np.nan, np.float32)
        world = [nothing if t.world_points is None else t.world_points for t in targets]
        confidence = np.stack([t.keypoints_2d[:, 2] for t in targets])
        options = {"dtype": self.dtype, "device": self.device}
        return [
            DepthTerm.of(
                self._depth,
                torch.as_tensor(np.stack(world), **options),
                torch.as_tensor(confidence, **options),
                lines_of_sight(coarse),
                image_roll(self._coarse, coarse),
            )
        ]

    def _energy(
        self,
        sliced: SlicedBody,
        stage: StageConfig,
        evidence: Evidence,
        terms: Sequence[StageTerm] = (),
    ) -> Energy:
        size = self._layout.coarse_size
        if stage.w_hand_points or stage.w_face_points:
            size = self._layout.size
            part_weight = {
                "body": 1.0,
                "left_hand": stage.w_hand_points,
                "right_hand": stage.w_hand_points,
                "face": stage.w_face_points,
            }
            weight = [part_weight[keypoint_part(name)] for name in sliced.points]
            weight = torch.tensor(weight, dtype=self.dtype, device=self.device)
            evidence = replace(evidence, weights=evidence.weights * weight)
        extra = tuple(term for term in (t.at_stage(stage) for t in terms) if term is not None)
        return Energy(
            sliced, self._layout, self._prior, self._limits, stage, evidence, size, extra=extra
        )

    def _run(self, energy: Energy, candidates: Tensor, iterations: int) -> _Candidates:
        """Minimise from (B, C, size) states."""
        batch, count, size = candidates.shape
        owner = torch.arange(batch, device=self.device).repeat_interleave(count)
        solution: Solution = minimise(
            energy.take(owner),
            candidates.reshape(-1, size),
            self._layout.step,
            iterations=iterations,
            tolerance=self.config.tolerance,
        )
        return _Candidates(
            solution.x.view(batch, count, size),
            torch.nan_to_num(solution.energy, nan=torch.inf).view(batch, count),
            solution.iterations.view(batch, count),
            solution.converged.view(batch, count),
        )

    def _measure(self, energy: Energy, candidates: Tensor) -> _Candidates:
        """Evaluate (B, C, size) states without moving them."""
        return self._run(energy, candidates, 0)

    def _turns(self, candidates: _Candidates, reference: Tensor) -> Tensor:
        """(B, C) angles of the candidates' root rotations against those of (B, size) states."""
        root = self._layout.slices["global_orient"]
        there = rotvec_to_rotmat(reference[:, None, root])
        between = rotvec_to_rotmat(candidates.x[..., root]) @ there.mT
        return rotmat_to_rotvec(between).norm(dim=-1)

    def _distinct(self, found: _Candidates, count: int) -> Tensor:
        """(B, count) the best, then those that face another way, then the rest; each by energy."""
        best, _ = found.best()
        same = self._turns(found, best.x[:, 0]) < _SAME_HEADING
        order = found.energy.argsort(dim=1, stable=True)
        # a stable sort by class keeps the order by energy within each class
        rank = same.gather(1, order).long()
        rank[:, 0] = -1
        return order.gather(1, rank.argsort(dim=1, stable=True))[:, :count]

    def _margin(self, kept: _Candidates) -> Tensor:
        """(B,) how much worse the best that faces another way is, in parts of the best."""
        best, _ = kept.best()
        other = torch.where(self._turns(kept, best.x[:, 0]) < _SAME_HEADING, torch.nan, kept.energy)
        other = torch.nan_to_num(other, nan=torch.inf).amin(1)
        margin = other / best.energy[:, 0] - 1
        return torch.where(torch.isinf(margin), torch.nan, margin)

    def _fit_batch(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        config, layout = self.config, self._layout
        coarse = self._evidence(targets, self._coarse)
        rest = sliced_forward(
            self._coarse,
            coarse.points_px.new_zeros(1, 55, 3),
            coarse.points_px.new_zeros(1, self._coarse.num_shape),
            coarse.points_px.new_zeros(1, 3),
        ).points[0]
        person_px = pixels_per_metre(self._coarse, coarse, rest) * _USUAL_STATURE_M
        unit = 1000 / (_PICTURE_PER_PERSON * person_px)
        coarse = replace(coarse, unit=unit)
        fine = replace(self._evidence(targets, self._fine), unit=unit)

        terms = self._terms(targets, coarse)

        x = heading_starts(self._coarse, layout, self._prior, coarse)
        rigid = self._energy(self._coarse, config.coarse[0], coarse, terms)
        rigid = replace(rigid, free=self._rigid_columns)
        found = self._run(rigid, x, _RIGID_ITERATIONS)
        iterations = found.iterations
        for stage in config.coarse:
            energy = self._energy(self._coarse, stage, coarse, terms)
            found = self._run(energy, found.x, stage.iterations)
            iterations = iterations + found.iterations
        # All starts are compared by one energy, so that the margin between them means something.
        found = self._measure(self._energy(self._coarse, config.flip, coarse, terms), found.x)
        which = self._distinct(found, config.keep)
        kept = found.take(which)
        iterations = iterations.gather(1, which)
        if config.limb_flips:
            kept = self._flip_limbs(kept, coarse, terms)
            iterations = iterations + kept.iterations
        start_energies = found.energy.scatter(1, which, kept.energy)
        margin = self._margin(kept)
        for stage in config.fine:
            energy = self._energy(self._fine, stage, fine, terms)
            kept = self._run(energy, kept.x, stage.iterations)
            iterations = iterations + kept.iterations
        final, order = kept.best()
        winner = which.gather(1, order)[:, 0]
        iterations = iterations.gather(1, order)[:, 0]
        final = self._fill_masks(targets, energy, final)
        masked = torch.tensor([t.silhouette is not None for t in targets], device=self.device)
        apart, penetration = self._separate(energy, final, masked)
        ending = _Ending(
            apart.x[:, 0],
            final.converged[:, 0],
            iterations + apart.iterations[:, 0],
            winner,
            start_energies,
            margin,
            penetration,
        )
        return self._results(targets, energy, ending)

    def _fill_masks(
        self, targets: Sequence[FitTarget], energy: Energy, final: _Candidates
    ) -> _Candidates:
        """Let those who have a mask fill it: shape by the mask, then pose by the points, in turns.

        (B, 1) candidates.
        """
        config, x = self.config, final.x.clone()
        for k, target in enumerate(targets):
            if target.silhouette is None or not torch.isfinite(x[k]).all():
                continue
            if self._mesh is None:
                self._mesh = BodyModel(self.body, dtype=self.dtype).to(self.device)
            mine = energy.take(torch.tensor([k], device=self.device))
            for turn in reversed(range(config.silhouette_rounds)):
                term = SilhouetteTerm.of(
                    self._mesh, self._layout, x[k], target.silhouette,
                    w_inside=config.w_silhouette_inside,
                    w_outside=config.w_silhouette_outside,
                    slack=config.silhouette_slack_m * 2**turn,  # first what is far, too
                )  # fmt: skip
                shaped = replace(mine, free=self._shape_columns, extra=(*mine.extra, term))
                x[k] = self._run(shaped, x[k : k + 1], _SILHOUETTE_ITERATIONS).x[0]
                posed = replace(mine, free=self._but_betas)
                x[k] = self._run(posed, x[k : k + 1], _SILHOUETTE_ITERATIONS).x[0]
        return replace(final, x=x)

    def _separate(
        self, energy: Energy, final: _Candidates, masked: Tensor | None = None
    ) -> tuple[_Candidates, list[SelfPenetration]]:
        """Push apart what is inside each other, and measure what is left. (B, 1) candidates.

        Those who are ``masked`` (B,) keep the shape that their mask gave them.
        """
        config, x = self.config, final.x[:, 0].clone()
        batch, spent = len(x), torch.zeros_like(final.iterations)
        if self._contacts is None:
            return replace(final, iterations=spent), [SelfPenetration()] * batch
        found = self._contacts.find(self._layout.params(x))
        rounds = config.penetration_rounds if config.interpenetration == "on" else 0
        for _ in range(rounds):
            deep = found.person[1000 * found.depth > config.penetration_mm]
            who = torch.unique(deep)
            if not len(who):
                break
            if masked is None:
                masked = torch.zeros(batch, dtype=torch.bool, device=self.device)
            for group, free in ((who[~masked[who]], None), (who[masked[who]], self._but_betas)):
                if not len(group):
                    continue
                term = self._contacts.term(found, group, config.w_penetration)
                moved = energy.take(group)
                moved = replace(moved, free=free, extra=(*moved.extra, term))
                solved = self._run(moved, x[group, None], config.penetration_iterations)
                x[group] = solved.x[:, 0]
                spent[group] += solved.iterations
            found = self._contacts.find(self._layout.params(x))
        return replace(final, x=x[:, None], iterations=spent), self._contacts.measure(found, batch)

    def _flip_limbs(
        self, kept: _Candidates, coarse: Evidence, terms: Sequence[StageTerm]
    ) -> _Candidates:
        """Turn every limb over in depth, alone and then together where it helped.

        Limbs hardly know of each other, so the best way of each is found alone and all are joined.
        """
        layout, stage = self._layout, self.config.flip
        batch, count, size = kept.x.shape
        owner = torch.arange(batch, device=self.device).repeat_interleave(count)
        evidence = coarse.take(owner)
        terms = [term.take(owner) for term in terms]
        base = kept.x.reshape(-1, size)
        joined = base.clone()
        for limb, sliced, columns in zip(LIMBS, self._limbs, self._limb_columns, strict=True):
            energy = replace(self._energy(sliced, stage, evidence, terms), free=columns)
            energy = replace(energy, evidence=evidence.points(self._limb_points(sliced)))
            flips = [flip_limb(self._coarse, layout, base, limb, which) for which in FLIPS]
            tried = self._run(energy, torch.stack([base, *flips], 1), stage.iterations)
            best, _ = tried.best()
            joined[:, columns] = best.x[:, 0, columns]
        energy = self._energy(self._coarse, stage, evidence, terms)
        final = self._run(energy, torch.stack([base, joined], 1), stage.iterations)
        best, _ = final.best()
        return _Candidates(
            best.x.view(batch, count, size),
            best.energy.view(batch, count),
            best.iterations.view(batch, count) + stage.iterations,
            best.converged.view(batch, count),
        )

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
        tall = stature_m(self._stature, layout.shape(x)) * focal / layout.transl(x)[:, 2]
        params = layout.params(x).numpy()
        rows = [FIT_KEYPOINTS.index(name) for name in self._all.points]
        parts = np.array([keypoint_part(name) for name in FIT_KEYPOINTS])
        results = []
        for k, target in enumerate(targets):
            projected = np.full((len(FIT_KEYPOINTS), 2), np.nan, np.float32)
            projected[rows] = pixels[k]
            points = target.keypoints_2d
            distance = np.linalg.norm(projected - points[:, :2], axis=-1)
            residual = np.where(points[:, 2] > 0, distance, np.nan).astype(np.float32)
            used = residual[points[:, 2] >= self.config.min_confidence]
            used_parts = parts[points[:, 2] >= self.config.min_confidence]
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
                    starts=tuple(name for name, _ in HEADINGS),
                    start_energies=ending.start_energies[k].cpu().float().numpy(),
                    start_margin=float(ending.start_margin[k]),
                    winner=HEADINGS[int(ending.winner[k])][0],
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
