"""Bring the lifter's answers onto the keypoints that it saw, without leaving the answers' side.

A network that says a body in one go is a few per cent of the person off in the picture. What it
says of depth is worth more than what it says of the picture, where the keypoints are: so each
answer takes a few damped Gauss-Newton steps on where its points are seen, tied to what the network
said as tightly as the network is usually right (``AlignConfig``, measured), and the answer that
ends cheapest is taken. That is no fit: there is no prior but the network, nobody is turned round,
and fingers and face stay as they were said.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.fit_points import fit_points
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.params import BodyParams
from bodymodel.rotations import compose_rotvecs
from bodymodel.sliced import SlicedBody, slice_body, sliced_forward, sliced_jacobian
from bodymodel.spec import keypoint_part
from regressor.lifter.depth import DepthKnown, DepthPull
from regressor.lifter.network import NUM_BODY_ROTATIONS

__all__ = ["ALIGN_POINTS", "AlignConfig", "Aligned", "Aligner", "place"]

_KNUCKLES = ("index1", "middle1", "ring1", "pinky1", "thumb1")
ALIGN_POINTS: tuple[str, ...] = tuple(
    name
    for name in FIT_KEYPOINTS
    if keypoint_part(name) == "body" or name.split("_", 1)[-1] in _KNUCKLES
)
"""The body's points, and the knuckles, which turn the wrists."""

_ROWS = [FIT_KEYPOINTS.index(name) for name in ALIGN_POINTS]
_NEAREST_M = 0.1  # no point counts as nearer to the camera than this
_NUM_POSE = 3 * NUM_BODY_ROTATIONS
_DAMPING_START, _DAMPING_UP, _DAMPING_DOWN = 1e-2, 10.0, 0.2


@dataclass(frozen=True)
class AlignConfig:
    """How far answers may go, and how.

    Attributes:
        steps: Of all answers, before one is chosen.
        last_steps: Of the chosen one.
        noise: Of keypoints, share of the person's size.
        outlier: Residual in units of the noise from which a point counts less and less.
        spread_rad: How far a joint's rotation is off the truth, root mean square by axis.
        spread_betas: The same of betas, in standard deviations.
        score: Weight of the network's own choice among the answers.
        upright: How far trunks lean to the camera or away, root mean square of the sine, where they
            are upright in the picture; the pull lets go of who leans much farther.
    """

    steps: int = 3
    last_steps: int = 4
    noise: float = 0.015
    outlier: float = 4.0
    spread_rad: float = 0.3
    spread_betas: float = 1.0
    score: float = 1.0
    upright: float = 0.2


@dataclass(frozen=True, eq=False)
class Aligned:
    """Bodies of B persons.

    Attributes:
        params: With leading dimension B.
        choice: (B,) which answer each was, 0 the likeliest.
        cost: (B,) at the end, in units of the noise; to compare answers for one person.
    """

    params: BodyParams
    choice: Tensor
    cost: Tensor


