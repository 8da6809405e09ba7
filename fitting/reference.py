"""SMPLify-X as published: one person at a time, the whole mesh, L-BFGS through five stages.

The readable twin of the fast solver, and the base of every claim about its speed. What it is known
to do wrong is kept where it changes the energy or the way to its minimum, each under a switch of
``ReferenceConfig``. The line search is torch's (strong Wolfe, c1 1e-4, c2 0.9, 25 steps in all),
where the published one allows 25 steps to bracket and 30 more to zoom.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.params import BodyParams
from bodymodel.parts import PUBLISHED_PAIRS, body_parts
from bodymodel.penetration import make_surface
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import slice_body, sliced_forward
from bodymodel.spec import keypoint_part
from fitting.contacts import BodyContacts
from fitting.priors import BodyPrior
from fitting.records import FitResult, FitTarget
from fitting.reference_config import ReferenceConfig, ReferenceStage, resolve_body
from fitting.reference_energy import (
    MODEL_JOINTS,
    OPENPOSE_POINTS,
    REFERENCE_TERMS,
    TORSO_EDGES,
    ReferenceEvidence,
    reference_energy,
    reference_evidence,
)
from fitting.reference_mesh import make_mesh
from fitting.reference_pose import pose_unknown
from fitting.residuals import part_medians, point_residuals
from fitting.starts import stature_m
from fitting.target_check import find_problem

__all__ = ["Descent", "ReferenceFitter", "minimise_lbfgs", "reference_energy"]

ORIENTATIONS = ("found", "turned")
"""Names of the starts: the camera stage's orientation, and that turned by 180 degrees."""

_W_DEPTH = 1e4
_HISTORY = 100
_TOLERANCE_GRADIENT, _TOLERANCE_CHANGE = 1e-5, 1e-9  # within a call
_TOLERANCE_LOSS, _TOLERANCE_LAST_GRADIENT = 1e-9, 1e-9  # between calls

Variables = dict[str, Tensor]


@dataclass(frozen=True)
class Descent:
    """How a minimisation went.

    Attributes:
        evaluations: Of the loss and its gradient.
        calls: Of the optimiser.
        loss: At the start of the last call, as the published solver reports it.
        converged: Whether a rule stopped it, and not the number of calls.
    """

    evaluations: int
    calls: int
    loss: float
    converged: bool


