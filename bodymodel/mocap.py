"""Motion capture (CMU, the "Daz-friendly" BVH skeleton) to SMPL-X body rotations. Torch-free.

Each SMPL-X bone takes the *global* rotation of its source bone, composed with the constant turn
between the two rest poses. So bone directions and twists are those of the recording even though
the rest poses differ: the source's upper arms slope by 4 degrees, its shins by 6, and its elbow
hinges are turned by 30 degrees about the arm. Two habits of the source are undone: its forearms
are bent 17 degrees where the actor's were straight, and its legs are too long for most actors.

Axes of both skeletons: y up, z out of the chest, x to the person's left. Rest pose: T-pose.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from bodymodel.skeleton import BODY_PARENTS, REST_JOINTS, forward_kinematics
from bodymodel.spec import BODY_JOINTS

__all__ = [
    "BONE_PAIRS",
    "Mocap",
    "Motion",
    "bone_angles",
    "leg_extension",
    "load_mocap",
    "packaged_motion",
    "plausible_frames",
    "retarget",
]

_INDEX = {name: k for k, name in enumerate(BODY_JOINTS)}

ABDOMEN_SHARES = (0.5, 0.3, 0.2)
"""How the source's one lumbar rotation is spread over spine1, 2, 3; its small chest rotation goes
to spine3 whole. The chest's orientation is exact for any shares."""

COLLAR_SHARE_UP = 1 / 3
"""Of the arm's elevation above the horizontal; the scapula's third of the scapulohumeral rhythm
(Inman, Saunders & Abbott 1944). The T-pose itself has collar rotation zero."""

COLLAR_SHARE_DOWN = 0.1
"""Of the arm's elevation below the horizontal: the clavicle drops a few degrees only."""

LEG_EXTENSION_MEDIAN = 0.985
"""Hip-to-ankle distance over leg length of the straighter leg (knee bent by 20 degrees), half of
the time: in nearly every activity one leg or the other carries the body, nearly straight."""

LEG_EXTENSION_P90 = 0.9976
"""The same in the straightest tenth of the frames (knee bent by 8 degrees)."""

LEG_STRETCH_MAX = 1.06

_STRAIGHT_SOFTNESS = 0.004  # how gently stretched legs approach straightness, share of the length

ELBOW_BACKWARD_DEG = 15.0
"""No elbow hyperextends further; where one does, the recording is broken."""

DORSIFLEXION_MAX_DEG = 50.0
"""Toes drawn further up than in the deepest squat: one dancer's feet, put on the wrong legs."""

ROTATION_MAX_DEG = 160.0
"""Local rotations near half a turn are overturned shoulders; axis-angles jump there."""


@dataclass(frozen=True, eq=False)
class Mocap:
    """A motion capture file. F frames, C clips, J source joints.

    Attributes:
        joint_names: (J,) names, parents before children.
        parents: (J,) int, root -1.
        offsets: (C, J, 3) bone offsets in the parent's frame, metres.
        rotations: (F, J, 3) local rotations, axis-angle; the root's is global.
        positions: (F, J, 3) metres, y up.
        clip_index: (F,) int, row of ``offsets``.
        clip_ids: (C,) str.
        clip_subjects: (C,) str.
    """

    joint_names: tuple[str, ...]
    parents: np.ndarray
    offsets: np.ndarray
    rotations: np.ndarray
    positions: np.ndarray
    clip_index: np.ndarray
    clip_ids: np.ndarray
    clip_subjects: np.ndarray

    def global_rotations(self) -> dict[str, Rotation]:
        """Return the F global rotations of every source joint by name."""
        out: dict[str, Rotation] = {}
        for j, (name, parent) in enumerate(zip(self.joint_names, self.parents, strict=True)):
            local = Rotation.from_rotvec(self.rotations[:, j])
            out[name] = local if parent < 0 else out[self.joint_names[parent]] * local
        return out

    def offset(self, name: str) -> np.ndarray:
        """Return the (3,) rest offset of a joint; one skeleton serves every clip."""
        return self.offsets[0, self.joint_names.index(name)]