class Aligner:
    """Takes answers to keypoints.

    Args:
        body: The answers' body.
        config: How.
        device: Where it runs.
    """

    def __init__(
        self, body: BodyData, config: AlignConfig | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.body = body
        self.config = config or AlignConfig()
        self.device = torch.device(device)
        self._sliced = lru_cache(maxsize=8)(self._slice)
        self._depth = DepthPull(body, self.config.upright, self.device)

    def _slice(self, conventions: tuple[str, ...]) -> SlicedBody:
        # correctives below a millimetre move no point by as much as a keypoint is off
        return slice_body(
            self.body, ALIGN_POINTS, places=fit_points(self.body, conventions),
            device=self.device, corrective_tolerance=1e-3,
        )  # fmt: skip

    @torch.inference_mode()
    def __call__(
        self,
        answers: BodyParams,
        scores: Tensor,
        keypoints_2d: Tensor,
        focal_px: Tensor,
        center_px: Tensor,
        conventions: tuple[str, ...] = (),
        world: Tensor | None = None,
    ) -> Aligned:
        """Align the answers of B persons and choose one for each.

        Args:
            answers: With leading dimensions (B, K).
            scores: (B, K) logits of which answer is right.
            keypoints_2d: (B, 145, 3) ``fit`` convention: x px, y px, confidence.
            focal_px: (B,).
            center_px: (B, 2).
            conventions: Where the points lie on the body, as in bodymodel.fit_points.
            world: (B, 145, 3) a detector's 3D guess of them, metres, any origin, axes of the
                camera; NaN where there is none. None for nobody's.
        """
        config = self.config
        batch, count = scores.shape
        points, focal, center = (
            x.to(self.device, torch.float32) for x in (keypoints_2d[:, _ROWS], focal_px, center_px)
        )
        rays = (points[..., :2] - center[:, None]) / focal[:, None, None]
        weight = torch.where(torch.isfinite(rays).all(-1), points[..., 2], 0).clamp(0, 1)
        rays = torch.where(weight[..., None] > 0, rays, 0)
        unit = config.noise * _size(rays, weight)

        def each(x: Tensor) -> Tensor:
            return x.repeat_interleave(count, 0)

        flat = answers.map(lambda x: x.flatten(0, 1).to(self.device, torch.float32))
        pose, shape = flat.full_pose, torch.cat([flat.betas, flat.expression], 1)
        if world is None:
            world = torch.full((*keypoints_2d.shape[:2], 3), torch.nan)
        middle = (weight[..., None] * rays).sum(1) / weight.sum(1, keepdim=True).clamp_min(1e-6)
        sight = torch.nn.functional.normalize(torch.nn.functional.pad(middle, (0, 1), value=1.0))
        known = self._depth.known(
            pose, shape, each(sight), each(world.to(rays)), each(keypoints_2d[..., 2].to(rays))
        )
        problem = _Problem(
            self._sliced(conventions), self._depth, config, each(rays), each(weight), each(unit),
            pose, shape, known, flat.betas.shape[1],
        )  # fmt: skip
        state = _descend(problem, problem.begin(), config.steps)
        cost = state.cost.view(batch, count) - config.score * scores.log_softmax(-1)
        choice = cost.nan_to_num(torch.inf).argmin(1)
        chosen = torch.arange(batch, device=self.device) * count + choice
        problem = problem.take(chosen)
        state = _descend(problem, state.take(chosen), config.last_steps)
        betas, expression = state.shape.split([problem.num_betas, flat.expression.shape[1]], 1)
        params = flat.map(lambda x: x[chosen]).with_full_pose(state.pose)
        params = replace(params, betas=betas, expression=expression, transl=state.transl)
        return Aligned(params, choice, state.cost)


def _size(rays: Tensor, weight: Tensor) -> Tensor:
    """(B,) about the height of a person, in the rays' units."""
    total = weight.sum(1).clamp_min(1e-6)
    middle = (weight[..., None] * rays).sum(1) / total[:, None]
    off = (rays - middle[:, None]).square().sum(-1)
    return 3.3 * ((weight * off).sum(1) / total).sqrt().clamp_min(1e-5)


def place(points: Tensor, rays: Tensor, weight: Tensor) -> Tensor:
    """Return where bodies stand so that a camera at the origin sees their points along rays.

    ``x + tx = u (z + tz)`` and the same of y are linear in the translation: weighted least squares.

    Args:
        points: (B, P, 3) metres, around the origin, camera axes.
        rays: (B, P, 2) x / z and y / z.
        weight: (B, P); where it is 0 a point does not count.

    Returns:
        (B, 3) metres; NaN where fewer than two points are seen.
    """
    w = weight / weight.sum(1, keepdim=True)
    mean_ray = (w[..., None] * rays).sum(1)
    apart = rays - mean_ray[:, None]
    wanted = rays * points[..., 2:] - points[..., :2]
    mean_wanted = (w[..., None] * wanted).sum(1)
    # with tx, ty put in, one unknown is left
    depth = -(w[..., None] * apart * (wanted - mean_wanted[:, None])).sum((1, 2))
    depth = depth / (w[..., None] * apart.square()).sum((1, 2))
    return torch.cat([mean_wanted + mean_ray * depth[:, None], depth[:, None]], 1)


@dataclass(frozen=True, eq=False)
class _State:
    pose: Tensor  # (N, 55, 3)
    shape: Tensor  # (N, S)
    transl: Tensor  # (N, 3)
    turned: Tensor  # (N, 3) the root against the answer's, camera axes
    cost: Tensor  # (N,)
    gradient: Tensor  # (N, U)
    matrix: Tensor  # (N, U, U)

    def take(self, index: Tensor) -> "_State":
        return _State(**{k: v[index] for k, v in vars(self).items()})

    def where(self, better: Tensor, other: "_State") -> "_State":
        """Take the other where it is better."""
        return _State(
            **{
                k: torch.where(better.view(-1, *[1] * (v.ndim - 1)), getattr(other, k), v)
                for k, v in vars(self).items()
            }
        )


@dataclass(frozen=True, eq=False)
class _Problem:
    """N answers; unknown are root and body rotations, betas, and the translation."""

    sliced: SlicedBody
    depth: DepthPull
    config: AlignConfig
    rays: Tensor  # (N, P, 2)
    weight: Tensor  # (N, P)
    unit: Tensor  # (N,) noise, in the rays' units
    pose: Tensor  # (N, 55, 3) as answered
    shape: Tensor  # (N, S) as answered
    known: DepthKnown
    num_betas: int

    def take(self, index: Tensor) -> "_Problem":
        names = ("rays", "weight", "unit", "pose", "shape")
        some = {name: getattr(self, name)[index] for name in names}
        return replace(self, known=self.known.take(index), **some)

    def begin(self) -> _State:
        """Start as answered, placed anew."""
        zero = self.pose.new_zeros(len(self.pose), 3)
        points = sliced_forward(self.sliced, self.pose, self.shape, zero).points
        transl = place(points, self.rays, self.weight)
        behind = ~((points[..., 2] + transl[:, 2:]).amin(1) > _NEAREST_M)
        away = zero.clone()
        away[:, 2] = 3.0
        transl = torch.where(behind[:, None], away, transl)
        return self.at(self.pose, self.shape, transl, zero)

    def step(self, state: _State, delta: Tensor) -> _State:
        turn, body, betas, transl = delta.split([3, _NUM_POSE - 3, self.num_betas, 3], 1)
        pose = state.pose.clone()
        pose[:, 0] = compose_rotvecs(turn, pose[:, 0])
        pose[:, 1:NUM_BODY_ROTATIONS] += body.unflatten(1, (-1, 3))
        shape = state.shape.clone()
        shape[:, : self.num_betas] += betas
        turned = compose_rotvecs(turn, state.turned)
        return self.at(pose, shape, state.transl + transl, turned)

    def at(self, pose: Tensor, shape: Tensor, transl: Tensor, turned: Tensor) -> _State:
        """Cost, gradient and Gauss-Newton matrix."""
        config, sliced = self.config, self.sliced
        posed = sliced_forward(sliced, pose, shape, transl)
        depth = posed.points[..., 2:].clamp_min(_NEAREST_M)
        seen = posed.points[..., :2] / depth
        scale = 1 / self.unit[:, None, None]
        off = (seen - self.rays) * scale
        squared = off.square().sum(-1)
        limit = config.outlier**2
        # Geman & McClure 1987
        cost = (self.weight * squared * limit / (limit + squared)).sum(1)
        strength = (self.weight * (limit / (limit + squared)).square()).sqrt()[..., None]

        inverse, zero = scale / depth, torch.zeros_like(depth)
        rows = torch.stack(
            [
                torch.cat([inverse, zero, -inverse * seen[..., :1]], -1),
                torch.cat([zero, inverse, -inverse * seen[..., 1:]], -1),
            ],
            2,
        )
        rows = rows * strength[..., None]
        residual = (off * strength).flatten(1)
        by_pose, by_shape, by_place = sliced_jacobian(sliced, posed, rows, root_on_manifold=True)
        by_pose = by_pose[:, :, :NUM_BODY_ROTATIONS].flatten(2)
        jacobian = torch.cat([by_pose, by_shape[..., : self.num_betas], by_place], -1)

        tie = pose.new_zeros(jacobian.shape[-1])
        tie[:_NUM_POSE] = config.spread_rad**-2
        tie[_NUM_POSE : _NUM_POSE + self.num_betas] = config.spread_betas**-2
        moved = (pose - self.pose)[:, 1:NUM_BODY_ROTATIONS].flatten(1)
        grown = (shape - self.shape)[:, : self.num_betas]
        away = torch.cat([turned, moved, grown, torch.zeros_like(transl)], 1)
        cost = cost + (tie * away.square()).sum(1)
        gradient = (jacobian.mT @ residual[..., None])[..., 0] + tie * away
        matrix = jacobian.mT @ jacobian + torch.diag(tie)
        pull, slope, curve = self.depth.term(pose, shape, self.known, self.num_betas)
        return _State(pose, shape, transl, turned, cost + pull, gradient + slope, matrix + curve)


def _descend(problem: _Problem, state: _State, steps: int) -> _State:
    """Levenberg-Marquardt, each answer with its own damping."""
    damping = torch.full_like(state.cost, _DAMPING_START)
    for _ in range(steps):
        matrix = state.matrix.clone()
        diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
        diagonal += damping[:, None] * diagonal + 1e-6
        factor, failed = torch.linalg.cholesky_ex(matrix)
        delta = -torch.cholesky_solve(state.gradient[..., None], factor)[..., 0]
        trial = problem.step(state, delta)
        better = (trial.cost < state.cost) & (failed == 0)
        state = state.where(better, trial)
        damping = damping * torch.where(better, _DAMPING_DOWN, _DAMPING_UP)
    return state
