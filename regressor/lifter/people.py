"""The people that the lifter learns from: recorded poses, drawn shapes and hands, drawn cameras.

There is no picture, so there is no domain to fail on. What has to be right is how points go missing
and how wrong they are: a person is shown as one of the conventions that data sets and detectors
have, parts of it are lost together (a hand, the face, what lies below the picture's edge), and each
point is off by noise that goes with its confidence.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.keypoints import CONVENTIONS, LOOSE_POINTS
from bodymodel.mocap import Motion
from bodymodel.rotations import rotvec_to_rotmat
from bodymodel.skeleton import mirror_pose
from bodymodel.sliced import slice_body, sliced_forward
from bodymodel.spec import keypoint_part

SHOWN_AS = (
    "openpose137", "coco_wholebody133", "mediapipe_holistic543",
    "openpose_body25", "coco17", "lsp14", "mpii16",
)  # fmt: skip
"""The conventions that the lifter is trained to see."""

_LOST_TOGETHER = ("left_hand", "right_hand", "face")
_WORLD_TO_CAMERA = np.diag([1.0, -1.0, -1.0])  # y up, towards us -> y down, away


@dataclass(frozen=True, eq=False)
class People:
    """N persons in their own frame: the root at the origin, unrotated.

    Attributes:
        points: (N, P, 3) metres, of the lifter's points.
        rotations: (N, 22, 3, 3) relative to the parent; the root's is model to world, without
            the heading, which a camera draws anew.
        hands: (N, 30, 3, 3). jaw: (N, 3, 3). betas: (N, 10). expression: (N, 10).
    """

    points: Tensor
    rotations: Tensor
    hands: Tensor
    jaw: Tensor
    betas: Tensor
    expression: Tensor

    def take(self, index: Tensor) -> "People":
        """Return some of them."""
        return People(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True, eq=False)
class Shown:
    """A batch as a camera sees it.

    Attributes:
        rays: (B, P, 2). confidence: (B, P), 0 where a point is missing.
        root: (B, 3, 3) model to camera. pelvis: (B, 3) metres, camera frame.
        people: The rest.
    """

    rays: Tensor
    confidence: Tensor
    root: Tensor
    pelvis: Tensor
    people: People


def draw_people(
    body: BodyData, motion: Motion, points: tuple[str, ...], count: int, rng: np.random.Generator
) -> People:
    """Dress recorded poses in drawn shapes, hands and faces.

    Subjects are drawn equally often; half are mirrored; some take their legs from another frame,
    and some have every joint turned a little, so that the few recorded sports are not all there is.
    """
    subjects, inverse = np.unique(motion.subject, return_inverse=True)
    subject = rng.integers(len(subjects), size=count)
    of_subject = [np.flatnonzero(inverse == k) for k in range(len(subjects))]
    frame = np.array([rng.choice(of_subject[k]) for k in subject])
    pose = motion.body_pose[frame].astype(np.float64)
    root = motion.global_orient[frame].astype(np.float64)
    mirrored = rng.random(count) < 0.5
    pose[mirrored] = mirror_pose(pose[mirrored])
    root[mirrored] *= [1, -1, -1]

    legs = np.array([0, 1, 3, 4, 6, 7, 9, 10])  # hips, knees, ankles, feet, of body_pose
    mixed = np.flatnonzero(rng.random(count) < 0.25)
    pose[mixed[:, None], legs] = pose[rng.integers(count, size=len(mixed))[:, None], legs]
    spread = np.where(rng.random(count) < 0.3, 0.3, 0.06)
    moving = np.ones(21)
    moving[[6, 7, 9, 10]] = 0.5
    pose += spread[:, None, None] * moving[:, None] * rng.standard_normal(pose.shape)
    _straighten_backwards(pose)

    hands = []
    for side in (0, 1):
        coefficients = np.zeros((count, 45))
        coefficients[:, :12] = 0.4 * np.clip(rng.standard_normal((count, 12)), -2, 2)
        bent = rng.uniform(0.0, 1.8, (count, 1))
        hands.append(bent * body.hand_means[side] + coefficients @ body.hand_components[side])
    betas = np.clip(rng.standard_normal((count, 10)), -2.5, 2.5)
    expression = np.clip(0.7 * rng.standard_normal((count, 10)), -2, 2)
    jaw = np.zeros((count, 3))
    jaw[:, 0] = np.abs(0.12 * rng.standard_normal(count))

    sliced = slice_body(body, points)
    full = np.concatenate(
        [np.zeros((count, 1, 3)), pose, jaw[:, None], np.zeros((count, 2, 3)),
         np.concatenate(hands, 1).reshape(count, 30, 3)], 1,
    )  # fmt: skip
    shape = np.zeros((count, sliced.num_shape))
    shape[:, :10] = betas
    shape[:, body.num_betas : body.num_betas + 10] = expression
    full_pose, shape = torch.as_tensor(full).float(), torch.as_tensor(shape).float()
    placed = []
    for first in range(0, count, 256):
        some = slice(first, first + 256)
        state = sliced_forward(
            sliced, full_pose[some], shape[some], torch.zeros(len(full_pose[some]), 3)
        )
        placed.append(state.points - state.joints[:, :1])
    full_pose[:, 0] = torch.as_tensor(root).float()
    rotations = rotvec_to_rotmat(full_pose)
    rotations[:, 0] = _without_heading(rotations[:, 0])
    return People(
        points=torch.cat(placed),
        rotations=rotations[:, :22],
        hands=rotations[:, 25:],
        jaw=rotations[:, 22],
        betas=shape[:, :10],
        expression=torch.as_tensor(expression).float(),
    )


def _straighten_backwards(pose: np.ndarray) -> None:
    """Take back, in place, what the noise bent knees and elbows backwards."""
    pose[:, [3, 4], 0] = np.maximum(pose[:, [3, 4], 0], -0.1)
    pose[:, 17, 1] = np.minimum(pose[:, 17, 1], 0.15)
    pose[:, 18, 1] = np.maximum(pose[:, 18, 1], -0.15)


def _without_heading(root: Tensor) -> Tensor:
    """Turn about the world's vertical until the chest looks along z (y up)."""
    chest = root[..., 2]
    heading = torch.atan2(chest[:, 0], chest[:, 2])
    zero = torch.zeros_like(heading)
    return rotvec_to_rotmat(torch.stack([zero, -heading, zero], -1)) @ root


