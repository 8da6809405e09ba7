"""Hand pose components from synthetic grasps, in the layout of MANO and SMPL-X."""

import numpy as np

_FINGERS = ("index", "middle", "pinky", "ring", "thumb")  # the files' order
_GRASPS = 4000
# Across the thumb's bone and its nail on the built mesh; bending turns about it, on the left hand.
_THUMB_FLEXION = np.array([0.30, 0.94, -0.15])


def hand_poses(seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Principal components and mean of synthetic hand poses.

    Each grasp is a curl shared by all fingers plus one of its own per finger; one in eight
    moves a single finger. The last link bends 0.62 of the middle one; the spread fades with the
    curl. Rows are orthonormal, so coefficients are radians.

    Returns:
        (2, 45, 45) rows are components, left and right; (2, 45) means: the relaxed hand.
    """
    rng = np.random.default_rng(seed)
    shared = rng.beta(1.1, 1.3, _GRASPS)
    poses = np.zeros((_GRASPS, 5, 3, 3))
    solo = rng.random(_GRASPS) < 0.12
    alone = rng.integers(0, 5, _GRASPS)
    spread = rng.normal(0, 0.10, _GRASPS)
    for f, finger in enumerate(_FINGERS):
        curl = np.clip(shared + rng.normal(0, 0.15, _GRASPS), -0.1, 1.1)
        curl = np.where(solo, np.where(alone == f, rng.random(_GRASPS), 0.1), curl)
        if finger == "thumb":
            # The thumb swings across the palm, then bends. About +y its tip goes towards the
            # fingers' roots, about +x and -z it goes down, to the palm's side.
            poses[:, f, 0] = np.stack(
                [0.25 * curl, 0.35 * curl + rng.normal(0, 0.15, _GRASPS), -0.15 * curl], 1
            )
            for link, bend in ((1, 0.6), (2, 0.8)):
                angle = bend * curl + rng.normal(0, 0.08, _GRASPS)
                poses[:, f, link] = angle[:, None] * _THUMB_FLEXION
            continue
        side = {"index": 1.0, "middle": 0.2, "ring": -0.5, "pinky": -1.2}[finger]
        knuckle = 1.35 * curl + rng.normal(0, 0.08, _GRASPS)
        middle = 1.55 * np.clip(curl + rng.normal(0, 0.08, _GRASPS), 0, 1.1)
        # The left hand points along +x, palm down: flexion turns about -z, spread about -y.
        poses[:, f, 0, 2] = -knuckle
        poses[:, f, 0, 1] = -side * spread * (1 - np.clip(curl, 0, 1))
        poses[:, f, 1, 2] = -middle
        poses[:, f, 2, 2] = -0.62 * middle
    left = poses.reshape(_GRASPS, 45)
    relaxed = left[np.argsort(np.abs(shared - 0.22))[:200]].mean(0)
    components = _orthonormal_basis(np.cov(left.T))
    flip = np.tile([1.0, -1.0, -1.0], 15)
    return np.stack([components, components * flip]), np.stack([relaxed, relaxed * flip])


def _orthonormal_basis(covariance: np.ndarray) -> np.ndarray:
    """Principal components, rows by falling variance, then a fixed basis of what never varies.

    Any basis of the null space is an eigenbasis, and rounding would choose another one on each
    machine. Ours is Gram-Schmidt on the unit vectors in their order.
    """
    values, vectors = np.linalg.eigh(covariance)
    rows = list(vectors.T[::-1][values[::-1] > 1e-9 * values[-1]])
    rows = [row * np.sign(row[np.argmax(np.abs(row))]) for row in rows]
    for unit in np.eye(len(covariance)):
        rest = unit
        for _ in range(2):  # twice is enough for orthogonality to rounding
            rest = rest - np.stack(rows).T @ (np.stack(rows) @ rest)
        length = np.linalg.norm(rest)
        if length > 0.05:
            rows.append(rest / length)
    basis = np.stack(rows)
    assert basis.shape == covariance.shape, basis.shape
    return basis
