"""A sampled population of adults, calibrated to survey statistics.

Stature: women 1.62 +- 0.065 m, men 1.755 +- 0.07 m. Body mass index: log-normal, median 25 (women)
and 26 (men), sigma 0.18, so that one body in forty is above 36. Round figures of open surveys of
adults (NCD-RisC, NHANES); no data set is copied. Anny's own sliders are solved for them.
"""

from dataclasses import dataclass, replace

import numpy as np

from bodymodel.openbody.recipe.source import Source
from bodymodel.openbody.recipe.tpose import pose_to_t
from bodymodel.spec import Gender

STATURE = {"female": (1.62, 0.065), "male": (1.755, 0.070)}
BMI = {"female": (25.0, 0.18), "male": (26.0, 0.18)}
_DENSITY = 985.0  # kg/m3 of a living body with air in its lungs

# Local changes: what people differ in that Anny's sliders do not cover, and its spread.
_BODY_CHANGES = {
    "measure-upperarm-length-incr": 0.25, "measure-lowerarm-length-incr": 0.25,
    "upperlegs-height-incr": 0.25, "lowerlegs-height-incr": 0.25,
    "measure-shoulder-dist-incr": 0.3, "measure-neck-height-incr": 0.3,
    "measure-neck-circ-incr": 0.25, "measure-hips-circ-incr": 0.3,
    "measure-waist-circ-incr": 0.3, "measure-bust-circ-incr": 0.25,
    "measure-thigh-circ-incr": 0.3, "measure-calf-circ-incr": 0.3,
    "measure-upperarm-circ-incr": 0.3, "measure-waisttohip-dist-incr": 0.25,
    "measure-napetowaist-dist-incr": 0.25, "torso-vshape-incr": 0.3,
    "torso-scale-depth-incr": 0.3, "hip-scale-depth-incr": 0.3, "hip-scale-horiz-incr": 0.25,
    "buttocks-volume-incr": 0.35, "stomach-tone-incr": 0.35, "breast-volume-vert-up": 0.2,
    "stomach-pregnant-incr": 0.1,
}  # fmt: skip
# Anny's mean hips are wide for their mass.
_MEANS = {"measure-hips-circ-incr": -0.35}
_HEAD_CHANGES = {
    "head-scale-vert-incr": 0.3, "head-scale-horiz-incr": 0.3, "head-scale-depth-incr": 0.3,
    "head-fat-incr": 0.3, "chin-width-incr": 0.3, "chin-height-incr": 0.3,
    "chin-prominent-incr": 0.3, "chin-prognathism-incr": 0.25, "nose-scale-vert-incr": 0.3,
    "nose-scale-horiz-incr": 0.3, "nose-scale-depth-incr": 0.3, "nose-hump-incr": 0.3,
    "mouth-scale-horiz-incr": 0.3, "mouth-trans-up": 0.3, "mouth-upperlip-volume-incr": 0.3,
    "mouth-lowerlip-volume-incr": 0.3, "eyebrows-trans-up": 0.3, "forehead-trans-forward": 0.3,
    "forehead-scale-vert-incr": 0.3,
}  # fmt: skip
_PAIRED_CHANGES = {
    "cheek-volume-incr": 0.3, "cheek-bones-incr": 0.3, "eye-scale-incr": 0.25,
    "eye-trans-out": 0.25, "eye-trans-up": 0.25, "hand-scale-incr": 0.25,
    "hand-fingers-length-incr": 0.25, "foot-scale-incr": 0.25, "ear-scale-incr": 0.3,
    "upperleg-fat-incr": 0.3, "lowerleg-muscle-incr": 0.3, "upperarm-fat-incr": 0.3,
    "upperarm-muscle-incr": 0.3, "leg-valgus-incr": 0.2,
}  # fmt: skip

