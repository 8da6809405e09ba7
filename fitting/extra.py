"""Evidence beyond one photo's keypoints, gathered for a batch: 3D keypoints, further views."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bodymodel.depth_spans import DepthSpans
from bodymodel.keypoints import FIT_KEYPOINTS, LOOSE_POINTS
from bodymodel.rotations import rotmat_to_rotvec
from bodymodel.sliced import SlicedBody, sliced_forward
from fitting.config import FitConfig, StageConfig
from fitting.data_term import Evidence
from fitting.depth import DepthTerm, lines_of_sight
from fitting.points3d import Points3DTerm
from fitting.priors import BodyPrior
from fitting.records import FitTarget
from fitting.rigid import align
from fitting.starts import image_roll
from fitting.state import Layout
from fitting.views import ViewsTerm, stack_views, triangulate

__all__ = [
    "SeenTerm",
    "at_stage",
    "depth_terms",
    "find_extra_problem",
    "has_2d",
    "has_extra",
    "residual_3d_mm",
    "seen_terms",
    "start_from_points",
    "weighted",
]

SeenTerm = Points3DTerm | ViewsTerm | DepthTerm
"""What the photo's own points are not."""

_LEAST_POINTS = 4  # in space, to tell how a person is turned


def has_2d(target: FitTarget) -> bool:
    """Whether the first view shows anything."""
    points = np.asarray(target.keypoints_2d)
    return bool((np.isfinite(points).all(-1) & (points[:, 2] > 0)).any())


def has_extra(target: FitTarget) -> bool:
    """Whether there is more than one photo."""
    return bool(target.views) or target.keypoints_3d is not None


def find_extra_problem(
    target: FitTarget, names: Collection[str], min_points: int, min_confidence: float
) -> str:
    """Say why a person with more evidence than one photo cannot be fitted, or nothing.

    Args:
        target: The person.
        names: Points of the body that count.
        min_points: Fewest of them, in all the evidence together.
        min_confidence: Points below it are not used.

    Raises:
        ValueError: If an array has another shape than its docstring says.
    """
    count = len(FIT_KEYPOINTS)
    sets = [(np.asarray(v.keypoints_2d), (count, 3)) for v in (target, *target.views)]
    if target.keypoints_3d is not None:
        sets.append((np.asarray(target.keypoints_3d), (count, 4)))
    for points, shape in sets:
        if points.shape != shape:
            what = "keypoints_2d" if shape[1] == 3 else "keypoints_3d"
            raise ValueError(f"{what} must be {shape} in the 'fit' convention, got {points.shape}")
    for view in (target, *target.views) if has_2d(target) or target.views else ():
        if not (np.isfinite(view.focal_px) and view.focal_px > 0):
            return f"the focal length is {view.focal_px} px; it must be positive"
        if not np.isfinite(view.center_px).all():
            return "the principal point is not a number"
    rows = [FIT_KEYPOINTS.index(name) for name in names]
    seen = np.any([np.isfinite(p).all(-1) & (p[:, -1] >= min_confidence) for p, _ in sets], axis=0)
    if seen[rows].sum() < min_points:
        return f"{seen[rows].sum()} points of the body are seen, at least {min_points} are needed"
    return ""


def _own_weight(sliced: SlicedBody, config: FitConfig) -> np.ndarray:
    return np.array([config.loose_weight if n in LOOSE_POINTS else 1 for n in sliced.points])


def _points_3d(target: FitTarget, config: FitConfig) -> np.ndarray:
    """(145, 4) with zero confidence where a point is not to be used."""
    if target.keypoints_3d is None:
        return np.zeros((len(FIT_KEYPOINTS), 4))
    points = np.asarray(target.keypoints_3d, np.float64)
    seen = np.isfinite(points).all(-1) & (points[:, 3] >= config.min_confidence)
    return np.where(seen[:, None], points, 0)


def seen_terms(
    targets: Sequence[FitTarget], sliced: SlicedBody, config: FitConfig, unit: Tensor
) -> tuple[Points3DTerm | ViewsTerm, ...]:
    """Return the terms of a batch's further evidence; none if there is none.

    Args:
        targets: B persons.
        sliced: The points that are fitted.
        config: Weights.
        unit: (B,) residual units per pixel of the first view.
    """
    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    own = _own_weight(sliced, config)

    def real(x) -> Tensor:
        return torch.as_tensor(np.asarray(x), dtype=unit.dtype, device=unit.device)

    terms: list[Points3DTerm | ViewsTerm] = []
    if any(t.keypoints_3d is not None for t in targets):
        points = np.stack([_points_3d(t, config)[rows] for t in targets])
        is_free = [t.frame_3d == "free" and (has_2d(t) or bool(t.views)) for t in targets]
        terms.append(
            Points3DTerm(
                real(points[..., :3]),
                real(points[..., 3] ** 2 * own * config.w_points_3d),
                torch.tensor(is_free, device=unit.device),
            )
        )
    if any(t.views for t in targets):
        arrays = stack_views(targets, rows, config.min_confidence, own)
        pixels = np.ones(arrays["focal_px"].shape)  # of the view per pixel of the first
        for b, target in enumerate(targets):
            place = _middle(triangulate(target, config.min_confidence))
            for v, view in enumerate(target.views):
                z = (np.asarray(view.rotation) @ place + view.translation)[2]
                ratio = place[2] / z if place[2] > 0 and z > 0 else 1.0
                pixels[b, v] = view.focal_px / target.focal_px * ratio
        fields = {name: real(value) for name, value in arrays.items()}
        terms.append(ViewsTerm(**fields, unit=unit[:, None] / real(pixels)))
    return tuple(terms)


