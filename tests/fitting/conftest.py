from dataclasses import dataclass
from importlib import resources

import numpy as np
import pytest


@dataclass(frozen=True, eq=False)
class MocapPoses:
    body_pose: np.ndarray
    global_orient: np.ndarray
    subject: np.ndarray
    diverse: np.ndarray


@pytest.fixture(scope="session")
def mocap_poses() -> MocapPoses:
    path = resources.files("bodymodel") / "data" / "mocap_poses.npz"
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return MocapPoses(
            **{k: arrays[k] for k in ("body_pose", "global_orient", "subject", "diverse")}
        )
