"""What follows the search: masks are filled, and what is inside each other is pushed apart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fitting.candidates import Candidates, settle
from fitting.covariance import Rivals
from fitting.energy import Energy
from fitting.prepared import PreparedBody
from fitting.records import FitTarget, SelfPenetration
from fitting.rivals import gather_rivals
from fitting.search import Chosen, Search
from fitting.silhouette import SilhouetteTerm

__all__ = ["Ending", "end_fit", "fill_masks", "separate"]

_SILHOUETTE_ITERATIONS = 12


@dataclass(frozen=True, eq=False)
class Ending:
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


def end_fit(
    prepared: PreparedBody, targets: Sequence[FitTarget], search: Search, chosen: Chosen
) -> Ending:
    """Bring the chosen answers of a search to their end."""
    energy, order = chosen.energy, chosen.order
    is_clip = bool(targets[0].clip)  # what is pushed apart frame by frame would jitter
    filled = fill_masks(prepared, targets, energy, chosen.answer)
    masked = torch.tensor([t.silhouette is not None for t in targets], device=prepared.device)
    apart, penetration = separate(prepared, energy, filled, masked, measure_only=is_clip)
    return Ending(
        x=apart.x[:, 0],
        converged=filled.converged[:, 0],
        iterations=apart.iterations[:, 0],
        winner=search.which.gather(1, order)[:, 0],
        tried=search.tried,
        start_energies=search.start_energies,
        start_margin=search.margin,
        self_penetration=penetration,
        rivals=gather_rivals(prepared, search.kept, order, search.limbs),
    )


def fill_masks(
    prepared: PreparedBody, targets: Sequence[FitTarget], energy: Energy, final: Candidates
) -> Candidates:
    """Let those who have a mask fill it: shape by the mask, then pose by the points, in turns.

    Args:
        prepared: The body.
        targets: B persons.
        energy: Theirs.
        final: (B, 1).
    """
    config, x = prepared.config, final.x.clone()
    fields = {
        k: target.silhouette
        for k, target in enumerate(targets)
        if target.silhouette is not None and torch.isfinite(x[k]).all()
    }
    if not fields:
        return final
    who = torch.tensor(list(fields), device=prepared.device)
    mine = energy.take(who)

    def settled(one: Energy) -> Tensor:
        return settle(one, Candidates.at(x[who]), _SILHOUETTE_ITERATIONS, config.tolerance).x

    for turn in reversed(range(config.silhouette_rounds)):
        term = SilhouetteTerm.of(
            prepared.surface, prepared.layout, x[who, 0], list(fields.values()),
            w_inside=config.w_silhouette_inside,
            w_outside=config.w_silhouette_outside,
            slack=config.silhouette_slack_m * 2**turn,  # first what is far, too
        )  # fmt: skip
        x[who] = settled(replace(mine, free=prepared.shape_columns, extra=(*mine.extra, term)))
        x[who] = settled(replace(mine, free=prepared.but_betas))
    return replace(final, x=x)


def separate(
    prepared: PreparedBody,
    energy: Energy,
    final: Candidates,
    masked: Tensor,
    *,
    measure_only: bool = False,
) -> tuple[Candidates, list[SelfPenetration]]:
    """Push apart what is inside each other, and measure what is left.

    Args:
        prepared: The body.
        energy: Of B persons.
        final: (B, 1).
        masked: (B,) bool; who is keeps the shape that their mask gave them.
        measure_only: Push nobody.
    """
    config, layout, contacts = prepared.config, prepared.layout, prepared.contacts
    x, iterations = final.x[:, 0].clone(), final.iterations.clone()
    batch = len(x)
    if contacts is None:
        return final, [SelfPenetration()] * batch
    found = contacts.find(layout.params(x))
    measured = contacts.measure(found, batch)
    rounds = config.penetration_rounds if config.interpenetration == "on" else 0
    if measure_only:
        rounds = 0
    who = torch.arange(batch, device=x.device)
    for _ in range(rounds):
        still = [m.depth_mm > config.penetration_mm for m in (measured[k] for k in who.tolist())]
        is_deep = torch.tensor(still, device=x.device)
        if not is_deep.any():
            break
        found, who = found.take(is_deep), who[is_deep]
        for keeps_shape in (False, True):
            group = masked[who] == keeps_shape
            if not group.any():
                continue
            them = who[group]
            moved = energy.take(them)
            term = contacts.term(moved, x[them], found.take(group), config.w_penetration)
            free = prepared.but_betas if keeps_shape else None
            moved = replace(moved, free=free, extra=(*moved.extra, term))
            here = Candidates.at(x[them, None])
            solved = settle(moved, here, config.penetration_iterations, config.tolerance)
            x[them] = solved.x[:, 0]
            iterations[them] += solved.iterations
        found = contacts.find(layout.params(x[who]))
        for k, new in zip(who.tolist(), contacts.measure(found, len(who)), strict=True):
            measured[k] = new
    return replace(final, x=x[:, None], iterations=iterations), measured