def minimise_lbfgs(
    variables: Sequence[Tensor], loss: Callable[[], Tensor], config: ReferenceConfig
) -> Descent:
    """Minimise a loss over its variables, in place.

    Stops when the loss at the start of a call is not lower than at the start of the one before (by
    1e-9 of it), when the gradient vanishes, or when the loss is no number.

    Args:
        variables: Leaves that require a gradient.
        loss: Of their present values, a scalar.
        config: The limits.
    """
    optimiser = torch.optim.LBFGS(
        list(variables),
        lr=1,
        max_iter=config.iterations_per_call,
        max_eval=config.iterations_per_call * 5 // 4,
        tolerance_grad=_TOLERANCE_GRADIENT,
        tolerance_change=_TOLERANCE_CHANGE,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    previous, current = math.nan, math.nan
    for call in range(1, config.max_calls + 1):
        current = float(optimiser.step(closure).detach())
        if not math.isfinite(current):
            return Descent(evaluations, call, current, False)
        fall = (previous - current) / max(abs(previous), abs(current), 1.0)
        # no comparison with NaN is true, so the first call never ends it here
        if fall <= _TOLERANCE_LOSS or _vanishes(variables, config.signed_gradient_stop):
            return Descent(evaluations, call, current, True)
        previous = current
    return Descent(evaluations, config.max_calls, current, False)


def _vanishes(variables: Sequence[Tensor], signed: bool) -> bool:
    gradients = [v.grad for v in variables if v.grad is not None]
    largest = [g.max().abs() if signed else g.abs().max() for g in gradients]
    return all(float(value) < _TOLERANCE_LAST_GRADIENT for value in largest)


@dataclass(frozen=True, eq=False)
class _Attempt:
    """One orientation fitted: parameters (1), energy by term, and how it went."""

    params: BodyParams
    terms: dict[str, float]
    stale: float
    converged: bool

    @property
    def energy(self) -> float:
        return sum(self.terms.values())


class ReferenceFitter:
    """Fits bodies to keypoints as SMPLify-X does; the same face as ``fitting.fit.Fitter``.

    Args:
        body: A SMPL-X body.
        config: How to fit.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``float32``, as published, or ``float64``.
        prior: On the body's pose; as published without VPoser, the squared axis-angles, if None. A
            VPoser's code is solved for instead of the pose.

    Raises:
        ValueError: If the body is of another family, or smplx cannot pose it.
        ModuleNotFoundError: If smplx is wanted and not installed.
    """

    def __init__(
        self,
        body: BodyData,
        config: ReferenceConfig | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        prior: BodyPrior | None = None,
    ):
        self.body = body
        self.config = config or ReferenceConfig()
        self.device = torch.device(device)
        self.dtype = {"float32": torch.float32, "float64": torch.float64}[dtype]
        self._mesh = make_mesh(body, resolve_body(self.config.body), self.dtype, self.device)
        self._surface = None
        if self.config.interpenetration:
            self._surface = make_surface(body, body_parts(body, PUBLISHED_PAIRS), self.device)
        self._contacts = BodyContacts(body, torch.float64, "cpu")
        self._pose = pose_unknown(prior, self.dtype, self.device)
        self._all = slice_body(body, dtype=torch.float64)
        components = body.hand_components[:, : self.config.num_hand_components]
        self._hand_components = self._real(components)
        self._hand_means = self._real(body.hand_means)

    def fit(self, targets: Sequence[FitTarget]) -> list[FitResult]:
        """Fit all persons, one after the other; a result for each, in order."""
        return [self._fit_one(target) for target in targets]

    def energy(
        self, target: FitTarget, params: dict[str, np.ndarray], stage: int = -1
    ) -> dict[str, float]:
        """Return the energy by term that any solver's parameters have in a stage.

        Args:
            target: The person.
            params: The fields of BodyParams, without batch dimension, as in FitResult.
            stage: Which of the configuration's stages; the last by default.
        """
        evidence = reference_evidence(target, self.dtype, self.device)
        batched = BodyParams(**{k: self._real(v)[None] for k, v in params.items()})
        with torch.no_grad():
            unknown = self._pose.of(batched.body_pose.flatten(-2))
            return self._terms(batched, unknown, evidence, self.config.stages[stage])

    # --- one person ----------------------------------------------------------------------------

    def _fit_one(self, target: FitTarget) -> FitResult:
        if problem := self._problem(target):
            return self._refused("too_few_keypoints", problem)
        evidence = reference_evidence(target, self.dtype, self.device)
        torso = self._torso(evidence)
        depth = self._first_depth(evidence, torso)
        if not math.isfinite(depth):
            return self._refused(
                "too_few_keypoints",
                "shoulders and hips do not span a trunk, and the camera is placed by it",
            )
        transl, orient, camera = self._place_camera(evidence, torso, depth)
        evaluations = camera.evaluations
        turns = [orient]
        if self._is_seen_from_the_side(evidence):
            half_turn = rotvec_to_rotmat(orient.new_tensor([[0.0, math.pi, 0.0]]))
            turns.append(rotmat_to_rotvec(rotvec_to_rotmat(orient) @ half_turn))
        attempts = []
        for turn in turns:
            attempt, spent = self._run_stages(evidence, transl, turn)
            attempts.append(attempt)
            evaluations += spent
        return self._result(target, attempts, evaluations)

    def _problem(self, target: FitTarget) -> str:
        """Say why a person cannot be fitted, or nothing."""
        body = [name for name in OPENPOSE_POINTS if keypoint_part(name) == "body"]
        if problem := find_problem(target, body, self.config.min_points):
            return problem
        height = target.height_px if np.isfinite(target.height_px) else 2 * target.center_px[1]
        if not height > 0:
            return f"the photo's height is {height} px; residuals are weighed by it"
        return ""

    def _torso(self, evidence: ReferenceEvidence) -> list[tuple[int, int]]:
        """The edges of the trunk that place the camera, in OpenPose's numbers."""
        edges = [(evidence.of(a), evidence.of(b)) for a, b in TORSO_EDGES]
        if self.config.use_missing_torso_points:
            return edges
        return [e for e in edges if all(evidence.confidence[point] > 0 for point in e)]

    def _first_depth(self, evidence: ReferenceEvidence, torso: list[tuple[int, int]]) -> float:
        """Metres at which the mean body's trunk looks as long as it does; NaN if that is 0."""
        with torch.no_grad():
            rest = self._mesh(self._params(self._variables())).keypoints[0]
        first, second = ([edge[k] for edge in torso] for k in (0, 1))
        joints = _openpose(rest)
        true_m = (joints[first] - joints[second]).norm(dim=-1).mean()
        seen_px = (evidence.points_px[first] - evidence.points_px[second]).norm(dim=-1).mean()
        return float(evidence.focal_px * true_m / seen_px) if seen_px > 1e-3 else math.nan

    def _place_camera(
        self, evidence: ReferenceEvidence, torso: list[tuple[int, int]], depth: float
    ) -> tuple[Tensor, Tensor, Descent]:
        """Find translation (1, 3) and orientation (1, 3) of the mean body by its trunk alone.

        From global_orient zero, which is upside down and facing away in a camera whose y points
        down. Confidences and robustness play no part. All published.
        """
        variables = self._variables()
        with torch.no_grad():
            variables["transl"][0, 2] = depth
        moving = [variables["transl"], variables["global_orient"]]
        points = sorted({point for edge in torso for point in edge})
        scale = (1000 / evidence.height_px) ** 2

        def loss() -> Tensor:
            params = self._params(variables)
            joints = _openpose(self._mesh(params).keypoints[0])[points]
            pixels = evidence.focal_px * joints[:, :2] / joints[:, 2:] + evidence.center_px
            data = (pixels - evidence.points_px[points]).square().sum()
            return scale * data + _W_DEPTH * (params.transl[0, 2] - depth).square()

        for variable in moving:
            variable.requires_grad_(True)
        descent = minimise_lbfgs(moving, loss, self.config)
        return variables["transl"].detach(), variables["global_orient"].detach(), descent

    def _is_seen_from_the_side(self, evidence: ReferenceEvidence) -> bool:
        left, right = evidence.of("left_shoulder"), evidence.of("right_shoulder")
        are_seen = bool((evidence.confidence[[left, right]] > 0).all())
        if not (are_seen or self.config.use_missing_torso_points):
            return True  # they do not say
        apart = (evidence.points_px[left] - evidence.points_px[right]).norm()
        return bool(apart < self.config.orientation_threshold_px)

    def _run_stages(
        self, evidence: ReferenceEvidence, transl: Tensor, orient: Tensor
    ) -> tuple[_Attempt, int]:
        """Anneal from the mean body; a new optimiser a stage."""
        variables = self._variables()
        variables["transl"], variables["global_orient"] = transl.clone(), orient.clone()
        moving = [
            variable.requires_grad_(True)
            for name, variable in variables.items()
            if name != "transl" or not self.config.freeze_translation
        ]
        evaluations = 0
        for stage in self.config.stages:

            def loss(stage: ReferenceStage = stage) -> Tensor:
                params = self._params(variables)
                terms = self._energy(params, variables["pose"], evidence, stage)
                return sum(terms.values()).sum()

            descent = minimise_lbfgs(moving, loss, self.config)
            evaluations += descent.evaluations
            if not math.isfinite(descent.loss):
                break
        with torch.no_grad():
            params = self._params(variables)
            terms = self._terms(params, variables["pose"], evidence, self.config.stages[-1])
        return _Attempt(params, terms, descent.loss, descent.converged), evaluations

    def _energy(
        self, params: BodyParams, pose: Tensor, evidence: ReferenceEvidence, stage: ReferenceStage
    ) -> dict[str, Tensor]:
        return reference_energy(
            self._mesh, params, evidence, stage, self.config, self._hand_means,
            lambda _: self._pose.penalty(pose), self._surface,
        )  # fmt: skip

    def _terms(
        self, params: BodyParams, pose: Tensor, evidence: ReferenceEvidence, stage: ReferenceStage
    ) -> dict[str, float]:
        terms = self._energy(params, pose, evidence, stage)
        return {name: float(value) for name, value in terms.items()}

    # --- unknowns ------------------------------------------------------------------------------

    def _variables(self) -> Variables:
        """Everything at zero, where the published solver starts each person, (1, n) each."""
        sizes = {
            "transl": 3, "global_orient": 3, "pose": self._pose.size, "betas": self.body.num_betas,
            "expression": self.body.num_expression, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3,
            "left_hand_pca": self.config.num_hand_components,
            "right_hand_pca": self.config.num_hand_components,
        }  # fmt: skip
        return {
            name: torch.zeros(1, size, dtype=self.dtype, device=self.device)
            for name, size in sizes.items()
        }

    def _params(self, variables: Variables) -> BodyParams:
        hands = {
            f"{side}_hand_pose": (
                self._hand_means[k] + variables[f"{side}_hand_pca"] @ self._hand_components[k]
            ).view(1, 15, 3)
            for k, side in enumerate(("left", "right"))
        }
        others = {k: v for k, v in variables.items() if k != "pose" and not k.endswith("_pca")}
        body_pose = self._pose.decode(variables["pose"]).view(1, 21, 3)
        return BodyParams(**others | hands | {"body_pose": body_pose})

    def _real(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array), dtype=self.dtype, device=self.device)

    # --- what is handed back -------------------------------------------------------------------

    def _result(self, target: FitTarget, attempts: list[_Attempt], evaluations: int) -> FitResult:
        energies = [a.stale if self.config.compare_stale_losses else a.energy for a in attempts]
        winner = int(np.argmin(np.nan_to_num(energies, nan=np.inf)))
        if self.config.save_last_orientation:
            winner = len(attempts) - 1
        best = attempts[winner]
        params = best.params.map(lambda x: x.detach().cpu().double())
        projected, height_px = self._project(params, target)
        residual = point_residuals(projected, target.keypoints_2d)
        arrays = {k: v[0].astype(np.float32) for k, v in params.numpy().items()}
        is_finite = math.isfinite(best.energy) and all(
            np.isfinite(v).all() for v in arrays.values()
        )
        status, reason = "ok", ""
        if not is_finite:
            status, reason = "solver_error", "the solver ended at values that are not numbers"
        elif not best.converged:
            calls = self.config.max_calls
            status, reason = "not_converged", f"the last stage was stopped after {calls} calls"
        others = [energy for k, energy in enumerate(energies) if k != winner]
        return FitResult(
            params=arrays,
            projected_2d=projected,
            residual_px=residual,
            residual_part_px=part_medians(residual),
            person_height_px=height_px,
            energy=best.terms,
            energy_total=best.energy,
            starts=ORIENTATIONS[: len(attempts)],
            start_energies=np.array(energies, np.float32),
            start_margin=others[0] / energies[winner] - 1 if others else math.nan,
            winner=ORIENTATIONS[winner],
            iterations=evaluations,
            status=status,
            reason=reason,
            self_penetration=self._contacts.measure_params(params)[0],
        )

    def _project(self, params: BodyParams, target: FitTarget) -> tuple[np.ndarray, float]:
        """All points (145, 2) that have a place on the body, and the person's height in pixels."""
        shape = torch.cat([params.betas, params.expression], 1)
        state = sliced_forward(self._all, params.full_pose, shape, params.transl)
        points = state.points[0].numpy()
        projected = np.full((len(FIT_KEYPOINTS), 2), np.nan, np.float32)
        rows = [FIT_KEYPOINTS.index(name) for name in self._all.points]
        projected[rows] = target.focal_px * points[:, :2] / points[:, 2:] + target.center_px
        tall = stature_m(self._all, shape)[0] * target.focal_px / params.transl[0, 2]
        return projected, float(tall)

    def _refused(self, status: str, reason: str) -> FitResult:
        unknown = self._params(self._variables()).map(lambda x: torch.full_like(x[0], math.nan))
        return FitResult.refused(unknown.numpy(), REFERENCE_TERMS, status, reason)


def _openpose(keypoints: Tensor) -> Tensor:
    """(K >= 127, 3) SMPL-X keypoints -> (118, 3)."""
    return keypoints[list(MODEL_JOINTS)]