@dataclass(frozen=True, eq=False)
class Motion:
    """Retargeted frames.

    Attributes:
        body_pose: (F, 21, 3) axis-angle.
        global_orient: (F, 3) axis-angle, model to world (y up).
        subject: (F,) str.
        clip: (F,) str.
        frame: (F,) int, row of the Mocap.
    """

    body_pose: np.ndarray
    global_orient: np.ndarray
    subject: np.ndarray
    clip: np.ndarray
    frame: np.ndarray

    def take(self, index: np.ndarray) -> "Motion":
        """Return the frames of an index or a mask."""
        return Motion(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @property
    def is_held_out(self) -> np.ndarray:
        """(F,) mask of the frames that nothing is trained on: subjects 5, 10, 15 and so on."""
        return np.array([int(s) % 5 == 0 for s in self.subject], bool)

    def split(self) -> "tuple[Motion, Motion]":
        """Return the frames to learn from and the held-out ones."""
        return self.take(~self.is_held_out), self.take(self.is_held_out)


def load_mocap(path: Path) -> Mocap:
    """Read a mocap file.

    Args:
        path: npz with joint_names, parents, offsets_per_clip, rotations_axis_angle, positions,
            clip_index, clip_ids, clip_subjects.

    Raises:
        ValueError: If a key is missing or the clips do not share one skeleton.
    """
    keys = (
        "joint_names", "parents", "offsets_per_clip", "rotations_axis_angle", "positions",
        "clip_index", "clip_ids", "clip_subjects",
    )  # fmt: skip
    with np.load(path, allow_pickle=False) as file:
        missing = [key for key in keys if key not in file]
        if missing:
            raise ValueError(f"{path} is not a mocap file: expected keys {keys}, lacks {missing}")
        names, parents, offsets, rotations, positions, clip_index, ids, subjects = (
            file[key] for key in keys
        )
    if np.abs(offsets - offsets[:1]).max() > 1e-4:
        raise ValueError(
            f"{path}: clips have different skeletons, expected one; retarget each skeleton alone"
        )
    return Mocap(
        tuple(str(n) for n in names), parents, offsets.astype(float), rotations.astype(float),
        positions.astype(float), clip_index, ids, subjects,
    )  # fmt: skip


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _shortest_turn(a: np.ndarray, b: np.ndarray) -> Rotation:
    """Return the rotation without twist that takes direction a to direction b."""
    a, b = _unit(a), _unit(b)
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis)
    if sine < 1e-9:
        return Rotation.identity()
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, a @ b))


def _frame(bone: np.ndarray, hinge: np.ndarray) -> np.ndarray:
    """Return the (3, 3) rotation whose columns are bone, hinge (made orthogonal), their cross."""
    bone = _unit(bone)
    hinge = _unit(hinge - bone * (hinge @ bone))
    return np.stack([bone, hinge, np.cross(bone, hinge)], axis=1)


def leg_extension(mocap: Mocap, side: str) -> np.ndarray:
    """Return (F,) hip-to-ankle distance over thigh plus shin; ``side`` is "l" or "r"."""
    hip, ankle = (mocap.positions[:, mocap.joint_names.index(side + n)] for n in ("Thigh", "Foot"))
    length = np.linalg.norm(mocap.offset(side + "Shin")) + np.linalg.norm(
        mocap.offset(side + "Foot")
    )
    return np.linalg.norm(ankle - hip, axis=1) / length


def _leg_stretch(mocap: Mocap) -> np.ndarray:
    """Return (F,) the factor by which hip-to-ankle distances are lengthened, by clip.

    Every clip was put on one skeleton whose legs are longer than most actors', with the ankles
    kept in place: people who stand and walk have knees bent by 20 to 45 degrees.
    """
    longest = np.maximum(leg_extension(mocap, "l"), leg_extension(mocap, "r"))
    stretch = np.ones(len(mocap.offsets))
    for clip in np.unique(mocap.clip_index):
        p50, p90 = np.percentile(longest[mocap.clip_index == clip], [50, 90])
        wanted = max(LEG_EXTENSION_MEDIAN / p50, LEG_EXTENSION_P90 / p90)
        stretch[clip] = np.clip(wanted, 1, LEG_STRETCH_MAX)
    return stretch[mocap.clip_index]


def _legs(
    mocap: Mocap, source: dict[str, Rotation], side: str, stretch: np.ndarray | None
) -> tuple[Rotation, Rotation, Rotation]:
    """Return the global rotations of thigh, shin and foot."""
    thigh_bone, shin_bone = mocap.offset(side + "Shin"), mocap.offset(side + "Foot")
    name = "left" if side == "l" else "right"
    thigh, shin = source[side + "Thigh"], source[side + "Shin"]
    if stretch is not None:
        # Law of cosines: same ankle direction seen from the hip, new distance, same knee hinge.
        a, b = np.linalg.norm(thigh_bone), np.linalg.norm(shin_bone)
        u = thigh.apply(_unit(thigh_bone))
        v = shin.apply(_unit(shin_bone))
        hinge = thigh.apply([1.0, 0.0, 0.0])
        flexion = np.arctan2(np.einsum("fi,fi->f", np.cross(u, v), hinge), (u * v).sum(1))
        now = np.sqrt(a * a + b * b + 2 * a * b * np.cos(flexion))
        slack = (1 - now * stretch / (a + b)) / _STRAIGHT_SOFTNESS
        new = (a + b) * (1 - _STRAIGHT_SOFTNESS * np.logaddexp(0, slack))
        # A leg that is already straight, or bent backwards, is left as it is.
        new = np.where((flexion > 0) & (new > now), new, now)
        bent = np.arccos(np.clip((new**2 - a * a - b * b) / (2 * a * b), -1, 1))
        bent = np.where(flexion > 0, bent, flexion)

        def at_hip(angle: np.ndarray) -> np.ndarray:
            return np.arctan2(b * np.sin(angle), a + b * np.cos(angle))

        swing = at_hip(flexion) - at_hip(bent)
        thigh = Rotation.from_rotvec(hinge * swing[:, None]) * thigh
        shin = Rotation.from_rotvec(hinge * (swing + bent - flexion)[:, None]) * shin
    # SMPL-X's thigh and shin make an angle seen from the front, the source's do not. Both turn like
    # the line from hip to ankle, so that the foot stays in place and a straight knee is zero.
    down = np.array([0.0, -1.0, 0.0])
    leg = _shortest_turn(
        REST_JOINTS[_INDEX[f"{name}_ankle"]] - REST_JOINTS[_INDEX[f"{name}_hip"]], down
    )
    return (
        thigh * _shortest_turn(down, thigh_bone) * leg,
        shin * _shortest_turn(down, shin_bone) * leg,
        # Soles are flat on the floor in both rest poses, so the foot needs no turn.
        source[side + "Foot"],
    )


