"""Contacts as a term: its derivatives, and that hands leave bellies."""

from dataclasses import replace

import pytest
import torch

from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from fitting.candidates import Candidates, measure
from fitting.config import FitConfig
from fitting.contacts import BodyContacts
from fitting.ending import separate
from fitting.energy import TERMS
from fitting.evidence import gather_points, stage_energy
from fitting.fit import Fitter
from fitting.reference import ReferenceFitter
from fitting.reference_config import ReferenceConfig
from tests.belly import hand_in_belly, seen

ON = FitConfig(interpenetration="on")


@pytest.fixture(scope="module")
def fitter(open_body):
    return Fitter(open_body, ON)


@pytest.fixture(scope="module")
def belly(fitter, open_body):
    """The last stage's energy of two who have a hand in the belly, and their true states."""
    params = [hand_in_belly(open_body, yaw) for yaw in (0.3, 0.9)]
    targets = [seen(open_body, p) for p in params]
    evidence = gather_points(fitter.prepared, targets, fitter.prepared.fine)
    evidence = replace(evidence, unit=torch.full_like(evidence.unit, 2.0))
    energy = stage_energy(fitter.prepared, fitter.prepared.fine, FitConfig().fine[-1], evidence)
    slices = fitter.prepared.layout.slices
    x = torch.zeros(2, fitter.prepared.layout.size, dtype=torch.float64)
    for k, p in enumerate(params):
        for name in ("global_orient", "transl"):
            x[k, slices[name]] = getattr(p, name)[0]
        x[k, slices["body_pose"]] = p.body_pose.flatten()
    return energy, x


@pytest.fixture(scope="module")
def contacts(fitter, belly):
    _, x = belly
    return fitter.prepared.contacts.find(fitter.prepared.layout.params(x))


@pytest.fixture(scope="module")
def with_term(fitter, belly, contacts):
    energy, x = belly
    return replace(energy, extra=(fitter.prepared.contacts.term(energy, x, contacts, 5.0),))


def test_the_measure_is_that_of_the_contacts(fitter, contacts):
    for k, measured in enumerate(fitter.prepared.contacts.measure(contacts, 3)[:2]):
        mine = contacts.person == k
        assert measured.depth_mm == pytest.approx(1000 * float(contacts.depth[mine].max()))
        assert measured.area_cm2 == pytest.approx(1e4 * float(contacts.area[mine].sum()), rel=1e-5)
        assert "left_hand+trunk" in measured.parts
    nobody = fitter.prepared.contacts.measure(contacts, 3)[2]
    assert (nobody.depth_mm, nobody.area_cm2, nobody.parts) == (0, 0, ())


def test_a_sample_of_contacts_stands_for_all(belly, with_term, contacts):
    energy, x = belly
    added = with_term(x).energy - energy(x).energy
    for k in range(2):
        mine = contacts.person == k
        whole = 5e8 * (contacts.area * contacts.depth**2)[mine].sum()
        assert float(added[k]) == pytest.approx(float(whole), rel=0.35)


def test_the_gradient_is_that_of_the_energy(fitter, belly, with_term):
    _, x = belly
    generator = torch.Generator().manual_seed(0)
    x = x + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    at, step = with_term(x), fitter.prepared.layout.step
    assert (with_term.terms(x)[:, TERMS.index("penetration")] > 1).all()
    for column in range(0, x.shape[1], 3):
        delta = torch.zeros_like(x)
        delta[:, column] = 1e-6
        slope = (with_term(step(x, delta)).energy - with_term(step(x, -delta)).energy) / 2e-6
        torch.testing.assert_close(2 * at.gradient[:, column], slope, rtol=1e-4, atol=1e-2)


