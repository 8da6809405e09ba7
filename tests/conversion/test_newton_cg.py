"""The published optimiser against SciPy's trust-ncg, and its Hessian products at the T-pose."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize as scipy_minimize

from bodymodel.arrays import body_from_arrays
from bodymodel.model import BodyModel
from conversion.newton_cg import edge_loss, hessian_vector_product, newton_cg, vertex_loss
from tests.toy_body import toy_arrays


def rosenbrock(x):
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def scipy_answer(loss, start, gtol, **options):
    """SciPy's trust-ncg with the same loss, one row."""

    def value(x):
        x = torch.tensor(x[None], requires_grad=True)
        out = loss(x)
        return out.item(), torch.autograd.grad(out.sum(), x)[0][0].numpy()

    def product(x, p):
        return hessian_vector_product(loss, torch.tensor(x[None]), torch.tensor(p[None]))[0].numpy()

    return scipy_minimize(
        value, start, jac=True, hessp=product, method="trust-ncg",
        options={"gtol": gtol, "maxiter": 500, **options},
    )  # fmt: skip


def test_rosenbrock_ends_where_scipy_ends():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(6, 4))
    ours = newton_cg(rosenbrock, torch.tensor(start), gtol=1e-6)
    assert ours.has_converged.all()
    for k in range(6):
        # the global minimum, or the local one near (-1, 1, 1, 1)
        theirs = scipy_answer(rosenbrock, start[k], 1e-6, initial_trust_radius=1.0)
        assert abs(ours.loss[k].item() - theirs.fun) < 1e-9
        np.testing.assert_allclose(ours.x[k].numpy(), theirs.x, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_rows_do_not_know_of_each_other(seed):
    start = torch.tensor(np.random.default_rng(seed).normal(size=(3, 3)) * 2)
    together = newton_cg(rosenbrock, start, gtol=1e-8)
    alone = [newton_cg(rosenbrock, start[k : k + 1], gtol=1e-8) for k in range(3)]
    torch.testing.assert_close(together.x, torch.cat([a.x for a in alone]), atol=1e-8, rtol=0)
    assert together.iterations.tolist() == [int(a.iterations[0]) for a in alone]


def toy_model(family="smpl"):
    body = body_from_arrays(toy_arrays(family), family, "neutral", num_betas=3, num_expression=0)
    return BodyModel(body, torch.float64)


def toy_target(model, batch=1):
    torch.manual_seed(0)
    pose = 0.3 * torch.randn(batch, model.num_joints, 3, dtype=torch.float64)
    betas = torch.randn(batch, 3, dtype=torch.float64)
    with torch.no_grad():
        return model.forward_pose(pose, betas, transl=torch.ones(3, dtype=torch.float64)).vertices


def test_the_published_stages_on_a_small_body():
    model = toy_model()
    target = toy_target(model, batch=2)
    valid = torch.ones(target.shape[1], dtype=torch.bool)
    edges = edge_loss(model, target, valid)
    start = torch.zeros(2, 3 * model.num_joints, dtype=torch.float64)
    first = newton_cg(edges, start, gtol=1e-7)
    assert first.has_converged.all()
    theirs = scipy_answer(lambda x: edge_loss(model, target[:1], valid)(x), start[0].numpy(), 1e-7)
    assert abs(first.loss[0].item() - theirs.fun) < 1e-6 * max(theirs.fun, 1)

    whole = vertex_loss(model, target, valid)
    with torch.no_grad():
        placed = model.forward_pose(first.x.unflatten(1, (-1, 3))).vertices
    place = (target - placed).mean(1)  # equation 5 in closed form
    x = torch.cat([first.x, torch.zeros(2, 3, dtype=torch.float64), place], 1)
    last = newton_cg(whole, x, gtol=1e-8)
    assert (last.loss < 1e-9).all()


def test_hessian_products_at_the_rest_pose():
    """Differences of the gradient are the truth; the usual formula is off by a fifth there."""
    model = toy_model()
    target = toy_target(model)
    loss = vertex_loss(model, target, torch.ones(target.shape[1], dtype=torch.bool))
    x = torch.zeros(1, 3 * model.num_joints + 6, dtype=torch.float64)
    vector = torch.randn_like(x)

    def gradient(at):
        at = at.requires_grad_()
        return torch.autograd.grad(loss(at).sum(), at)[0]

    step = 1e-5
    wanted = (gradient(x + step * vector) - gradient(x - step * vector)) / (2 * step)
    found = hessian_vector_product(loss, x, vector)
    assert torch.isfinite(found).all()
    assert (found - wanted).norm() < 1e-7 * wanted.norm()
