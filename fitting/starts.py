"""Where the solver starts: depth and place from the limbs, headings, limbs turned over in depth.

A photo does not tell whether a person faces the camera or away from it, nor whether a forearm comes
forward or goes back: each pair of answers gives nearly the same picture, and a local solver never
leaves the wrong one. So each is tried.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import SlicedBody, SlicedState, sliced_forward
from fitting.data_term import Evidence
from fitting.priors import BodyPrior
from fitting.state import Layout

HEADINGS: tuple[tuple[str, float], ...] = (
    ("front", 0.0),
    ("back", math.pi),
    ("left", math.pi / 2),
    ("right", -math.pi / 2),
)
"""Names and turns about the body's own vertical; "front" faces the camera."""

MOST_GIVEN = 4
"""Most starts that a person may come with."""

START_NAMES: tuple[str, ...] = (
    *(name for name, _ in HEADINGS),
    "given",
    *(f"given {k}" for k in range(2, MOST_GIVEN + 1)),
)
"""What FitResult.starts may hold, in the order of the search's answers."""

_BONES = (
    ("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow"),
    ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist"),
    ("left_hip", "left_knee"), ("right_hip", "right_knee"),
    ("left_knee", "left_ankle"), ("right_knee", "right_ankle"),
    ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"),
    ("left_shoulder", "right_shoulder"), ("left_ear", "right_ear"), ("left_eye", "right_eye"),
    ("nose", "left_ear"), ("nose", "right_ear"),
)  # fmt: skip
_LONGEST = 0.85  # the quantile of apparent bone lengths that is taken for unforeshortened


@dataclass(frozen=True)
class Limb:
    """An arm or a leg that may be turned over in depth.

    Attributes:
        name: For people to read.
        chain: Where its upper bone starts, its middle joint, and where its lower bone ends
            (SMPL-X ids).
        joints: The joints that are solved for when it is turned over.
        points: The keypoints that it moves.
    """

    name: str
    chain: tuple[int, int, int]
    joints: tuple[int, ...]
    points: tuple[str, ...]


LIMBS: tuple[Limb, ...] = tuple(
    Limb(f"{side}_{name}", chain, joints, tuple(f"{side}_{point}" for point in points))
    for name, points, chains in (
        (
            "arm",
            ("shoulder", "elbow", "wrist"),
            (("left", (16, 18, 20), (13, 16, 18)), ("right", (17, 19, 21), (14, 17, 19))),
        ),
        (
            "leg",
            ("knee", "ankle", "big_toe", "small_toe", "heel"),
            (("left", (1, 4, 7), (1, 4, 7)), ("right", (2, 5, 8), (2, 5, 8))),
        ),
    )
    for side, chain, joints in chains
)
FLIPS: tuple[tuple[bool, bool], ...] = ((True, False), (False, True), (True, True))
"""Which of the upper and the lower bone of a limb are turned over."""


def pixels_per_metre(sliced: SlicedBody, evidence: Evidence, rest: Tensor) -> Tensor:
    """Estimate the image scale from the apparent lengths of all limbs, weighted by confidence.

    A bone looks at most as long as it is, so the long ones among the ratios tell the scale. Missing
    limbs do not matter as long as any is there.

    Args:
        sliced: The points of the body.
        evidence: Of B persons.
        rest: (P, 3) the points of the mean body at rest, metres.

    Returns:
        (B,) pixels per metre at the person's depth.
    """
    names = {name: i for i, name in enumerate(sliced.points)}
    pairs = [(names[a], names[b]) for a, b in _BONES if a in names and b in names]
    first, second = (torch.tensor(ids, device=rest.device) for ids in zip(*pairs, strict=True))
    length = (rest[first] - rest[second]).norm(dim=-1)
    seen = (evidence.points_px[:, first] - evidence.points_px[:, second]).norm(dim=-1)
    ratio = seen / length
    # short bones tell little: their ratio is mostly noise
    weight = (evidence.weights[:, first] * evidence.weights[:, second]).sqrt() * length
    ratio, order = ratio.sort(1)
    weight = weight.gather(1, order)
    total = weight.cumsum(1)
    position = (total < _LONGEST * total[:, -1:]).sum(1, keepdim=True)
    limb_scale = ratio.gather(1, position.clamp_max(ratio.shape[1] - 1))[:, 0]

    # no limb at all (a face, a hand): the spread of what is seen against the spread at rest
    w = evidence.weights / evidence.weights.sum(1, keepdim=True).clamp_min(1e-9)
    spread_px = _spread(evidence.points_px, w)
    spread_m = _spread(rest[None, :, :2].expand(len(w), -1, -1), w)
    fallback = spread_px / spread_m.clamp_min(0.05)
    return torch.where(total[:, -1] > 1e-6, limb_scale, fallback).clamp_min(1e-3)