def test_the_depths_are_those_of_the_mesh(fitter, belly, contacts, with_term):
    """Linear, but with the right slope: a small step changes both alike."""
    _, x = belly
    (term,) = with_term.extra
    generator = torch.Generator().manual_seed(0)
    step = 1e-4 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    step[:, fitter.prepared.layout.slices["transl"]] = 0
    step[:, :3] = 0
    model = BodyModel(fitter.body, dtype=torch.float64)
    vertices = model(fitter.prepared.layout.params(x + step)).vertices

    def deep(vertices):
        corners = vertices[contacts.person[:, None], contacts.corners]
        way = (contacts.bary[..., None] * corners).sum(1)
        way = way - vertices[contacts.person, contacts.vertex]
        return (way * contacts.direction).sum(1)

    change = deep(vertices) - deep(model(fitter.prepared.layout.params(x)).vertices)
    linear = (term.jacobian @ step[..., None])[..., 0]
    for k in range(2):
        mine = change[contacts.person == k]
        # the term holds a sample of them
        for value in linear[k]:
            assert (mine - value).abs().min() < 2e-7


def test_persons_do_not_know_of_each_other(belly, with_term):
    _, x = belly
    index = torch.tensor([1, 0, 1])
    alone = with_term.take(index)(x[index])
    torch.testing.assert_close(alone.energy, with_term(x).energy[index])
    torch.testing.assert_close(alone.matrix, with_term(x).matrix[index])


def test_the_fast_solver_takes_the_hand_out(open_body):
    target = seen(open_body, hand_in_belly(open_body, 0.9))
    (before,) = Fitter(open_body, FitConfig(interpenetration="measure")).fit([target])
    (after,) = Fitter(open_body, ON).fit([target])
    assert before.self_penetration.depth_mm > 15
    assert after.self_penetration.depth_mm < 3.1
    assert after.residual_part_px["left_hand"] < before.residual_part_px["left_hand"] + 0.5
    assert after.residual_part_px["body"] < before.residual_part_px["body"] + 0.5
    assert before.energy["penetration"] == 0


def test_a_hand_deep_in_the_belly_is_taken_out(fitter, belly):
    """From the very pose, which one camera cannot tell from one with the hand before the belly."""
    energy, x = belly
    start = measure(energy, Candidates.at(x[:, None]))
    unmasked = torch.zeros(len(x), dtype=torch.bool)
    inside = fitter.prepared.contacts.measure_params(fitter.prepared.layout.params(x))
    apart, measured = separate(fitter.prepared, energy, start, unmasked)
    for before, after in zip(inside, measured, strict=True):
        assert before.depth_mm > 50
        assert after.depth_mm < 0.2 * before.depth_mm
    assert torch.isfinite(apart.x).all()


def test_nothing_is_measured_if_not_wanted(open_body):
    target = seen(open_body, hand_in_belly(open_body, 0.9))
    (result,) = Fitter(open_body, FitConfig(interpenetration="off")).fit([target])
    assert result.self_penetration.depth_mm != result.self_penetration.depth_mm


def test_a_person_who_is_not_inside_is_left_alone(open_body):
    params = hand_in_belly(open_body, 0.3)
    params.body_pose[:, 15] = torch.tensor([0, 0, -0.8])
    target = seen(open_body, params)
    (plain,) = Fitter(open_body, FitConfig(interpenetration="measure")).fit([target])
    (result,) = Fitter(open_body, ON).fit([target])
    assert result.self_penetration.depth_mm <= FitConfig().penetration_mm
    assert result.energy_total == plain.energy_total


@pytest.mark.slow
def test_the_reference_solver_keeps_the_hand_out(open_body):
    target = seen(open_body, hand_in_belly(open_body, 0.5))
    measure = BodyContacts(open_body, torch.float64, "cpu").measure_params
    depths = []
    for is_on in (False, True):
        config = ReferenceConfig(body="own", interpenetration=is_on)
        (result,) = ReferenceFitter(open_body, config).fit([target])
        params = BodyParams(**{k: torch.as_tensor(v)[None] for k, v in result.params.items()})
        assert measure(params)[0] == result.self_penetration
        depths.append(result.self_penetration.depth_mm)
    assert depths[0] > 20
    assert depths[1] < 5