def _middle(points: np.ndarray) -> np.ndarray:
    seen = points[:, 3] > 0
    return np.median(points[seen, :3], axis=0) if seen.any() else np.zeros(3)


def start_from_points(
    x: Tensor,
    targets: Sequence[FitTarget],
    sliced: SlicedBody,
    layout: Layout,
    prior: BodyPrior,
    config: FitConfig,
) -> Tensor:
    """Place the starts of persons of whom points in space are known, and turn the first so.

    Args:
        x: (B, C, size) the starts by heading.
        targets: The persons.
        sliced: The points of the body.
        layout: Of the states.
        prior: Whose mean pose the starts have.
        config: What counts as seen.
    """
    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    known = np.zeros((len(targets), len(rows), 4))
    for b, target in enumerate(targets):
        if target.keypoints_3d is not None and (target.frame_3d == "camera" or not has_2d(target)):
            known[b] = _points_3d(target, config)[rows]
        elif target.views:
            known[b] = triangulate(target, config.min_confidence)[rows]
    usable = torch.tensor((known[..., 3] > 0).sum(1) >= _LEAST_POINTS, device=x.device)
    if not usable.any():
        return x
    points = torch.as_tensor(known[..., :3], dtype=x.dtype, device=x.device)
    weights = torch.as_tensor(known[..., 3], dtype=x.dtype, device=x.device)

    def place(state: Tensor) -> Tensor:
        return sliced_forward(
            sliced, layout.full_pose(state), layout.shape(state), layout.transl(state)
        ).points

    root, transl = layout.slices["global_orient"], layout.slices["transl"]
    placed = x.clone()
    placed[:, :, transl] = 0
    straight = placed[:, 0].clone()
    straight[:, root] = 0
    turn, _ = align(place(straight), points, weights)
    placed[:, 0, root] = rotmat_to_rotvec(turn)
    share = (weights / weights.sum(1, keepdim=True).clamp_min(1e-9))[..., None]
    for c in range(x.shape[1]):
        placed[:, c, transl] = (share * (points - place(placed[:, c]))).sum(1)
    return torch.where(usable[:, None, None], placed, x)


def residual_3d_mm(target: FitTarget, rows: Sequence[int], places: np.ndarray) -> np.ndarray | None:
    """Return the distances to the 3D keypoints, (145,) mm, NaN where there is none.

    Args:
        target: The person; None is returned if they have no 3D keypoints.
        rows: Which keypoints the places are.
        places: (P, 3) where the fit has them.
    """
    if target.keypoints_3d is None:
        return None
    points = np.asarray(target.keypoints_3d, np.float64)[list(rows)]
    seen = np.isfinite(points).all(-1) & (points[:, 3] > 0)
    goal = np.where(seen[:, None], points[:, :3], 0)
    if target.frame_3d == "free" and has_2d(target):
        weight = torch.from_numpy(np.where(seen, points[:, 3] ** 2, 0))
        turn, shift = align(torch.from_numpy(goal), torch.from_numpy(places), weight)
        goal = goal @ turn.numpy().T + shift.numpy()
    out = np.full(len(FIT_KEYPOINTS), np.nan, np.float32)
    distance = 1000 * np.linalg.norm(places - goal, axis=-1)
    out[list(rows)] = np.where(seen, distance, np.nan)
    return out


def weighted(terms: Sequence[SeenTerm], factor: Tensor) -> tuple[SeenTerm, ...]:
    """Return the terms with the points' weights, where they have any, times ``factor`` (P,)."""
    return tuple(
        term if isinstance(term, DepthTerm) else replace(term, weights=term.weights * factor)
        for term in terms
    )


def depth_terms(
    targets: Sequence[FitTarget],
    depth: DepthSpans,
    trunk: DepthSpans,
    coarse: SlicedBody,
    evidence: Evidence,
) -> tuple[DepthTerm, ...]:
    """Return what is known of depth beside one photo; nothing if there is more than one photo.

    Args:
        targets: B persons.
        depth: The spans of the body.
        trunk: That of the trunk alone, for people of whom nobody guessed the depth.
        coarse: The points of the body that ``evidence`` is of.
        evidence: The photo, focal lengths and units set.
    """
    if any(has_extra(target) for target in targets):
        return ()
    nothing = np.full((len(FIT_KEYPOINTS), 3), np.nan, np.float32)
    world = [nothing if t.world_points is None else t.world_points for t in targets]
    confidence = np.stack([t.keypoints_2d[:, 2] for t in targets])
    like = evidence.points_px

    def real(x) -> Tensor:
        return torch.as_tensor(x, dtype=like.dtype, device=like.device)

    return (
        DepthTerm.of(
            trunk if all(t.world_points is None for t in targets) else depth,
            real(np.stack(world)),
            real(np.nan_to_num(confidence)),
            lines_of_sight(evidence),
            image_roll(coarse, evidence),
        ),
    )


def at_stage(terms: Sequence[SeenTerm], stage: StageConfig) -> tuple[SeenTerm, ...]:
    """Return the terms as a stage weighs them, without those that it leaves out."""
    now = (term.at_stage(stage) if isinstance(term, DepthTerm) else term for term in terms)
    return tuple(term for term in now if term is not None)
