"""How good a model is on held-out examples, in the units people know."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.metrics import procrustes_align
from bodymodel.spec import BODY_JOINTS, keypoint_part
from regressor.augment import SOURCE_MARGIN, AugmentConfig, make_batch
from regressor.examples import Example, ExampleSource, Modality, modality_of
from regressor.expose import Expose
from regressor.kinematics import BodyPoints
from regressor.part_only import regress_part
from regressor.protocols import pck

_PCK = 0.05  # of the person's box
_SEEN = 0.1
_ORDER = (
    "pa_mpjpe_mm", "error_2d_pct", "pck_error", "hand_pa_mm", "face_pa_mm", "part_2d_pct",
    "hand_only_pa_mm", "head_only_pa_mm", "hand_only_2d_pct", "head_only_2d_pct",
)  # fmt: skip


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
        hand's points, ``face_pa_mm``; in per cent of the box ``error_2d_pct`` (mean over keypoints
        of the body) and ``part_2d_pct`` (of hands and face); ``pck_error`` = 1 - PCK at 5 % of the
        box; of hands and heads alone ``hand_only_pa_mm``, ``head_only_pa_mm``,
        ``hand_only_2d_pct``, ``head_only_2d_pct`` of their box. Means over persons; a figure
        without a label is absent, and so is one of parts that the model does not have. The first
        is what best means, in this order.
    """
    sums: dict[str, list[float]] = {}
    device = next(model.parameters()).device
    for source, indices in zip(sources, held_out, strict=True):
        modality = modality_of(source)
        if modality is not Modality.BODY and not model.config.parts:
            continue
        chosen = list(indices)
        if len(chosen) > most:
            chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, most).astype(int)]
        for first in range(0, len(chosen), batch):
            examples = [source[k] for k in chosen[first : first + batch]]
            if modality is Modality.BODY:
                found = _of_people(model, examples, source_size, device)
            else:
                found = _of_parts(model, modality, examples, device)
            for name, values in found.items():
                sums.setdefault(name, []).extend(values[torch.isfinite(values)].tolist())
    return {name: float(np.mean(sums[name])) for name in _ORDER if sums.get(name)}


def led_by_parts(figures: dict[str, float]) -> dict[str, float]:
    """Return the figures with one in front that hands and heads decide.

    The body's own do not change while hands and head learn, so neither could tell which weights
    are best nor when to stop. It is the mean of what is known of the parts: ``parts_pa_mm``, or
    ``parts_2d_pct`` where nothing in 3D is.
    """
    for unit in ("pa_mm", "2d_pct"):
        own = [v for k, v in figures.items() if k.endswith(unit) and k != "error_2d_pct"]
        if own:
            return {f"parts_{unit}": float(np.mean(own)), **figures}
    return figures


def _of_people(
    model: Expose, examples: Sequence[Example], source_size: int, device: torch.device
) -> dict[str, Tensor]:
    made = make_batch(
        examples,
        AugmentConfig.none(),
        model.config.body_size,
        source_size,
        np.random.default_rng(0),
    ).to(device)
    final = model(made.pictures).final
    box = torch.tensor([e.side_px for e in examples], device=device)
    targets = made.targets
    return person_figures(
        model.points, final.points, final.points_px, targets.keypoints_3d, targets.keypoints_2d, box
    )


def _of_parts(
    model: Expose, modality: Modality, examples: Sequence[Example], device: torch.device
) -> dict[str, Tensor]:
    """Of hands or heads alone, from the mean."""
    config = model.config
    size = config.hand_size if modality is Modality.HAND else config.head_size
    made = make_batch(
        examples, AugmentConfig.of(modality).plain(), size, round(SOURCE_MARGIN * size),
        np.random.default_rng(0),
    ).to(device)  # fmt: skip
    found = regress_part(model, modality, made.pictures)
    rows = [FIT_KEYPOINTS.index(model.point_names[k]) for k in found.of]
    known_2d = made.targets.keypoints_2d[:, rows]
    known_3d = made.targets.keypoints_3d[:, rows]
    box = torch.tensor([e.side_px for e in examples], device=device)
    points_px = made.pictures.body_crop.from_unit(found.points_unit)
    off = (points_px - known_2d[..., :2]).norm(dim=-1) / box[:, None]
    name = f"{modality.value}_only"
    return {
        f"{name}_pa_mm": _aligned_mm(found.points, known_3d),
        f"{name}_2d_pct": 100 * _mean(off, known_2d[..., 2] > _SEEN),
    }


def _aligned_mm(points: Tensor, known: Tensor) -> Tensor:
    """(B,) mean distance after a similarity; NaN where less than four of (B, P, 4) are known."""
    valid = known[..., 3] > 0
    moved = procrustes_align(points, known[..., :3], valid)
    apart = 1000 * (moved - known[..., :3]).norm(dim=-1)
    return torch.where(valid.sum(1) >= 4, _mean(apart, valid), torch.nan)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """(B, P) -> (B,) over some of them, NaN where there are none."""
    count = where.sum(1)
    total = torch.where(where, values, 0).sum(1)
    return torch.where(count > 0, total / count.clamp_min(1), torch.nan)


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
    joints = [k for k, name in enumerate(names) if name in BODY_JOINTS]
    hands = [
        [k for k, name in enumerate(names) if keypoint_part(name) == f"{side}_hand"]
        for side in ("left", "right")
    ]
    face = [k for k, name in enumerate(names) if keypoint_part(name) == "face"]
    body_points = torch.tensor([keypoint_part(n) == "body" for n in names], device=points.device)
    seen = (known_2d[..., 2] > _SEEN) & body_points
    off = (points_px - known_2d[..., :2]).norm(dim=-1) / box_px[:, None]
    right = pck(torch.where(seen, off, torch.nan).cpu().numpy(), _PCK, axis=1)

    def aligned(which: list[int]) -> Tensor:
        return _aligned_mm(points[:, which], known_3d[:, which])

    return {
        "pa_mpjpe_mm": aligned(joints),
        "hand_pa_mm": (aligned(hands[0]) + aligned(hands[1])) / 2,
        "face_pa_mm": aligned(face),
        "error_2d_pct": 100 * _mean(off, seen),
        "part_2d_pct": 100 * _mean(off, (known_2d[..., 2] > _SEEN) & ~body_points),
        "pck_error": 1 - torch.from_numpy(right),
    }