def _spread(points: Tensor, weight: Tensor) -> Tensor:
    middle = (weight[..., None] * points).sum(1, keepdim=True)
    return ((weight * (points - middle).square().sum(-1)).sum(1)).sqrt()


def image_roll(sliced: SlicedBody, evidence: Evidence) -> Tensor:
    """(B,) radians by which the person's trunk is turned in the image; 0 is head up.

    From hips to shoulders of the sides of which both are seen; else from both shoulders to the
    head; else as the face is turned. A shoulder alone says nothing: it is beside the head.
    """
    names = {name: i for i, name in enumerate(sliced.points)}

    def middle(*wanted: str) -> tuple[Tensor, Tensor]:
        """Return the mean of those that are seen, (B, 2), and how many they are, (B,)."""
        ids = [names[n] for n in wanted if n in names]
        seen = (evidence.weights[:, ids] > 0).to(evidence.points_px)
        total = seen.sum(1)
        point = (seen[..., None] * evidence.points_px[:, ids]).sum(1)
        return point / total.clamp_min(1)[:, None], total

    def line(low: str, high: str) -> tuple[Tensor, Tensor]:
        """Return the vector from one point to another, and whether both are seen, (B, 1)."""
        (start, has_start), (end, has_end) = middle(low), middle(high)
        return end - start, (has_start * has_end > 0)[:, None]

    trunk, sides = torch.zeros_like(evidence.center_px), 0.0
    for pair in (
        ("left_hip", "left_shoulder"),
        ("right_hip", "right_shoulder"),
        ("pelvis", "neck"),
    ):
        up, is_seen = line(*pair)
        trunk, sides = trunk + torch.where(is_seen, up, 0), sides + is_seen
    left, has_left = middle("left_shoulder")
    right, has_right = middle("right_shoulder")
    neck, has_neck = middle("neck")
    has_middle = (has_neck > 0) | (has_left * has_right > 0)
    low = torch.where((has_neck > 0)[:, None], neck, (left + right) / 2)
    head, has_head = middle("nose", "left_ear", "right_ear", "head_top", "left_eye", "right_eye")
    has_neck_line = (has_middle & (has_head > 0))[:, None]
    face, has_face = _up_of_face(line)
    up = torch.where(has_face, face, up_default(trunk))
    up = torch.where(has_neck_line, head - low, up)
    up = torch.where(sides > 0, trunk, up)
    return torch.atan2(up[:, 0], -up[:, 1])


