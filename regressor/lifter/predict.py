"""Lift keypoints to SMPL-X with the weights that come with the package, or with others."""

import copy
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from bodymodel.params import BodyParams
from bodymodel.rotations import rotmat_to_rotvec
from regressor.lifter.network import LifterConfig, LifterNet
from regressor.lifter.people import SHOWN_AS
from regressor.lifter.skeleton import Skeleton
from regressor.lifter.view import look_at

POINTS: tuple[str, ...] = tuple(
    name
    for name in FIT_KEYPOINTS
    if "contour" not in name and any(name in CONVENTIONS[c] for c in SHOWN_AS)
)
"""The keypoints that the lifter sees."""

POINTS_IN_FIT = [FIT_KEYPOINTS.index(name) for name in POINTS]
"""Their rows in the ``fit`` convention."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What the lifter says of B persons.

    Attributes:
        params: With leading dimensions (B, K), the likeliest answer first.
        scores: (B, K) logits of which answer is right, in that order.
    """

    params: BodyParams
    scores: Tensor


class Lifter:
    """Keypoints to bodies.

    Args:
        net: The network, and what it was trained as.
        body: Whose joints the bodies have; the network's rotations suit any body of the family,
            its shapes only the body that it was trained on.
        trained_on: Hash of that body; another body's betas are left at zero.
    """

    def __init__(self, net: LifterNet, body: BodyData, trained_on: str) -> None:
        self.net = net.eval()
        self.body = body
        self.shapes = body.sha256 == trained_on
        device = next(net.parameters()).device
        self.skeleton = Skeleton(body, net.config.num_betas).to(device)

    def __call__(self, keypoints_2d: Tensor, focal_px: Tensor, center_px: Tensor) -> BodyParams:
        """Lift B persons; as ``answers``, without the scores."""
        return self.answers(keypoints_2d, focal_px, center_px).params

    @torch.inference_mode()
    def answers(self, keypoints_2d: Tensor, focal_px: Tensor, center_px: Tensor) -> Answers:
        """Lift B persons.

        Args:
            keypoints_2d: (B, 145, 3) ``fit`` convention: x px, y px, confidence.
            focal_px: (B,) of the whole picture.
            center_px: (B, 2) its principal point.

        Returns:
            K answers for each, the likeliest first, in the camera's frame (x right, y down, z
            forward).

        Raises:
            ValueError: If a shape is another.
        """
        if keypoints_2d.shape[1:] != (len(FIT_KEYPOINTS), 3):
            raise ValueError(
                f"keypoints_2d must be (B, {len(FIT_KEYPOINTS)}, 3) in the 'fit' convention, got "
                f"{tuple(keypoints_2d.shape)}; Keypoints2D(...).to('fit') gives them"
            )
        device = next(self.net.parameters()).device
        keypoints, focal, center = (
            x.to(device, torch.float32) for x in (keypoints_2d, focal_px, center_px)
        )
        points = keypoints[:, POINTS_IN_FIT]
        rays = (points[..., :2] - center[:, None]) / focal[:, None, None]
        view = look_at(rays, torch.nan_to_num(points[..., 2]))
        lifted = self.net(view.features)

        best = lifted.scores.argsort(1, descending=True)
        rotations = lifted.rotations.gather(
            1, best[..., None, None, None].expand_as(lifted.rotations)
        )
        place = lifted.place.gather(1, best[..., None].expand_as(lifted.place))
        count = best.shape[1]
        back = view.rotation.mT[:, None]
        depth = place[..., 2:].exp() / view.spread[:, None, None]
        pelvis = torch.cat([place[..., :2] * view.spread[:, None, None] * depth, depth], -1)
        pelvis = (back @ pelvis[..., None])[..., 0]

        betas = keypoints.new_zeros(len(points), self.body.num_betas)
        expression = keypoints.new_zeros(len(points), self.body.num_expression)
        if self.shapes:
            betas[:, : lifted.betas.shape[1]] = lifted.betas
            expression[:, : lifted.expression.shape[1]] = lifted.expression
        rest = self.skeleton.rest_joints(betas[:, : self.net.config.num_betas])[:, 0]

        def each(x: Tensor) -> Tensor:
            return x[:, None].expand(-1, count, *x.shape[1:])

        hands = each(rotmat_to_rotvec(lifted.hands))
        zeros = keypoints.new_zeros(len(points), count, 3)
        params = BodyParams(
            global_orient=rotmat_to_rotvec(back @ rotations[..., 0, :, :]),
            body_pose=rotmat_to_rotvec(rotations[..., 1:, :, :]),
            jaw_pose=each(rotmat_to_rotvec(lifted.jaw)),
            leye_pose=zeros,
            reye_pose=zeros,
            left_hand_pose=hands[..., :15, :],
            right_hand_pose=hands[..., 15:, :],
            betas=each(betas),
            expression=each(expression),
            transl=pelvis - rest[:, None],
        )
        return Answers(params, lifted.scores.gather(1, best))


def save_lifter(path: Path, net: LifterNet, trained_on: str, notes: dict[str, str]) -> None:
    """Write weights (half precision) with what they need to be used."""
    from safetensors.torch import save_file

    metadata = {
        "config": json.dumps(asdict(net.config)),
        "points": json.dumps(POINTS),
        "body_sha256": trained_on,
        **notes,
    }
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, path, metadata)


def packaged_weights() -> Path:
    """Return the weights that come with the package."""
    return Path(str(resources.files("regressor") / "data" / "lifter.safetensors"))


def load_lifter(
    body: BodyData, path: Path | None = None, device: torch.device | str = "cpu"
) -> Lifter:
    """Load a lifter.

    Args:
        body: Whose parameters are wanted.
        path: Of ``save_lifter``; the weights that come with the package if None.
        device: Where it runs.

    Raises:
        ValueError: If the file was trained for other points.
    """
    net, trained_on = _read(Path(path or packaged_weights()))
    return Lifter(copy.deepcopy(net).to(device), body, trained_on)


@lru_cache(maxsize=4)
def _read(path: Path) -> tuple[LifterNet, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    if "config" not in metadata or tuple(json.loads(metadata.get("points", "[]"))) != POINTS:
        raise ValueError(
            f"{path} is no lifter for this version's {len(POINTS)} points; train one with "
            "python -m regressor.lifter.train"
        )
    net = LifterNet(LifterConfig(**json.loads(metadata["config"])))
    net.load_state_dict(state)
    return net, metadata["body_sha256"]
