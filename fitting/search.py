"""The search for each person's answers: headings and given starts, then the best, more finely."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fitting.candidates import Candidates, measure, settle
from fitting.data_term import Evidence
from fitting.energy import Energy
from fitting.evidence import Gathered, gather, stage_energy
from fitting.extra import has_extra, start_from_points
from fitting.flips import flip_limbs
from fitting.prepared import PreparedBody
from fitting.records import FitTarget
from fitting.starts import HEADINGS, MOST_GIVEN, heading_starts
from fitting.state import Layout

__all__ = ["Chosen", "Search", "search_answers"]

_RIGID_ITERATIONS = 10


@dataclass(frozen=True, eq=False)
class Chosen:
    """The one answer of each person that goes on.

    Attributes:
        energy: That it was solved by.
        answer: (B, 1).
        order: (B, 1) which of the search's answers it was.
    """

    energy: Energy
    answer: Candidates
    order: Tensor


@dataclass(frozen=True, eq=False)
class Search:
    """What competes in the end.

    Attributes:
        energy: Of the last stage.
        kept: (B, K) answers.
        which: (B, K) from which of the starts they came.
        tried: (B, starts) bool, start_energies: (B, starts).
        margin: (B,) of the best against the best that faces another way.
        limbs: See fitting.flips.flip_limbs.
    """

    energy: Energy
    kept: Candidates
    which: Tensor
    tried: Tensor
    start_energies: Tensor
    margin: Tensor
    limbs: tuple[Tensor, Tensor]

    @classmethod
    def join(cls, parts: "Sequence[Search]") -> "Search":
        """Put batches after one another; the energy keeps its evidence, but no further terms."""

        def cat(values: "Sequence[Tensor | None]") -> Tensor | None:
            return None if values[0] is None else torch.cat(values)

        evidence = [vars(part.energy.evidence) for part in parts]
        joined = Evidence(**{k: cat([e[k] for e in evidence]) for k in evidence[0]})
        kept = [vars(part.kept) for part in parts]
        limbs = tuple(torch.cat([part.limbs[k] for part in parts]) for k in range(2))
        return cls(
            replace(parts[0].energy, evidence=joined, extra=()),
            Candidates(**{k: torch.cat([c[k] for c in kept]) for k in kept[0]}),
            *(
                torch.cat([getattr(part, name) for part in parts])
                for name in ("which", "tried", "start_energies", "margin")
            ),
            limbs,
        )

    def best(self) -> Chosen:
        """Return the answer of the least energy."""
        answer, order = self.kept.best()
        return Chosen(self.energy, answer, order)


def search_answers(prepared: PreparedBody, targets: Sequence[FitTarget]) -> Search:
    """Find the answers of each person that compete in the end."""
    config, layout = prepared.config, prepared.layout
    known = gather(prepared, targets)
    # All starts are compared by one energy, so that the margin between them means something.
    common = stage_energy(prepared, prepared.coarse, config.flip, known.coarse, known.coarse_terms)
    found, tried, trusted = _settle_starts(prepared, targets, known, common)
    found = measure(common, found)
    measured = found.energy.gather(1, found.same_as)
    found = _thin(prepared, found, config.hopeless_fine)
    which = found.distinct(layout, min(config.keep, found.x.shape[1]))
    kept, limbs = flip_limbs(prepared, found.take(which), known.coarse, trusted, known.coarse_terms)
    start_energies = measured.scatter(1, which, kept.energy)
    margin = kept.margin(layout)
    for stage in config.fine:
        kept = _thin(prepared, kept, config.hopeless_fine)
        energy = stage_energy(
            prepared, known.points, stage, known.fine, known.fine_terms, known.lens
        )
        # the last stage is the longest: whoever is behind after some of it will not win
        first = min(config.probation, stage.iterations)
        kept = settle(energy, kept, first, config.tolerance)
        if stage.iterations > first:
            kept = _thin(prepared, kept, config.hopeless_last)
            kept = settle(energy, kept, stage.iterations - first, config.tolerance, go_on=True)
    return Search(energy, kept, which, tried, start_energies, margin, limbs)


def _thin(prepared: PreparedBody, candidates: Candidates, factor: float) -> Candidates:
    """Close the candidates that have come to one answer, and the hopeless ones."""
    merged = candidates.merged(prepared.coarse, prepared.layout, prepared.config.same_m)
    return merged.hopeless(factor)


def _settle_starts(
    prepared: PreparedBody, targets: Sequence[FitTarget], known: Gathered, common: Energy
) -> tuple[Candidates, Tensor, Tensor]:
    """Anneal from the headings, and come close from given starts, by the body's points.

    Args:
        prepared: The body.
        targets: B persons.
        known: What is known of them.
        common: The energy that all starts are compared by.

    Returns:
        Candidates (B, len(START_NAMES)), the given ones last; which of them were tried, of that
        shape; and whose given starts are trusted to be the only ones, (B,).
    """
    config, layout, device = prepared.config, prepared.layout, prepared.device
    coarse, seen = known.coarse, known.coarse_terms
    x = heading_starts(prepared.coarse, layout, prepared.prior, coarse)
    if any(has_extra(target) for target in targets):
        x = start_from_points(x, targets, prepared.coarse, layout, prepared.prior, config)
    states, has_given = _given(layout, targets, x[:, 0])
    trusted = has_given.any(1) & (config.given_starts != "compete")
    named = torch.tensor([n in config.headings for n, _ in HEADINGS], device=device)
    is_open = named & ~trusted[:, None]
    rigid = stage_energy(prepared, prepared.coarse, config.coarse[0], coarse, seen)
    rigid = replace(rigid, free=prepared.rigid_columns, prior=prepared.coarse_prior)
    found = settle(rigid, Candidates.at(x, is_open), _RIGID_ITERATIONS, config.tolerance)
    for stage in config.coarse:
        energy = stage_energy(prepared, prepared.coarse, stage, coarse, seen)
        energy = replace(energy, prior=prepared.coarse_prior)
        found = settle(energy, found, stage.iterations, config.tolerance)
        found = _thin(prepared, found, config.hopeless_coarse)
    given = settle(rigid, Candidates.at(states, has_given), _RIGID_ITERATIONS, config.tolerance)
    if config.given_starts == "compete":  # by the energy that it is compared by
        given = settle(common, given, config.flip.iterations, config.tolerance)
    tried = torch.cat([is_open, has_given], 1)
    return found.joined(given), tried, trusted


def _given(layout: Layout, targets: Sequence[FitTarget], default: Tensor) -> tuple[Tensor, Tensor]:
    """(B, MOST_GIVEN, size) the given starts, the default where there is none; and which are."""
    x = default[:, None].repeat(1, MOST_GIVEN, 1)
    is_given = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    for k, target in enumerate(targets):
        if len(target.starts) > MOST_GIVEN:
            raise ValueError(f"at most {MOST_GIVEN} starts a person, got {len(target.starts)}")
        for place, start in enumerate(target.starts):
            x[k, place] = layout.vector(start, default[k])
            is_given[k, place] = True
    return x, is_given