def _up_of_face(line: Callable[[str, str], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(B, 2) the image's direction in which a face's forehead is, and (B, 1) if both eyes are seen.

    Across the line of the eyes and from the nose to them: of a profile the first says little, of a
    head that nods the second.
    """
    across, is_seen = line("right_eye", "left_eye")
    from_nose = [line("nose", f"{side}_eye") for side in ("left", "right")]
    is_seen = is_seen & from_nose[0][1] & from_nose[1][1]
    rise = (from_nose[0][0] + from_nose[1][0]) / 2
    upward = torch.stack([across[:, 1], -across[:, 0]], 1)
    upward = upward * torch.where((upward * rise).sum(1, keepdim=True) < 0, -1.0, 1.0)
    return upward + rise, is_seen


def up_default(like: Tensor) -> Tensor:
    """Return the camera's up, (0, -1), in the shape of ``like``."""
    return torch.tensor([0.0, -1.0], dtype=like.dtype, device=like.device).expand_as(like)


def heading_starts(
    sliced: SlicedBody, layout: Layout, prior: BodyPrior, evidence: Evidence
) -> Tensor:
    """Return a state per heading, (B, len(HEADINGS), size): mean pose, depth as the limbs tell."""
    batch = evidence.points_px.shape[0]
    like = evidence.points_px
    rest = sliced_forward(
        sliced,
        like.new_zeros(1, 55, 3),
        like.new_zeros(1, sliced.num_shape),
        like.new_zeros(1, 3),
    ).points[0]
    depth = evidence.focal_px / pixels_per_metre(sliced, evidence, rest)
    roll = image_roll(sliced, evidence)
    zero = torch.zeros_like(roll)
    upright = torch.tensor([math.pi, 0.0, 0.0], dtype=like.dtype, device=like.device)
    roll_turn = rotvec_to_rotmat(torch.stack([zero, zero, roll], 1))
    starts = []
    for _, heading in HEADINGS:
        turn = torch.tensor([0.0, heading, 0.0], dtype=like.dtype, device=like.device)
        root = roll_turn @ rotvec_to_rotmat(upright) @ rotvec_to_rotmat(turn)
        x = like.new_zeros(batch, layout.size)
        x[:, layout.slices["global_orient"]] = rotmat_to_rotvec(root)
        x[:, layout.slices["body_pose"]] = prior.start
        starts.append(place(sliced, layout, evidence, x, depth))
    return torch.stack(starts, 1)


def place(
    sliced: SlicedBody, layout: Layout, evidence: Evidence, x: Tensor, depth: Tensor
) -> Tensor:
    """Move states so that the points' weighted mean is seen where it should, at the depth (B,)."""
    x = x.clone()
    x[:, layout.slices["transl"]] = 0
    points = sliced_forward(sliced, layout.full_pose(x), layout.shape(x), layout.transl(x)).points
    weight = evidence.weights / evidence.weights.sum(1, keepdim=True).clamp_min(1e-9)
    z = depth - (weight * points[..., 2]).sum(1)
    ray = (evidence.points_px - evidence.center_px[:, None]) / evidence.focal_px[:, None, None]
    lateral = ray * (points[..., 2:] + z[:, None, None]) - points[..., :2]
    x[:, layout.slices["transl"]] = torch.cat([(weight[..., None] * lateral).sum(1), z[:, None]], 1)
    return x


def flip_limb(
    sliced: SlicedBody, layout: Layout, x: Tensor, limb: Limb, which: tuple[bool, bool]
) -> Tensor:
    """Turn bones of a limb over in depth: mirrored at the plane across the line of sight.

    The bone's ends stay (nearly) where they are seen. Each bone is turned the shortest way; a bone
    below one that is turned keeps its own direction in the world.

    Args:
        sliced: Points whose active joints include the limb.
        layout: Of the states.
        x: (B, size).
        limb: One of LIMBS.
        which: One of FLIPS.
    """
    state = sliced_forward(sliced, layout.full_pose(x), layout.shape(x), layout.transl(x))
    where = {int(j): a for a, j in enumerate(sliced.joint_ids.tolist())}
    top, middle, _ = limb.chain
    a, b, c = (where[j] for j in limb.chain)
    transl = layout.transl(x)
    upper = _turn_over(state, transl, a, b) if which[0] else None
    lower = _turn_over(state, transl, b, c) if which[1] else None
    above = state.rotations[:, sliced.parents[a]]
    new_top = state.rotations[:, a] if upper is None else upper @ state.rotations[:, a]
    new_middle = state.rotations[:, b] if lower is None else lower @ state.rotations[:, b]
    out = x.clone()
    body = layout.slices["body_pose"].start
    out[:, body + 3 * (top - 1) : body + 3 * top] = rotmat_to_rotvec(above.mT @ new_top)
    out[:, body + 3 * (middle - 1) : body + 3 * middle] = rotmat_to_rotvec(new_top.mT @ new_middle)
    return out


def _turn_over(state: SlicedState, transl: Tensor, start: int, end: int) -> Tensor:
    """(B, 3, 3) shortest rotation of the bone to its mirror image across the line of sight."""
    bone = state.joints[:, end] - state.joints[:, start]
    bone = bone / bone.norm(dim=1, keepdim=True).clamp_min(1e-9)
    sight = state.joints[:, start] + transl
    sight = sight / sight.norm(dim=1, keepdim=True).clamp_min(1e-9)
    depth = (bone * sight).sum(1, keepdim=True)
    mirrored = bone - 2 * depth * sight
    axis = torch.linalg.cross(bone, mirrored)
    sine = axis.norm(dim=1, keepdim=True)
    angle = torch.atan2(sine, (bone * mirrored).sum(1, keepdim=True))
    return rotvec_to_rotmat(axis / sine.clamp_min(1e-9) * angle)


def stature_m(sliced: SlicedBody, shape: Tensor) -> Tensor:
    """(B,) heights of bodies standing straight: from the heels to the top of the head, metres."""
    names = {name: i for i, name in enumerate(sliced.points)}
    zero = shape.new_zeros(shape.shape[0], 55, 3)
    points = sliced_forward(sliced, zero, shape, zero[:, 0]).points
    heels = points[:, [names["left_heel"], names["right_heel"]], 1].mean(1)
    return points[:, names["head_top"], 1] - heels


COARSE_POINTS: tuple[str, ...] = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "neck", "head_top", "pelvis",
    *(f"{side}_{name}" for side in ("left", "right") for name in (
        "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "big_toe", "small_toe", "heel")),
)  # fmt: skip
