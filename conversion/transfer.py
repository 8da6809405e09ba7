"""Meshes or parameters of one body into the parameters of another, many at once.

The method is that of Choutas et al. 2020 (ExPose), supplement, section 3: the source's mesh is
sampled at the target's vertices (:mod:`conversion.correspondence`), and the target's parameters
are found by least squares: edges over the pose (equation 4), translation (5), vertices over all
(6).

By default the first two stages give way to a closed form (:mod:`conversion.align`), and the third
runs on a sample of the vertices and is finished on all of them. With ``start="zeros"`` all three
run as published. :mod:`conversion.newton_cg` is the published optimiser, for reading and for tests.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.spec import PARTS, keypoint_part
from conversion.align import closed_form_start, rest_state, solve_linear
from conversion.correspondence import Correspondence, build_correspondence
from conversion.inputs import check_meshes, pose_reasons
from conversion.knowable import knowable
from conversion.known import Known, TakeOver, known_betas
from conversion.options import TransferOptions
from conversion.result import TransferResult, failed_result
from conversion.sampler import Sampler
from conversion.sampling import sample_edges, sample_vertices
from conversion.solver import (
    Edges,
    Hold,
    Outcome,
    Points,
    TrustRegion,
    curvature,
    joined_outcomes,
    minimize,
    polish,
)
from conversion.surface import Group, State, Surface, Unknowns

__all__ = ["Transfer", "TransferResult"]

_POLISHED_TOGETHER = 8  # meshes with all their vertices, on a CPU: memory, not time, limits them


class Transfer:
    """Converts from one body to another.

    Args:
        source: The body that parameters or meshes come in.
        target: The body whose parameters are wanted.
        options: Settings.
        correspondence: Which point of the source each target vertex is; built if None.
        dtype: Of the solver; its linear systems are always float64.
        device: Where it runs.

    Raises:
        ValueError: If the correspondence is not of these bodies.
    """

    def __init__(
        self,
        source: BodyData,
        target: BodyData,
        options: TransferOptions | None = None,
        correspondence: Correspondence | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.source, self.target = source, target
        self.options = options or TransferOptions()
        match = correspondence or build_correspondence(source, target)
        counts = (match.num_source, len(match.corners))
        if counts != (len(source.v_template), len(target.v_template)):
            raise ValueError(
                f"the correspondence is of {counts[0]} source and {counts[1]} target vertices; "
                f"{source.name} has {len(source.v_template)}, {target.name} "
                f"{len(target.v_template)}. Is it of the other direction?"
            )
        self.correspondence = match
        self.dtype, self.device = dtype, torch.device(device)
        o = self.options
        known = knowable(
            source, target, match.valid,
            betas_weight=o.betas_weight, expression_weight=o.expression_weight,
            fingers_weight=o.fingers_weight,
        )  # fmt: skip
        self.unknowns = Unknowns(known.joints, known.shape)
        masses = known.masses * (1e6 / known.masses.sum())  # energies in mm^2
        sample = sample_vertices(target, masses, o.num_samples)
        self.full = Surface(target, None, dtype, device)
        self.sampled = Surface(target, sample.ids, dtype, device)
        self._groups: dict[bytes, list[Group]] = {}
        self._ids = self._whole(sample.ids)
        self._masses, self._sample_masses = self._real(masses), self._real(sample.masses)
        joints = len(target.parents)
        self.hold = Hold(
            self._real(known.joint_hold),
            torch.eye(3, dtype=dtype, device=self.device).repeat(joints, 1, 1),
            self._real(known.shape_hold),
        )
        self._sample, self._vertex_masses = sample, masses
        self._posed = Surface(source, None, dtype, device)
        self._take_over = None
        if source.family in ("mano", "flame") and o.part_pose == "given":
            self._take_over = TakeOver(source, target, match)
        self._sampler = Sampler(match, dtype, self.device)
        self._valid = self._whole(np.flatnonzero(match.valid))
        names = [
            name if name in ("left_hand", "right_hand") else keypoint_part(name)
            for name in target.joints
        ]  # SMPL's hands are joints of that name
        part = np.array(names)[target.weights.argmax(1)]
        self._parts = {p: self._whole(np.flatnonzero((part == p) & match.valid)) for p in PARTS}

    # --- what is given

    def convert_params(
        self,
        full_pose: np.ndarray,
        betas: np.ndarray,
        transl: np.ndarray,
        expression: np.ndarray | None = None,
        shared_betas: np.ndarray | None = None,
    ) -> TransferResult:
        """Convert parameters of the source.

        Args:
            full_pose: (B, J, 3) axis-angle, in the order of the source's joints.
            betas: (B, <= the source's).
            transl: (B, 3) metres.
            expression: (B, <= the source's), None for the neutral face.
            shared_betas: The target's betas, where they are known: kept as they are.

        Raises:
            ValueError: If a shape is wrong.
        """
        given = [full_pose, betas] + ([] if expression is None else [expression])
        flat = [x.reshape(len(full_pose), -1) for x in (*given, transl)]
        finite = np.isfinite(np.concatenate(flat, 1)).all(1)
        given = [np.where(finite.reshape(-1, *[1] * (x.ndim - 1)), x, 0) for x in given]
        vertices = self.pose_source(*given)
        reasons = pose_reasons(full_pose, finite)
        place = np.where(finite[:, None], transl, 0)
        known = None
        if self._take_over is not None:
            known = self._take_over(self.full, *given[::2])
        return self._convert(vertices, place, reasons, shared_betas, known)

    def convert_vertices(
        self, vertices: np.ndarray, shared_betas: np.ndarray | None = None
    ) -> TransferResult:
        """Convert meshes in the source's topology.

        Args:
            vertices: (B, V, 3) metres, or a sequence of (V, 3) of which some may be wrong.
            shared_betas: As in ``convert_params``.
        """
        vertices, middle, reasons = check_meshes(vertices, self.source)
        return self._convert(self._real(vertices), middle, reasons, shared_betas)

    def shared_betas(self, frames: Iterable["np.ndarray | Sequence[np.ndarray]"]) -> np.ndarray:
        """Return the one shape, (B',), that suits meshes of one person best.

        Each mesh is solved for by itself; near its answer its energy is a quadratic of the betas
        once all else has followed (the Schur complement of the Gauss-Newton matrix), and the sum of
        these has its minimum in closed form.

        Args:
            frames: Batches of meshes as for ``convert_vertices``.

        Raises:
            ValueError: If no mesh can be used.
        """
        first = 3 * int(self.unknowns.joints.sum())
        mine = np.arange(first, first + self.target.num_betas)
        rest = np.setdiff1d(np.arange(self.unknowns.count), mine)
        mine, rest = self._whole(mine), self._whole(rest)
        total, moment = 0.0, 0.0
        for batch in frames:
            vertices, _, reasons = check_meshes(batch, self.source)
            good = np.flatnonzero([not reason for reason in reasons])
            if not len(good):
                continue
            with torch.no_grad():
                goal = self._sampler(self._real(vertices[good]))
                few = Points(goal[..., self._ids], self._sample_masses)
                outcome, matrix = self._solve(few, goal, self.unknowns, None)
            matrix = matrix.double()
            ridge = 1e-6 * matrix.diagonal(dim1=1, dim2=2).mean(1)
            matrix.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
            across = matrix[:, rest[:, None], mine]
            inner = torch.linalg.solve(matrix[:, rest[:, None], rest], across)
            schur = matrix[:, mine[:, None], mine] - across.mT @ inner
            betas = outcome.state.shape[:, : self.target.num_betas].double()
            total = total + schur.sum(0)
            moment = moment + (schur @ betas[..., None]).sum(0)
        if isinstance(total, float):
            raise ValueError("no frame can be used to find the shape")
        return torch.linalg.solve(total, moment)[:, 0].cpu().numpy()

    def pose_source(
        self,
        full_pose: np.ndarray,
        betas: np.ndarray,
        expression: np.ndarray | None = None,
    ) -> Tensor:
        """Return the source's meshes (B, V, 3), without translation."""
        shape = np.zeros((len(full_pose), self.source.num_betas + self.source.num_expression))
        shape[:, : betas.shape[1]] = betas
        if expression is not None:
            first = self.source.num_betas
            shape[:, first : first + expression.shape[1]] = expression
        rotations = rotvec_to_rotmat(self._real(full_pose))
        with torch.no_grad():
            shaped = self._real(shape)
            state = State(rotations, shaped, shaped.new_zeros(len(shape), 3))
            return self._posed.pose(state).vertices.mT

    # --- the stages

    @torch.no_grad()
    def _convert(
        self,
        vertices: Tensor,
        place: np.ndarray,
        reasons: Sequence[str],
        shared_betas: np.ndarray | None,
        known: Known | None = None,
    ) -> TransferResult:
        """Convert meshes; ``place`` (B, 3) float64 was taken off them and is put back."""
        good = np.flatnonzero([not reason for reason in reasons])
        if not len(good):
            return failed_result(self.target, reasons)
        if known is not None:
            known = known.take(self._whole(good))
        if shared_betas is not None:
            known = known_betas(self.full, len(good), shared_betas, known)
        unknowns = self.unknowns if known is None else known.without(self.unknowns)
        goal = self._sampler(vertices[self._whole(good)])
        points = Points(goal, self._masses)
        few = Points(goal[..., self._ids], self._sample_masses)
        outcome, matrix = self._solve(few, goal, unknowns, known)
        settings = TrustRegion(rtol=1e-4, atol=1e-5, max_iterations=self.options.polish_iterations)
        ends, placed = [], []
        together = _POLISHED_TOGETHER if self.device.type == "cpu" else len(good)
        for first in range(0, len(good), together):
            rows = torch.arange(first, min(first + together, len(good)), device=self.device)
            end, vertices = polish(
                self.full, points.take(rows), self.hold, outcome.state.take(rows), unknowns,
                matrix[rows], settings,
            )  # fmt: skip
            ends.append(end)
            placed.append(vertices)
        end = joined_outcomes(ends)
        return self._result(end, outcome, goal, torch.cat(placed), place, reasons, good)

    def _solve(
        self, points: Points, goal: Tensor, unknowns: Unknowns, known: Known | None
    ) -> tuple[Outcome, Tensor]:
        """Return where the solver ends on the sampled vertices, and the matrix there."""
        o, surface, hold = self.options, self.sampled, self.hold
        key = unknowns.joints.tobytes() + unknowns.shape.tobytes()
        if key not in self._groups:
            self._groups[key] = surface.groups(unknowns)
        groups = self._groups[key]
        settings = TrustRegion(max_iterations=o.iterations)
        if o.start == "zeros":
            state = rest_state(surface, hold, points.target, points.masses, known)
            state = self._edge_stage(state, goal, unknowns)
            still = Unknowns(unknowns.joints & False, unknowns.shape & False)
            state = solve_linear(surface, points, hold, state, still)
        else:
            state = closed_form_start(surface, points, hold, unknowns, known)
        end = minimize(surface, groups, points, hold, state, unknowns, settings)
        posed = surface.pose(end.state)
        return end, curvature(surface, groups, points, hold, end.state, posed, unknowns)

    def _edge_stage(self, state: State, goal: Tensor, unknowns: Unknowns) -> State:
        """Equation 4: the pose from the directions and lengths of edges, wherever the body is."""
        ids, masses = sample_edges(self.target.faces, self._vertex_masses, self._sample)
        used, ends = np.unique(ids, return_inverse=True)
        ends = ends.reshape(ids.shape)
        surface = Surface(self.target, used, self.dtype, self.device)
        pose = Unknowns(unknowns.joints, unknowns.shape & False, transl=False)
        groups = surface.groups(pose)
        by_group, inside = {}, np.zeros(len(ends), bool)
        for group in groups:
            place = np.full(len(used), -1)
            members = group.vertices.cpu().numpy()
            place[members] = np.arange(len(members))
            mine = (place[ends] >= 0).all(1)
            inside |= mine
            index = (np.flatnonzero(mine), *place[ends[mine]].T)
            by_group[id(group)] = tuple(self._whole(x) for x in index)
        # Edges between two groups (one in fifty) would couple them; they are left out.
        masses = np.where(inside, masses, 0)
        edges = Edges(goal[..., self._whole(used)], self._whole(ends), self._real(masses), by_group)
        hold = Hold(self.hold.joints, self.hold.references, 0 * self.hold.shape)
        settings = TrustRegion(rtol=1e-4, max_iterations=3 * self.options.iterations)
        return minimize(surface, groups, edges, hold, state, pose, settings).state

    def _result(
        self,
        end: Outcome,
        solved: Outcome,
        goal: Tensor,
        placed: Tensor,
        place: np.ndarray,
        reasons: Sequence[str],
        good: np.ndarray,
    ) -> TransferResult:
        """Pack what was found, and say how far it is from the source."""
        batch, betas = len(reasons), self.target.num_betas
        gap = 1000 * (placed - goal).norm(dim=1)
        valid = gap[:, self._valid]
        mean = valid.mean(1)
        high = valid.kthvalue(max(1, round(0.99 * valid.shape[1])), dim=1)[0]
        part = {p: gap[:, ids].mean(1) for p, ids in self._parts.items()}
        pose = rotmat_to_rotvec(end.state.rotations)

        def spread(values: Tensor, dtype=np.float32) -> np.ndarray:
            out = np.full((batch, *values.shape[1:]), np.nan, dtype)
            out[good] = values.cpu().numpy()
            return out

        status, told = ["input_error"] * batch, list(reasons)
        settled = (solved.has_settled & end.has_settled).tolist()
        finite = torch.isfinite(mean).tolist()
        for row, k in enumerate(good):
            status[k], told[k] = "ok", ""
            if not finite[row]:
                status[k], told[k] = "solver_error", "the solver gave numbers that are not finite"
            elif float(mean[row]) > self.options.far_mm:
                status[k] = "not_converged"
                told[k] = (
                    f"ended {float(mean[row]):.0f} mm from the mesh; are its betas, or its order "
                    f"of vertices, those of {self.source.name}?"
                )
            elif not settled[row]:
                status[k], told[k] = "not_converged", "the solver stopped before it settled"
        return TransferResult(
            full_pose=spread(pose),
            betas=spread(end.state.shape[:, :betas]),
            expression=spread(end.state.shape[:, betas:]),
            transl=spread(end.state.transl, np.float64) + place,
            status=status,
            reason=told,
            v2v_mean_mm=spread(mean),
            v2v_p99_mm=spread(high),
            v2v_max_mm=spread(valid.amax(1)),
            v2v_part_mm={p: spread(x) for p, x in part.items()},
            iterations=np.nan_to_num(spread(solved.iterations + end.iterations)).astype(np.int64),
        )

    def _real(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array)).to(self.device, self.dtype)

    def _whole(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array, np.int64), device=self.device)