def _elbow_hinge(mocap: Mocap, side: str) -> np.ndarray:
    """Return the (3,) unit axis about which the source's elbow flexes; it has one degree."""
    local = mocap.rotations[:, mocap.joint_names.index(side + "ForeArm")]
    axis = np.linalg.eigh(local.T @ local)[1][:, -1]
    return axis * np.sign(axis[1]) * (-1 if side == "l" else 1)


def _arm(
    mocap: Mocap, source: dict[str, Rotation], side: str
) -> tuple[Rotation, Rotation, Rotation]:
    """Return the global rotations of upper arm, forearm and hand."""
    sign = 1.0 if side == "l" else -1.0
    along = np.array([sign, 0.0, 0.0])
    # In SMPL-X's T-pose the left elbow flexes about -y and the right about +y.
    target = _frame(along, np.array([0.0, -sign, 0.0]))
    hinge = _elbow_hinge(mocap, side)
    bone = mocap.offset(side + "ForeArm")
    turn = Rotation.from_matrix(_frame(bone, hinge) @ target.T)
    upper = source[side + "Shldr"] * turn
    # The source's elbow never turns below zero, where its forearm is 17 degrees bent: zero is the
    # actor's straight arm. So the forearm takes the upper arm's turn, not its own rest direction,
    # and the hand follows.
    fore = source[side + "ForeArm"] * turn
    hand = source[side + "Hand"] * _shortest_turn(along, bone)

    # The source keeps pronation in the wrist; the forearm's skin turns along its whole length.
    quat = (fore.inv() * hand).as_quat()
    twist = 2 * np.arctan2(quat[:, 0], quat[:, 3])
    twist = (twist + np.pi) % (2 * np.pi) - np.pi
    return upper, fore * Rotation.from_rotvec(twist[:, None] / 2 * [1.0, 0.0, 0.0]), hand


def _collar(chest: Rotation, upper: Rotation, side: str) -> Rotation:
    """Return the global rotation of the collar bone, which the source does not move."""
    sign = 1.0 if side == "l" else -1.0
    arm = chest.inv().apply(upper.apply([sign, 0.0, 0.0]))
    elevation = np.arcsin(np.clip(arm[:, 1], -1, 1))
    # Past the vertical, asin falls again; the collar then stays up, since 90 degrees are shared.
    share = np.where(elevation > 0, COLLAR_SHARE_UP, COLLAR_SHARE_DOWN)
    return chest * Rotation.from_rotvec((sign * share * elevation)[:, None] * [0.0, 0.0, 1.0])


