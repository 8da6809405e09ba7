"""How good a model is on held-out examples, in the units people know."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.metrics import procrustes_align
from bodymodel.spec import BODY_JOINTS, keypoint_part
from regressor.augment import AugmentConfig, make_batch
from regressor.examples import ExampleSource
from regressor.expose import Expose
from regressor.kinematics import BodyPoints

_PCK = 0.05  # of the person's box


def held_out_figures(
    model: Expose,
    sources: Sequence[ExampleSource],
    held_out: Sequence[Sequence[int]],
    batch: int,
    source_size: int,
    most: int = 256,
) -> dict[str, float]:
    """Return the figures of a model on held-out examples, as many as there are labels for.

    Args:
        model: In eval mode.
        sources: Data sets.
        held_out: Indices of each.
        batch: Examples at a time.
        source_size: Side of the pixels at hand.
        most: Examples of each source; spread evenly over what is held out.

    Returns:
        ``pa_mpjpe_mm`` of the body's joints against ``keypoints_3d``, ``hand_pa_mm`` of each
        hand's points, ``face_pa_mm``, ``error_2d_pct`` of the box (mean over keypoints of the
        body), ``pck_error`` = 1 - PCK at 5 % of the box. Means over persons; a figure without a
        label is absent. The first is what best means: pa_mpjpe_mm, else error_2d_pct.
    """
    sums: dict[str, list[float]] = {}
    device = next(model.parameters()).device
    rng = np.random.default_rng(0)
    for source, indices in zip(sources, held_out, strict=True):
        chosen = list(indices)
        if len(chosen) > most:
            chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, most).astype(int)]
        for first in range(0, len(chosen), batch):
            examples = [source[k] for k in chosen[first : first + batch]]
            made = make_batch(
                examples, AugmentConfig.none(), model.config.body_size, source_size, rng
            ).to(device)
            output = model(made.pictures)
            box = torch.tensor([e.side_px for e in examples], device=device)
            found = person_figures(
                model.points,
                output.final.points,
                output.final.points_px,
                made.targets.keypoints_3d,
                made.targets.keypoints_2d,
                box,
            )
            for name, values in found.items():
                sums.setdefault(name, []).extend(values[torch.isfinite(values)].tolist())
    order = ("pa_mpjpe_mm", "error_2d_pct", "pck_error", "hand_pa_mm", "face_pa_mm")
    return {name: float(np.mean(sums[name])) for name in order if sums.get(name)}


def person_figures(
    body: BodyPoints,
    points: Tensor,
    points_px: Tensor,
    truth_3d: Tensor,
    truth_2d: Tensor,
    box_px: Tensor,
) -> dict[str, Tensor]:
    """Return figures (B,) of each person, NaN where there is no label.

    Args:
        body: Which points there are.
        points: (B, P, 3) metres.
        points_px: (B, P, 2).
        truth_3d: (B, 145, 4).
        truth_2d: (B, 145, 3).
        box_px: (B,) side of the person's box.
    """
    names = body.names
    rows = [FIT_KEYPOINTS.index(name) for name in names]
    known_3d, known_2d = truth_3d[:, rows], truth_2d[:, rows]
    seen_2d = known_2d[..., 2] > 0.1

    def aligned(which: list[int]) -> Tensor:
        valid = known_3d[:, which, 3] > 0
        moved = procrustes_align(points[:, which], known_3d[:, which, :3], valid)
        apart = (moved - known_3d[:, which, :3]).norm(dim=-1)
        mean = (apart * valid).sum(1) / valid.sum(1).clamp_min(1)
        return torch.where(valid.sum(1) >= 4, 1000 * mean, torch.nan)

    joints = [k for k, name in enumerate(names) if name in BODY_JOINTS]
    hands = [
        [k for k, name in enumerate(names) if keypoint_part(name) == f"{side}_hand"]
        for side in ("left", "right")
    ]
    face = [k for k, name in enumerate(names) if keypoint_part(name) == "face"]
    body_points = torch.tensor([keypoint_part(n) == "body" for n in names], device=points.device)
    seen = seen_2d & body_points
    off = (points_px - known_2d[..., :2]).norm(dim=-1) / box_px[:, None]
    count = seen.sum(1)

    def mean(values: Tensor) -> Tensor:
        total = torch.where(seen, values, 0).sum(1)
        return torch.where(count > 0, total / count.clamp_min(1), torch.nan)

    return {
        "pa_mpjpe_mm": aligned(joints),
        "hand_pa_mm": (aligned(hands[0]) + aligned(hands[1])) / 2,
        "face_pa_mm": aligned(face),
        "error_2d_pct": 100 * mean(off),
        "pck_error": mean((off > _PCK).float()),
    }
