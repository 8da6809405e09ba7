"""Clips: frames are searched alone, then one path through their answers is solved as a whole."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bodymodel.keypoints import FIT_KEYPOINTS
from fitting.candidates import Candidates, measure, settle
from fitting.clip import choose_path, minimise_clip, motion_matrix
from fitting.energy import Energy, Term
from fitting.evidence import fine_slice, further_terms, gather_points, stage_energy
from fitting.focal_term import FocalTerm
from fitting.prepared import PreparedBody
from fitting.records import FitTarget
from fitting.search import Chosen, Search, search_answers

__all__ = ["alike_frames", "group_clips", "search_clip"]

_FOLLOW_ITERATIONS = 10  # from the answer of a frame to that of the next


def group_clips(targets: Sequence[FitTarget], usable: Sequence[int]) -> list[list[int]]:
    """Return the usable targets of each clip, in the order of their frames.

    Raises:
        ValueError: If a clip has a frame twice.
    """
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


def alike_frames(targets: Sequence[FitTarget]) -> Sequence[FitTarget]:
    """Give every frame 3D keypoints, none of them seen, if any has some."""
    if all(target.keypoints_3d is None for target in targets):
        return targets
    none = np.zeros((len(FIT_KEYPOINTS), 4))
    return [t if t.keypoints_3d is not None else replace(t, keypoints_3d=none) for t in targets]


def search_clip(
    prepared: PreparedBody, targets: Sequence[FitTarget], chunk: int
) -> tuple[Search, Chosen]:
    """Solve frames of one person together.

    Args:
        prepared: The body.
        targets: The frames, in order; alike (alike_frames).
        chunk: How many of them are searched at once.

    Returns:
        What was found frame by frame, and the answers as a whole. All of these have converged or
        none.
    """
    config, layout = prepared.config, prepared.layout
    chunks = [targets[k : k + chunk] for k in range(0, len(targets), chunk)]
    search = Search.join([search_answers(prepared, chunk) for chunk in chunks])
    alone, order = search.kept.best()
    frames = [t.frame for t in targets]
    energy = _clip_energy(prepared, targets, search, alone.x[:, 0])
    x, path = _follow(prepared, search, energy, order, frames)

    shared = layout.columns("betas").tolist()
    if energy.evidence.focal_free is not None and bool(energy.evidence.focal_free.any()):
        shared.append(layout.log_focal)
    shared = torch.tensor(shared, device=prepared.device)
    x[:, shared] = x[:, shared].mean(0)
    local = torch.ones(layout.size, dtype=torch.bool, device=prepared.device)
    local[shared] = local[layout.log_focal] = False
    local = torch.nonzero(local)[:, 0]
    settled = settle(
        replace(energy, free=local), Candidates.at(x[:, None]), _FOLLOW_ITERATIONS, config.tolerance
    )
    motion = motion_matrix(frames, config.clip.longest_gap)
    solution = minimise_clip(
        energy, settled.x[:, 0], prepared.body_joints, motion, shared, config.clip
    )
    order = torch.where(path[:, None] < search.kept.x.shape[1], path[:, None], order)
    final = replace(
        alone,
        x=solution.x[:, None],
        iterations=search.kept.iterations.gather(1, order) + solution.iterations,
        converged=torch.full_like(alone.converged, solution.converged),
    )
    return search, Chosen(energy, final, order)


def _follow(
    prepared: PreparedBody, search: Search, energy: Energy, order: Tensor, frames: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Choose a path through the frames' answers, and through what their neighbours think.

    Args:
        prepared: The body.
        search: What was found frame by frame.
        energy: Of all frames.
        order: (T, 1) the best of each.
        frames: Their numbers.

    Returns:
        (T, size) the states of the path, and (T,) which of the search's answers they are; larger
        where they are a neighbour's.
    """
    layout, count = prepared.layout, len(frames)
    kept = search.kept.x.clone()
    kept[..., layout.log_focal] += (
        search.energy.evidence.focal_px / energy.evidence.focal_px
    ).log()[:, None]
    # what the frames before and after think may be the better answer here
    near = torch.arange(count, device=prepared.device)
    before, after = (near - 1).clamp_min(0), (near + 1).clamp_max(count - 1)
    best = kept[near, order[:, 0]]
    follow = Candidates.at(torch.stack([best[before], best[after]], 1))
    tried = settle(energy, follow, _FOLLOW_ITERATIONS, prepared.config.tolerance)
    x = torch.cat([kept, tried.x], 1)
    own = measure(energy, replace(search.kept, x=kept)).open_energy
    energies = torch.cat([own, tried.energy], 1)
    path = choose_path(energies, prepared.joints(x), frames, prepared.config.clip)
    return x[near, path], path


def _clip_energy(
    prepared: PreparedBody, targets: Sequence[FitTarget], search: Search, x: Tensor
) -> Energy:
    """Return the last stage's energy of all frames, with one focal length to start from.

    What is expected of shape and lens weighs in every frame, as alone: frames that follow each
    other err alike, and hardly say more of the shape than one.

    Args:
        prepared: The body.
        targets: The frames.
        search: What was found frame by frame.
        x: (T, size) its best answers.
    """
    evidence, config = search.energy.evidence, prepared.config
    lens: tuple[Term, ...] = ()
    if evidence.focal_free is not None and bool((evidence.focal_free > 0).any()):
        found = (evidence.focal_px * prepared.layout.zoom(x)).log().median().exp()
        expected = evidence.points_px.new_tensor([t.focal_px for t in targets])
        sd = evidence.points_px.new_tensor([max(t.focal_sd, 1e-3) for t in targets])
        offset = (found / expected).log()
        lens = (FocalTerm(offset, sd, evidence.focal_free, config.focal),)
        evidence = replace(evidence, focal_px=found.expand(len(targets)).contiguous())
    points = fine_slice(prepared, targets)
    own = gather_points(prepared, targets, points)
    evidence = replace(evidence, weights=own.weights)  # without the weights of the parts
    coarse = gather_points(prepared, targets, prepared.coarse)
    coarse = replace(coarse, focal_px=evidence.focal_px)
    seen = further_terms(prepared, targets, points, coarse, evidence.unit)
    return stage_energy(prepared, points, config.fine[-1], evidence, seen, lens)