def retarget(mocap: Mocap, *, straighten_legs: bool = True) -> Motion:
    """Return the recording as SMPL-X body poses.

    Args:
        mocap: F frames.
        straighten_legs: Undo the crouch that the recording got when every actor was put on one
            long-legged skeleton (see _leg_stretch). Bone directions of the legs then differ from
            the source's on purpose.

    Returns:
        F frames; toes are zero (not recorded), rotations are at most pi.
    """
    source = mocap.global_rotations()
    world: dict[str, Rotation] = {"pelvis": source["hip"]}
    lumbar = (source["hip"].inv() * source["abdomen"]).as_rotvec()
    for name, share in zip(("spine1", "spine2"), np.cumsum(ABDOMEN_SHARES)[:2], strict=True):
        world[name] = source["hip"] * Rotation.from_rotvec(share * lumbar)
    world["spine3"] = source["chest"]
    # Half of the head's turn against the chest is the neck's: the source puts three quarters of
    # it, up to 110 degrees, between skull and neck, where no one can.
    neck = (source["chest"].inv() * source["head"]).as_rotvec()
    world["neck"] = source["chest"] * Rotation.from_rotvec(neck / 2)
    world["head"] = source["head"]

    stretch = _leg_stretch(mocap) if straighten_legs else None
    for side, name in (("l", "left"), ("r", "right")):
        upper, fore, hand = _arm(mocap, source, side)
        world[f"{name}_collar"] = _collar(world["spine3"], upper, side)
        world[f"{name}_shoulder"], world[f"{name}_elbow"] = upper, fore
        world[f"{name}_wrist"] = hand
        thigh, shin, foot = _legs(mocap, source, side, stretch)
        world[f"{name}_hip"], world[f"{name}_knee"], world[f"{name}_ankle"] = thigh, shin, foot
        world[f"{name}_foot"] = foot

    pose = np.stack(
        [
            (world[BODY_JOINTS[BODY_PARENTS[j]]].inv() * world[BODY_JOINTS[j]]).as_rotvec()
            for j in range(1, len(BODY_JOINTS))
        ],
        axis=1,
    )
    return Motion(
        body_pose=pose.astype(np.float32),
        global_orient=world["pelvis"].as_rotvec().astype(np.float32),
        subject=mocap.clip_subjects[mocap.clip_index],
        clip=mocap.clip_ids[mocap.clip_index],
        frame=np.arange(len(pose)),
    )


def plausible_frames(motion: Motion) -> np.ndarray:
    """Return the (F,) mask of frames that are no fault of the recording.

    Left out are elbows bent backwards by more than ELBOW_BACKWARD_DEG, with the whole clip where
    that is half of its frames, and joints turned by more than ROTATION_MAX_DEG.
    """
    left, right = (motion.body_pose[:, _INDEX[f"{s}_elbow"] - 1, 1] for s in ("left", "right"))
    backward = np.maximum(left, -right) > np.radians(ELBOW_BACKWARD_DEG)
    for clip in np.unique(motion.clip[backward]):
        if backward[motion.clip == clip].mean() > 0.5:
            backward |= motion.clip == clip
    ankles = motion.body_pose[:, [_INDEX[f"{s}_ankle"] - 1 for s in ("left", "right")], 0]
    drawn_up = ankles.min(-1) < -np.radians(DORSIFLEXION_MAX_DEG)
    turned = np.linalg.norm(motion.body_pose, axis=-1).max(-1) > np.radians(ROTATION_MAX_DEG)
    return ~backward & ~drawn_up & ~turned


BONE_PAIRS: tuple[tuple[str, str, str, str], ...] = (
    ("left_hip", "left_knee", "lThigh", "lShin"),
    ("left_knee", "left_ankle", "lShin", "lFoot"),
    ("left_shoulder", "left_elbow", "lShldr", "lForeArm"),
    ("left_elbow", "left_wrist", "lForeArm", "lHand"),
    ("right_hip", "right_knee", "rThigh", "rShin"),
    ("right_knee", "right_ankle", "rShin", "rFoot"),
    ("right_shoulder", "right_elbow", "rShldr", "rForeArm"),
    ("right_elbow", "right_wrist", "rForeArm", "rHand"),
    ("right_hip", "left_hip", "rThigh", "lThigh"),
    ("hips", "neck", "thighs", "neck"),
)
"""Bones that both skeletons have: SMPL-X's two ends, the source's two ends; "hips" and "thighs"
are the midpoints of both sides."""


def bone_angles(mocap: Mocap, motion: Motion) -> np.ndarray:
    """Return (F, len(BONE_PAIRS)) degrees between bone directions of the result and the source."""
    ours = forward_kinematics(motion.global_orient, motion.body_pose)
    out = []
    for a, b, c, d in BONE_PAIRS:
        start = ours[:, [1, 2]].mean(1) if a == "hips" else ours[:, _INDEX[a]]
        u = _unit(ours[:, _INDEX[b]] - start)
        sides = ("lThigh", "rThigh") if c == "thighs" else (c,)
        start = np.mean(
            [mocap.positions[motion.frame, mocap.joint_names.index(s)] for s in sides], axis=0
        )
        v = _unit(mocap.positions[motion.frame, mocap.joint_names.index(d)] - start)
        out.append(np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v), axis=1), (u * v).sum(1))))
    return np.stack(out, axis=1)


def packaged_motion() -> Motion:
    """Return the few hundred recorded poses that come with the package (data/PROVENANCE.md)."""
    from importlib import resources

    with (resources.files("bodymodel") / "data" / "mocap_poses.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return Motion(
            body_pose=arrays["body_pose"],
            global_orient=arrays["global_orient"],
            subject=arrays["subject"],
            clip=arrays["clip"],
            frame=np.arange(len(arrays["clip"])),
        )
