"""ExPose (Choutas et al. 2020): a body network that tells where to look for hands and head.

The body network sees the person small and predicts all of SMPL-X. Its own projected hands and head
say where they are in the full picture ("body-driven attention", section 3.3); crops from there go
to a hand and a head network, which start from what the body network said of the part and correct
it. Sizes, weights and switches cite the paper and the configuration that was released with its
checkpoint where the two differ.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from bodymodel.body import BodyData
from bodymodel.rotations import rotvec_to_rotmat
from bodymodel.spec import keypoint_part
from regressor.backbones import BackboneConfig
from regressor.crops import AffineCrop, box_around
from regressor.experts import Expert, HeadConfig, JointMaps
from regressor.kinematics import (
    BodyPoints,
    absolute_rotations,
    all_rotations,
    mirror_rotations,
)
from regressor.layout import BODY_PARTS, HAND_PARTS, HEAD_PARTS, Order6D, ParamLayout
from regressor.upright import UPWARDS, about_view, upright_turn
from regressor.weak_camera import inverse_softplus, project_weak

PartName = Literal["left_hand", "right_hand", "head"]
PART_NAMES: tuple[PartName, ...] = ("left_hand", "right_hand", "head")

_WRIST = {"left_hand": 20, "right_hand": 21}
_ELBOW = {"left_hand": 18, "right_hand": 19}
_HEAD = 15
_NOWHERE_PX = 8.0  # a part that projects to less than this is looked for in a box this large


@dataclass(frozen=True)
class ExposeConfig:
    """What can be chosen. The defaults are the paper's; ``released()`` is what its weights ran."""

    body: BackboneConfig = field(default_factory=BackboneConfig.hrnet)
    """HRNet-W48 (paper, 3.5)."""
    hand: BackboneConfig = field(default_factory=BackboneConfig.resnet18)
    head: BackboneConfig = field(default_factory=BackboneConfig.resnet18)
    body_size: int = 256
    hand_size: int = 224
    head_size: int = 256
    hidden: int = 1024
    mixed_features: bool = True
    """HRNet's three deeper maps joined by convolutions, as released; else the mean of the last."""
    hand_box: float = 2.0
    """Side of the hand's crop over its projected joints' box (paper: 2)."""
    head_box: float = 2.0
    parts: bool = True
    """False: the body network alone (the ablation of Table 2)."""
    freeze_body: bool = True
    """The body network is fixed while the parts learn on whole-body data."""
    order_6d: Order6D = "interleaved"
    dropout: float = 0.5
    """In all heads (released). Where training is short it only slows learning down."""
    body_activation: bool = False
    """A rectifier in the body network's head; the released one has none."""
    joint_features: bool = False
    """The body network reads its features at the joints it sees (JointPool); not in ExPose."""
    looks: int = 1
    """How often the body network looks when it is used: from the second time on at the crop turned
    so that the body, as last seen, stands upright. Not in ExPose."""
    upright_parts: bool = False
    """Hands and head are turned in their crops so that fingers, brows point up, as networks of
    hands and faces alone expect them; not in ExPose."""

    @classmethod
    def released(cls) -> "ExposeConfig":
        """Its hand's crop is three times the joints' box, and HRNet's last stage never runs."""
        return cls(body=replace(BackboneConfig.hrnet(), last_stage=False), hand_box=3.0)

    @classmethod
    def tiny(cls) -> "ExposeConfig":
        """For tests, and for machines without an accelerator."""
        return cls(
            body=BackboneConfig.tiny(), hand=BackboneConfig.tiny(), head=BackboneConfig.tiny(),
            body_size=128, hand_size=96, head_size=96, hidden=256, mixed_features=False,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pictures:
    """What the network looks at.

    Attributes:
        source: (B, 3, H, W) in 0..1, the pixels at hand: the pictures, or large crops of them.
        source_crop: From pixels of the whole pictures to pixels of ``source``.
        body_crop: From pixels of the whole pictures to the body network's crop.
    """

    source: Tensor
    source_crop: AffineCrop
    body_crop: AffineCrop

    def look(self, crop: AffineCrop) -> Tensor:
        """(B, 3, size, size), a crop of the pictures."""
        return crop.after(self.source_crop).sample(self.source)


@dataclass(frozen=True, eq=False)
class Regressed:
    """A batch of persons.

    Attributes:
        rotations: (B, 55, 3, 3), relative to the parents; the root's is model to camera.
        betas: (B, 10). expression: (B, 10).
        camera: (B, 3) raw weak-perspective camera of the body's crop.
        points: (B, P, 3) metres, camera axes, the pelvis at the origin.
        points_px: (B, P, 2) in pixels of the whole picture.
    """

    rotations: Tensor
    betas: Tensor
    expression: Tensor
    camera: Tensor
    points: Tensor
    points_px: Tensor


@dataclass(frozen=True, eq=False)
class ExposeOutput:
    """What ExPose found.

    Attributes:
        body: The body network's answer alone.
        final: With hands and head from the parts' networks.
        crops: Where each part was looked for.
        joints: Where the body network sees the joints of ``Expose.joint_points``, if it was made
            for that.
    """

    body: Regressed
    final: Regressed
    crops: dict[PartName, AffineCrop]
    joints: JointMaps | None = None


class Expose(nn.Module):
    """The model. ``state_dict`` holds no body: that comes from its own file.

    Args:
        body: A SMPL-X body.
        config: Sizes and switches.
        body_mean: (341,) where the body network starts, in the layout's order; the rest pose,
            upright and facing the camera, if None.
    """

    def __init__(
        self, body: BodyData, config: ExposeConfig | None = None, body_mean: Tensor | None = None
    ) -> None:
        super().__init__()
        self.config = config = config or ExposeConfig()
        self.points = BodyPoints(body)
        self.point_names = self.points.names
        self.layouts = {
            "body": ParamLayout(BODY_PARTS, config.order_6d),
            "hand": ParamLayout(HAND_PARTS, config.order_6d),
            "head": ParamLayout(HEAD_PARTS, config.order_6d),
        }
        mean = self.rest(body) if body_mean is None else body_mean
        head = HeadConfig(config.hidden, config.dropout, activation=config.body_activation)
        self.joint_points = [
            k for k, name in enumerate(self.point_names) if keypoint_part(name) == "body"
        ]
        self.body = Expert(
            config.body, self.layouts["body"], mean, head,
            mixed=config.mixed_features and config.body.kind == "hrnet",
            joints=len(self.joint_points) if config.joint_features else 0,
        )  # fmt: skip
        if config.parts:
            part_head = HeadConfig(config.hidden, config.dropout)
            means = self._part_means(mean)
            self.hand = Expert(config.hand, self.layouts["hand"], means["hand"], part_head)
            self.head = Expert(config.head, self.layouts["head"], means["head"], part_head)
        self._of_part: dict[PartName, list[int]] = {
            "left_hand": self._indices("left_hand"),
            "right_hand": self._indices("right_hand"),
            "head": self._indices("face"),
        }

    def _indices(self, part: str) -> list[int]:
        wrist = f"{part.split('_')[0]}_wrist"
        return [
            k
            for k, name in enumerate(self.point_names)
            if keypoint_part(name) == part or name == wrist
        ]

    def train(self, mode: bool = True) -> "Expose":
        """Switch to training; a frozen body network stays as it is, dropout and statistics too."""
        super().train(mode)
        if self.config.parts and self.config.freeze_body:
            self.body.eval()
        return self

    def use_precision(self, dtype: torch.dtype | None) -> None:
        """Run the encoders in half precision, or in full if None."""
        for expert in self.children():
            if isinstance(expert, Expert):
                expert.precision = dtype

    def part_points(self, name: PartName) -> list[int]:
        """Positions in ``point_names`` of the points that a part's crop is about."""
        return self._of_part[name]

    def rest(self, body: BodyData) -> Tensor:
        """(341,) the T-pose, upright, facing the camera, hands at their mean; camera scale 0.9."""
        eye = torch.eye(3).expand(1, 1, 3, 3)
        hands = rotvec_to_rotmat(torch.as_tensor(body.hand_means).view(2, 15, 3))
        return self.layouts["body"].join(
            {
                "global_orient": eye * torch.tensor([1.0, -1.0, -1.0]),
                "body_pose": eye.expand(1, 21, 3, 3),
                "left_hand_pose": hands[:1],
                "right_hand_pose": hands[1:],
                "jaw_pose": eye,
                "betas": torch.zeros(1, 10),
                "expression": torch.zeros(1, 10),
                "camera": torch.tensor([[inverse_softplus(0.9), 0.0, -0.1]]),
            }
        )[0]

    def _part_means(self, mean: Tensor) -> dict[str, Tensor]:
        values = self.layouts["body"].split(mean[None])
        hand = self.layouts["hand"].join(
            {
                "wrist": values["global_orient"],
                "hand_pose": values["right_hand_pose"],
                "betas": torch.zeros(1, 10),
                "camera": torch.tensor([[inverse_softplus(0.9), 0.0, 0.0]]),
            }
        )
        head = self.layouts["head"].join(
            {
                "neck": values["global_orient"],
                "jaw_pose": values["jaw_pose"],
                "betas": torch.zeros(1, 100),
                "expression": torch.zeros(1, 50),
                "camera": torch.tensor([[inverse_softplus(8.0), 0.0, 0.0]]),
            }
        )
        return {"hand": hand[0], "head": head[0]}

    def forward(
        self, pictures: Pictures, part_boxes: dict[PartName, tuple[Tensor, Tensor]] | None = None
    ) -> ExposeOutput:
        """Look at the persons.

        Args:
            pictures: Of B persons.
            part_boxes: Centres (B, 2) and sides (B,) in pixels of the whole pictures where parts
                are looked for, instead of where the body network says (training).
        """
        config = self.config
        frozen = config.parts and config.freeze_body and self.training
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            stages, joints = self.body.look(pictures.look(pictures.body_crop))
            body = self.assemble(self.layouts["body"].split(stages[-1]), pictures.body_crop)
            for _ in range(0 if self.body.training else config.looks - 1):
                body = self._look_upright(pictures, body)
        if not config.parts:
            return ExposeOutput(body, body, {}, joints)

        absolute = absolute_rotations(body.rotations, self.points.parents)
        crops: dict[PartName, AffineCrop] = {}
        found: dict[PartName, dict[str, Tensor]] = {}
        for name in PART_NAMES:
            turn = self._part_turn(name, body, pictures.body_crop)
            crops[name] = self._part_crop(name, body, pictures.body_crop, turn, part_boxes)
            look = pictures.look(crops[name])
            if name == "head":
                found[name] = self._look_at_head(look, body)
            else:
                found[name] = self._look_at_hand(look, body, absolute, name, turn)
        final = self._join(body, absolute, found, pictures.body_crop)
        return ExposeOutput(body, final, crops, joints)

    def assemble(self, values: dict[str, Tensor], crop: AffineCrop) -> Regressed:
        """Pose the body from named values and project it into the whole picture."""
        rotations = all_rotations(values)
        points = self.points(rotations, values["betas"], values["expression"])
        unit = project_weak(points, values["camera"])
        return Regressed(
            rotations, values["betas"], values["expression"], values["camera"],
            points, crop.from_unit(unit),
        )  # fmt: skip

    def _look_upright(self, pictures: Pictures, body: Regressed) -> Regressed:
        """Look again, at the crop turned so that the body, as last seen, stands upright."""
        crop = pictures.body_crop
        turn = self._turn_upright("body", body, crop)
        turned = crop.turned(turn)
        values = self.layouts["body"].split(self.body(pictures.look(turned))[-1])
        back = about_view(-turn)
        values["global_orient"] = back[:, None] @ values["global_orient"]
        scale, shift = values["camera"].split((1, 2), -1)
        shift = (back[:, :2, :2] @ shift[..., None])[..., 0]
        values["camera"] = torch.cat([scale, shift], -1)
        return self.assemble(values, crop)

    def _turn_upright(self, name: str, body: Regressed, body_crop: AffineCrop) -> Tensor:
        """(B,) by which the body's crop, mirrored for the left hand, has to turn."""
        ends = [self.point_names.index(end) for end in UPWARDS[name]]
        unit = body_crop.to_unit(body.points_px[:, ends].detach())
        return upright_turn(unit[:, 1] - unit[:, 0], mirrored=name == "left_hand")

    def _part_turn(self, name: PartName, body: Regressed, body_crop: AffineCrop) -> Tensor:
        """(B,) by which a part is turned in its crop, against the body's crop (then mirrored)."""
        if not self.config.upright_parts:
            return torch.zeros_like(body_crop.scale)
        return self._turn_upright(name, body, body_crop)

    def _part_crop(
        self,
        name: PartName,
        body: Regressed,
        body_crop: AffineCrop,
        turn: Tensor,
        part_boxes: dict[PartName, tuple[Tensor, Tensor]] | None,
    ) -> AffineCrop:
        config = self.config
        size = config.head_size if name == "head" else config.hand_size
        if part_boxes is not None:
            center, side = part_boxes[name]
        else:
            points = body.points_px[:, self._of_part[name]]
            everywhere = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
            scale = config.head_box if name == "head" else config.hand_box
            center, side = box_around(points, everywhere, scale)
        mirrored = name == "left_hand"
        constant = torch.ones_like if mirrored else torch.zeros_like
        flip = constant(side, dtype=torch.bool)
        # rotations are to the frame of the body's crop, so the part has to be seen in that frame
        crop = AffineCrop.from_boxes(
            center, side.clamp_min(_NOWHERE_PX), size, rotation=body_crop.rotation, flip=flip
        )
        return crop.turned(turn)

    def _look_at_hand(
        self, look: Tensor, body: Regressed, absolute: Tensor, name: PartName, turn: Tensor
    ) -> dict[str, Tensor]:
        """A hand, as if it were a right one, started from what the body network says of it."""
        fingers = slice(25, 40) if name == "left_hand" else slice(40, 55)
        wrist, pose = absolute[:, [_WRIST[name]]], body.rotations[:, fingers]
        if name == "left_hand":
            wrist, pose = mirror_rotations(wrist), mirror_rotations(pose)
        layout, view = self.layouts["hand"], about_view(turn)[:, None]
        start = layout.replace(
            self.hand.head.mean.expand(look.shape[0], -1),
            {"wrist": view @ wrist, "hand_pose": pose},
        )
        values = layout.split(self.hand(look, start)[-1])
        values["wrist"] = view.mT @ values["wrist"]
        if name == "left_hand":
            values["wrist"] = mirror_rotations(values["wrist"])
            values["hand_pose"] = mirror_rotations(values["hand_pose"])
        return values

    def _look_at_head(self, look: Tensor, body: Regressed) -> dict[str, Tensor]:
        layout = self.layouts["head"]
        mean = self.head.head.mean.expand(look.shape[0], -1)
        expression = torch.nn.functional.pad(body.expression, (0, 40))
        start = layout.replace(
            mean, {"jaw_pose": body.rotations[:, [22]], "expression": expression}
        )
        return layout.split(self.head(look, start)[-1])

    def _join(
        self,
        body: Regressed,
        absolute: Tensor,
        found: dict[PartName, dict[str, Tensor]],
        crop: AffineCrop,
    ) -> Regressed:
        """Wrists, fingers, jaw and expression from the parts; all else from the body (eq. 3-5)."""
        pose = body.rotations[:, 1:22].unbind(1)
        pose = list(pose)
        for name in ("left_hand", "right_hand"):
            elbow = absolute[:, _ELBOW[name]]
            pose[_WRIST[name] - 1] = elbow.mT @ found[name]["wrist"][:, 0]
        values = {
            "global_orient": body.rotations[:, :1],
            "body_pose": torch.stack(pose, 1),
            "left_hand_pose": found["left_hand"]["hand_pose"],
            "right_hand_pose": found["right_hand"]["hand_pose"],
            "jaw_pose": found["head"]["jaw_pose"],
            "betas": body.betas,
            "expression": found["head"]["expression"][:, :10],
            "camera": body.camera,
        }
        return self.assemble(values, crop)