LOCAL_CHANGES: tuple[str, ...] = (
    *_BODY_CHANGES, *_HEAD_CHANGES, *(f"{s}-{n}" for n in _PAIRED_CHANGES for s in "lr"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Population:
    """S sampled bodies in the T-pose.

    Attributes:
        points: (S, N + 2B, 3) vertices, bone heads and tails, metres.
        gender: (S,) 0 male to 1 female.
        stature: (S,) metres, as asked for.
        bmi: (S,) kg/m2, as asked for.
        mass: (S,) kg, of the mesh.
    """

    points: np.ndarray
    gender: np.ndarray
    stature: np.ndarray
    bmi: np.ndarray
    mass: np.ndarray

    def centred(self, blend: np.ndarray, place: np.ndarray) -> "Population":
        """Move every body so that a blend (N,) of its vertices lies at ``place`` (3,)."""
        there = np.einsum("n,snd->sd", blend, self.points[:, : len(blend)])
        return replace(self, points=self.points + (place - there)[:, None])


def sample_population(source: Source, gender: Gender, size: int, seed: int) -> Population:
    """Draw adults, solve Anny's sliders for their stature and mass, pose them in the T-pose.

    Args:
        source: Anny's assets with LOCAL_CHANGES.
        gender: neutral is half women, half men.
        size: Bodies to draw; drawn in mirrored pairs of standard scores, so that means are exact.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    half = (size + 1) // 2
    women = {"neutral": 0.5, "female": 1.0, "male": 0.0}[gender]
    is_woman = (np.arange(half) + 0.5) / half < women
    is_woman = np.concatenate([is_woman, is_woman])[:size]

    def normal(sd: float, columns: int = 1) -> np.ndarray:
        draw = np.clip(rng.standard_normal((half, columns)), -2.6, 2.6)
        draw /= np.sqrt((draw**2).mean(0))
        return sd * np.concatenate([draw, -draw])[:size]

    def by_gender(table: dict) -> tuple[np.ndarray, np.ndarray]:
        mean, sd = np.where(is_woman[:, None], table["female"], table["male"]).T
        return mean, sd

    mean, sd = by_gender(STATURE)
    stature = mean + sd * normal(1)[:, 0]
    median, sigma = by_gender(BMI)
    bmi = median * np.exp(sigma * normal(1)[:, 0])
    female = np.abs(is_woman - np.clip(np.abs(normal(0.12)[:, 0]), 0, 0.3))
    sliders = {
        "gender": female,
        "age": np.clip(0.70 + normal(0.1)[:, 0], 0.5, 0.95),
        "muscle": np.clip(0.5 + normal(0.18)[:, 0], 0.05, 0.95),
        "proportions": np.clip(0.5 + normal(0.25)[:, 0], 0, 1),
        "cupsize": np.clip(0.5 + normal(0.2)[:, 0], 0, 1),
        "firmness": np.clip(0.5 + normal(0.2)[:, 0], 0, 1),
    }
    race = rng.dirichlet((0.7, 0.7, 0.7), size)
    for k, name in enumerate(("african", "asian", "caucasian")):
        sliders[name] = race[:, k]
    local = _local_changes(source, normal)
    height, weight = _solve_sliders(source, sliders, local, stature, bmi)
    coefficients = _coefficients(source, sliders, local, height, weight)
    points = pose_to_t(source, _blend(source, coefficients))
    mass = _DENSITY * mesh_volume(source, points[:, : len(source.vertices)])
    return Population(points, female, stature, bmi, mass)


def plain_body(source: Source) -> np.ndarray:
    """Return the (N, 3) body of middling sliders in the T-pose, symmetric, to 0.01 mm."""
    sliders = {"gender": np.array([0.5]), "age": np.array([0.7])}
    local = np.zeros((1, len(source.local_changes)))
    coefficients = _coefficients(source, sliders, local, np.array([0.35]), np.array([0.5]))
    body = pose_to_t(source, _blend(source, coefficients))[0, : len(source.vertices)]
    return np.round((body + body[source.mirror] * [-1, 1, 1]) / 2, 5)


def _local_changes(source: Source, normal) -> np.ndarray:
    """Return the (S, L) local changes, left and right tied."""
    columns: dict[str, np.ndarray] = {}
    for name, sd in {**_BODY_CHANGES, **_HEAD_CHANGES}.items():
        columns[name] = _MEANS.get(name, 0.0) + normal(sd)[:, 0]
    for name, sd in _PAIRED_CHANGES.items():
        columns[f"l-{name}"] = columns[f"r-{name}"] = normal(sd)[:, 0]
    return np.stack([columns[name] for name in source.local_changes], 1)


def _coefficients(source, sliders, local, height, weight) -> np.ndarray:
    phenotype = source.phenotype(**sliders, height=height, weight=weight)
    actions = np.zeros((len(local), len(source.facial_actions)))
    pairs = np.stack([np.maximum(local, 0), np.maximum(-local, 0)], -1)
    return np.concatenate([phenotype, actions, pairs.reshape(len(local), -1)], 1)


def _blend(source: Source, coefficients: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    basis, rest = source.basis, source.rest
    if rows is not None:
        # For measuring only: single precision, half the time.
        basis, rest = basis[:, rows].astype(np.float32), rest[rows].astype(np.float32)
    used = np.flatnonzero(np.any(coefficients != 0, axis=0))
    flat = coefficients[:, used].astype(basis.dtype) @ basis[used].reshape(len(used), -1)
    return flat.reshape(len(coefficients), *rest.shape) + rest


def _solve_sliders(source, sliders, local, stature, bmi) -> tuple[np.ndarray, np.ndarray]:
    """Solve Anny's height and weight sliders for stature and mass, by Broyden's method."""
    low, high = np.array([-0.2, -0.2]), np.array([1.0, 2.4])
    wanted = np.stack([stature, bmi * stature**2], -1)
    n = np.arange(len(source.vertices))

    def measure(x: np.ndarray) -> np.ndarray:
        points = _blend(source, _coefficients(source, sliders, local, x[:, 0], x[:, 1]), n)
        tall = points[..., 1].max(1) - points[..., 1].min(1)
        return np.stack([tall, _DENSITY * mesh_volume(source, points)], -1)

    x = np.tile([0.35, 0.5], (len(stature), 1))
    value = measure(x)
    jacobian = np.stack(
        [(measure(x + step) - value) / step.max() for step in np.diag([0.05, 0.1])], -1
    )
    first = np.linalg.det(jacobian)
    for _ in range(7):
        step = np.linalg.solve(jacobian, (wanted - value)[..., None])[..., 0]
        step = np.clip(x + np.clip(step, [-0.2, -0.4], [0.2, 0.4]), low, high) - x
        x = x + step
        new = measure(x)
        surprise = new - value - np.einsum("sij,sj->si", jacobian, step)
        length = np.maximum((step**2).sum(-1), 1e-12)
        update = jacobian + surprise[:, :, None] * step[:, None] / length[:, None, None]
        # A step cut at a slider's end says little; keep the slopes that stay near the first ones.
        ratio = np.linalg.det(update) / first
        jacobian = np.where(((ratio > 0.3) & (ratio < 3))[:, None, None], update, jacobian)
        value = new
    return x[:, 0], x[:, 1]


def mesh_volume(source: Source, vertices: np.ndarray) -> np.ndarray:
    """Return the (S,) volume inside the skin, m3: mouth and eye sockets count as outside."""
    eyes = [f"eye_{part}.{side}" for part in ("front", "back") for side in "LR"]
    q = source.quads[~np.any([source.regions[name] for name in ["tongue", *eyes]], axis=0)]
    total = 0.0
    for tri in ((0, 1, 2), (0, 2, 3)):
        a, b, c = (vertices[:, q[:, k]] for k in tri)
        total = total + np.einsum("svi,svi->s", a, np.cross(b, c)) / 6
    return total
