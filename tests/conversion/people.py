import numpy as np


def smpl_people(count, seed=0, size=0.4):
    """Random poses and shapes of SMPL; hands as they come."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(size=(count, 24, 3)) * size
    pose[:, 0] *= 3
    pose[:, 22:] = 0
    betas = rng.normal(size=(count, 10))
    return pose.astype(np.float32), betas.astype(np.float32), rng.normal(size=(count, 3)) * 3
