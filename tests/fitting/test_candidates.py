from dataclasses import replace

import pytest
import torch

from bodymodel.sliced import slice_body
from fitting.candidates import Candidates
from fitting.starts import COARSE_POINTS
from fitting.state import Layout


@pytest.fixture(scope="module")
def layout(toy_body):
    return Layout.of(toy_body, 12, torch.float64, "cpu")


@pytest.fixture(scope="module")
def sliced(toy_body):
    return slice_body(toy_body, COARSE_POINTS, dtype=torch.float64)


def candidates(layout, energies):
    """One person; the second is the first but for its depth, the third has a bent arm."""
    x = torch.zeros(1, len(energies), layout.size, dtype=torch.float64)
    x[:, 1, layout.slices["transl"]] = torch.tensor([0.0, 0.0, 5.0]).double()
    if len(energies) > 2:
        x[:, 2, layout.body_columns((18,))] = torch.tensor([0.0, -2.0, 0.0]).double()
        x[:, 2, layout.body_columns((16,))] = 1.5
    return replace(Candidates.at(x), energy=torch.tensor([energies]).double())


def test_what_has_come_to_one_place_goes_on_as_the_better(layout, sliced):
    merged = candidates(layout, [2.0, 1.0, 3.0]).merged(sliced, layout, 0.05)
    assert merged.is_open.tolist() == [[False, True, True]]
    assert merged.same_as.tolist() == [[1, 1, 2]]


def test_equal_energies_leave_one(layout, sliced):
    merged = candidates(layout, [1.0, 1.0]).merged(sliced, layout, 0.05)
    assert merged.is_open.tolist() == [[True, False]]


def test_the_closed_close_nobody(layout, sliced):
    found = candidates(layout, [2.0, 1.0])
    found = replace(found, is_open=torch.tensor([[True, False]]))
    assert found.merged(sliced, layout, 0.05).is_open.tolist() == [[True, False]]


def test_the_hopeless_are_closed_and_the_best_never(layout):
    found = candidates(layout, [2.0, 1.0, 3.1]).hopeless(3.0)
    assert found.is_open.tolist() == [[True, True, False]]
    assert found.best()[1].tolist() == [[1]]


def test_only_the_open_are_solved(layout):
    found = candidates(layout, [2.0, 1.0, 3.0])
    found = replace(
        found,
        is_open=torch.tensor([[True, False, True]]),
        converged=torch.tensor([[False, False, True]]),
    )
    asked = []

    def solve(person, x):
        asked.append(len(person))
        return replace(Candidates.at(x[:, None] + 1), energy=x.new_zeros(len(person), 1))

    solved = found.solved(solve)
    assert solved.energy.tolist() == [[0.0, 1.0, 0.0]]
    assert (solved.x[0, 1] == found.x[0, 1]).all()
    assert (solved.x[0, 0] == found.x[0, 0] + 1).all()
    found.solved(solve, go_on=True)
    assert asked == [2, 1]


def test_the_margin_is_that_of_another_heading(layout):
    found = candidates(layout, [1.0, 1.5])
    assert torch.isnan(found.margin(layout)).all()
    found.x[:, 1, layout.slices["global_orient"]] = torch.tensor([0.0, 3.0, 0.0]).double()
    assert found.margin(layout).tolist() == pytest.approx([0.5])
