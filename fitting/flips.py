"""Limbs turned over in depth: each way is tried, the best goes on."""

from dataclasses import replace

import torch
from torch import Tensor

from bodymodel.spec import BODY_JOINTS
from fitting.candidates import Candidates, measure, settle
from fitting.data_term import Evidence
from fitting.evidence import stage_energy
from fitting.extra import SeenTerm
from fitting.prepared import PreparedBody
from fitting.rivals import runner_up
from fitting.starts import FLIPS, flip_limb

__all__ = ["flip_limbs"]


def flip_limbs(
    prepared: PreparedBody,
    kept: Candidates,
    coarse: Evidence,
    trusted: Tensor,
    seen: tuple[SeenTerm, ...] = (),
) -> tuple[Candidates, tuple[Tensor, Tensor]]:
    """Turn every limb over in depth, alone and then together where it helped.

    Limbs hardly know of each other, so the best way of each is found alone and all are joined.

    Args:
        prepared: The body.
        kept: (B, C).
        coarse: The points of the body.
        trusted: (B,) bool, whose given starts are not turned over.
        seen: What else is known.

    Returns:
        The candidates, and what each limb might have done instead: where it would have the body's
        joints against where it has them, (B, C, limbs, 22, 3), and for which excess of energy, (B,
        C, limbs).
    """
    config, layout, stage = prepared.config, prepared.layout, prepared.config.flip
    energy = stage_energy(prepared, prepared.coarse, stage, coarse, seen)
    shape = (*kept.x.shape[:2], len(prepared.limbs))
    shift = kept.x.new_zeros(*shape, len(BODY_JOINTS), 3)
    excess = kept.x.new_full(shape, torch.inf)
    may_flip = kept.is_open & ~trusted[:, None]
    person, place = torch.nonzero(may_flip, as_tuple=True)
    if config.limb_flips and len(person):
        evidence = coarse.take(person)
        base = kept.x[person, place]
        joined = base.clone()
        theirs = tuple(term.take(person) for term in seen)
        for k, limb in enumerate(prepared.limbs):
            here = tuple(term.at(limb.points) for term in theirs)
            one = stage_energy(prepared, limb.sliced, stage, evidence.points(limb.points), here)
            one = replace(one, free=limb.columns)
            flips = [flip_limb(prepared.coarse, layout, base, limb.limb, way) for way in FLIPS]
            tried = Candidates.at(torch.stack([base, *flips], 1))
            tried = settle(one, tried, stage.iterations, config.tolerance)
            best, _ = tried.best()
            joined[:, limb.columns] = best.x[:, 0, limb.columns]
            shift[person, place, k], excess[person, place, k] = runner_up(prepared, tried)
        both = Candidates.at(torch.stack([base, joined], 1))
        best, _ = measure(energy.take(person), both).best()
        x = kept.x.clone()
        x[person, place] = best.x[:, 0]
        kept = replace(kept, x=x)
    return settle(energy, kept, stage.iterations, config.tolerance), (shift, excess)
