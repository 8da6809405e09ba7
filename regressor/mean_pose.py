"""The mean person of a training set: where the body network starts, and what it has to beat."""

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.rotations import rotvec_to_rotmat
from regressor.examples import ExampleSource
from regressor.layout import BODY_PARTS, Order6D, ParamLayout
from regressor.weak_camera import inverse_softplus

_COUNTS = {"body_pose": 21, "left_hand_pose": 15, "right_hand_pose": 15, "jaw_pose": 1}


def mean_parameters(
    body: BodyData, source: ExampleSource, order: Order6D = "interleaved", most: int = 2000
) -> Tensor:
    """Return the body network's vector of the mean person of a data set, facing the camera.

    Rotations are the chordal means (the mean matrix, brought back to a rotation); shape and
    expression are zero; the camera is the one that ``Expose.rest`` has.

    Args:
        body: Gives the hands where the data set knows none.
        source: Examples; what they do not know is left out of the mean.
        order: Of the vector's rotations.
        most: Examples looked at, spread evenly.

    Returns:
        (341,).
    """
    indices = np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)
    examples = [source[k] for k in np.unique(indices)]
    hands = torch.as_tensor(body.hand_means).view(2, 15, 3)
    rest = {
        "body_pose": torch.zeros(21, 3), "left_hand_pose": hands[0],
        "right_hand_pose": hands[1], "jaw_pose": torch.zeros(1, 3),
    }  # fmt: skip
    values: dict[str, Tensor] = {
        "global_orient": torch.diag(torch.tensor([1.0, -1.0, -1.0]))[None, None],
        "betas": torch.zeros(1, 10),
        "expression": torch.zeros(1, 10),
        "camera": torch.tensor([[inverse_softplus(0.9), 0.0, -0.1]]),
    }
    for name, count in _COUNTS.items():
        known = [np.asarray(e.params[name], np.float32) for e in examples if name in e.params]
        if not known:
            values[name] = rotvec_to_rotmat(rest[name].float())[None]
            continue
        matrices = rotvec_to_rotmat(torch.as_tensor(np.stack(known)).view(-1, count, 3))
        left, _, right = torch.linalg.svd(matrices.mean(0))
        sign = torch.ones(count, 3)
        sign[:, 2] = torch.det(left @ right)
        values[name] = ((left * sign[:, None]) @ right)[None]
    return ParamLayout(BODY_PARTS, order).join(values)[0]