def show(people: People, points: tuple[str, ...], generator: torch.Generator) -> Shown:
    """Look at people with drawn cameras, as drawn conventions, with drawn faults."""
    count = len(people.betas)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    zero = torch.zeros(count)
    heading = rotvec_to_rotmat(torch.stack([zero, uniform(-torch.pi, torch.pi), zero], -1))
    pitch = torch.where(uniform(0, 1) < 0.8, 0.12 * normal() + 0.05, 0.5 * normal())
    camera = rotvec_to_rotmat(torch.stack([pitch, zero, 0.1 * normal()], -1))
    # lying, hanging, upside down: one in eight is turned any way
    anyhow = torch.linalg.qr(normal(3, 3)).Q
    anyhow = anyhow * torch.det(anyhow)[:, None, None]
    camera = torch.where((uniform(0, 1) < 0.125)[:, None, None], anyhow, camera)
    flip = torch.as_tensor(_WORLD_TO_CAMERA).float()
    world = camera @ flip @ heading
    root = world @ people.rotations[:, 0]

    own = people.points @ root.mT
    distance = torch.exp(uniform(np.log(1.3), np.log(25.0)))
    aside = uniform(-0.35, 0.35, 2)
    pelvis = distance[:, None] * torch.nn.functional.pad(aside, (0, 1), value=1.0)
    # nobody is nearer than 0.4 m with any point
    nearest = own[..., 2].amin(1) + pelvis[:, 2]
    pelvis = pelvis * (1 + (0.4 - nearest).clamp_min(0) / pelvis[:, 2])[:, None]
    placed = own + pelvis[:, None]
    rays = placed[..., :2] / placed[..., 2:]

    confidence = _seen(rays, points, uniform) * uniform(0.35, 1.0, len(points))
    size = rays.std(1, correction=0).norm(dim=-1)  # of all points, whatever is seen of them
    noise = torch.exp(uniform(np.log(0.004), np.log(0.04)))[:, None] / confidence.clamp_min(0.35)
    outlier = uniform(0, 1, len(points)) < 0.01
    noise = torch.where(outlier, 0.4, noise)
    offset = noise[..., None] * normal(len(points), 2)
    offset = offset + 0.04 * _kinds(points).loose[:, None] * normal(len(points), 2)
    rays = rays + size[:, None, None] * offset
    return Shown(rays, confidence, root, pelvis, people)


def _seen(rays: Tensor, points: tuple[str, ...], uniform) -> Tensor:
    """(B, P) 1 where a point is there: by convention, by part, by the picture's edge, by chance."""
    kinds = _kinds(points)
    which = (uniform(0, len(SHOWN_AS))).long().clamp_max(len(SHOWN_AS) - 1)
    whole = kinds.shown_as[which]
    seen = whole
    for inside in kinds.parts:
        lost = uniform(0, 1) < 0.2
        seen = torch.where(lost[:, None] & inside, 0, seen)
    cut = torch.quantile(rays[..., 1], 0.5, dim=1, keepdim=True)
    span = rays[..., 1].amax(1, keepdim=True) - cut
    cut = cut + span * uniform(0.0, 1.0, 1)
    below = (uniform(0, 1) < 0.15)[:, None] & (rays[..., 1] > cut)
    by_chance = uniform(0, 1, len(points)) < 0.12 * uniform(0, 1, 1)
    seen = torch.where(below | by_chance, 0, seen)
    # too little would be noise: whoever lost nearly everything gets the whole convention back
    return torch.where((seen.sum(1) < 6)[:, None], whole, seen)


@dataclass(frozen=True, eq=False)
class _Kinds:
    """Of P points: in which of C conventions, in which of hands and face, whether loose."""

    shown_as: Tensor  # (C, P) float
    parts: tuple[Tensor, ...]  # (P,) bool each
    loose: Tensor  # (P,) bool


@lru_cache(maxsize=4)
def _kinds(points: tuple[str, ...]) -> _Kinds:
    parts = [keypoint_part(name) for name in points]
    return _Kinds(
        torch.tensor([[float(name in CONVENTIONS[c]) for name in points] for c in SHOWN_AS]),
        tuple(torch.tensor([p == part for p in parts]) for part in _LOST_TOGETHER),
        torch.tensor([name in LOOSE_POINTS for name in points]),
    )
