"""The many names and forms of the same numbers, brought to one. Torch-free.

What AMASS calls ``root_orient``, BEDLAM ``pose_cam`` and AIST++ ``smpl_poses`` is told apart by
its name alone; what is in it (axis-angles or matrices, one row or many) by its shape.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from conversion.rows import Rows

__all__ = ["Columns", "find_people", "plain_columns"]

Columns = dict[str, "np.ndarray | Rows"]

_ALIASES = {
    "root_orient": "global_orient", "poses_root": "global_orient", "root_pose": "global_orient",
    "pose_body": "body_pose", "poses_body": "body_pose", "pose_jaw": "jaw_pose",
    "left_eye_pose": "leye_pose", "right_eye_pose": "reye_pose", "left_hand": "left_hand_pose",
    "lhand_pose": "left_hand_pose", "rhand_pose": "right_hand_pose",
    "right_hand": "right_hand_pose", "fullpose": "poses", "thetas": "poses", "smpl_thetas": "poses",
    "pred_rotmat": "poses", "smpl_betas": "betas", "pred_shape": "betas", "pred_betas": "betas",
    "pred_trans": "transl", "cam_trans": "transl", "pred_cam_t": "transl",
    "camera_translation": "transl", "image_path": "imgname",
}  # fmt: skip
# Pose and translation in one frame; the first pair that is there counts.
_PAIRS = (
    ("pose_cam", "trans_cam"), ("poses_cam", "trans_cam"),  # BEDLAM: photos, so the camera's
    ("pose_world", "trans_world"),  # WHAM: motions, so the world's
)  # fmt: skip
_POSES = (
    "poses", "pose", "full_pose", "global_orient", "body_pose", "jaw_pose", "leye_pose",
    "reye_pose", "left_hand_pose", "right_hand_pose", "hand_pose", "neck_pose",
)  # fmt: skip
_HAS_POSE = (*_POSES[:4], *(k for k, v in _ALIASES.items() if v in ("poses", "global_orient")),
             *(pose for pose, _ in _PAIRS), "smpl_poses")  # fmt: skip
_DEPTH = 4  # of dicts in dicts


def plain_columns(given: Mapping[str, Any]) -> Columns:
    """Return arrays by the names that the readers know, rotation matrices as axis-angles.

    Args:
        given: Arrays, rows and texts by a file's own names.

    Returns:
        Likewise; poses that are matrices (..., 3, 3) are axis-angles, rows without a fit
        (``has_smpl``) are gone.
    """
    columns: Columns = dict(given)
    if "smpl_poses" in columns:  # AIST++: the body is scaled, not the motion
        scale = float(np.ravel(columns.get("smpl_scaling", 1.0))[0])
        columns["poses"], columns["mocap_framerate"] = columns.pop("smpl_poses"), np.array(60.0)
        columns["transl"] = np.asarray(columns.pop("smpl_trans", np.zeros(3))) / scale
        columns.setdefault("betas", np.zeros(10))
        columns.setdefault("gender", "male")  # whose body its authors pose
    for pose, transl in _PAIRS:
        if pose in columns:
            columns["poses"] = columns.pop(pose)
            other = [columns.pop(key) for key in ("trans", "transl") if key in columns]
            columns["transl"] = columns.get(transl, other[0] if other else np.zeros(3))
            if pose != "pose_world":
                columns |= _bedlam_camera(columns)
                columns.pop("gender", None)  # who was drawn; the bodies are all neutral
            break
    for alias, name in _ALIASES.items():
        if alias in columns and name not in columns:
            columns[name] = columns.pop(alias)
    if "pose_hand" in columns and "left_hand_pose" not in columns:
        hands = Rows.of(columns.pop("pose_hand"))
        half = hands.shape[1] // 2
        columns["left_hand_pose"] = hands.columns(0, half)
        columns["right_hand_pose"] = hands.columns(half, 2 * half)
    if "pose_eye" in columns and "leye_pose" not in columns:
        eyes = Rows.of(columns.pop("pose_eye"))
        columns["leye_pose"], columns["reye_pose"] = eyes.columns(0, 3), eyes.columns(3, 6)
    for name in _POSES:
        if name in columns:
            columns[name] = _axis_angles(columns[name])
    has = columns.pop("has_smpl", None)
    if has is not None and np.ndim(has) == 1 and not np.all(has):
        columns = take_rows(columns, np.flatnonzero(np.asarray(has)))
    return columns


def take_rows(columns: Columns, keep: np.ndarray) -> Columns:
    """Return the rows of ascending ids, of every array that has as many rows as the poses."""
    pose = next((columns[name] for name in _POSES if name in columns), None)
    if pose is None:
        return columns
    count = len(pose)

    def picked(array: Any) -> Any:
        if isinstance(array, Rows):
            return array.take(keep) if len(array) == count else array
        return array[keep] if np.ndim(array) and len(array) == count else array

    return {name: picked(array) for name, array in columns.items()}


def find_people(content: Any, name: str, depth: int = _DEPTH) -> Iterator[tuple[str, Columns]]:
    """Yield the sets of parameters that nested dicts hold, wherever they are.

    VIBE and WHAM have a dict a person, GVHMR and HumanData one a body model, EMDB and GRAB theirs
    among other things, 4D-Humans a list of people a frame.

    Args:
        content: Dicts, lists and arrays.
        name: Of the file's clip; people get their key behind it.
        depth: How many dicts deep to look.
    """
    if isinstance(content, list) and len(content) == 1:
        content = content[0]  # an object array of one dict
    if not isinstance(content, Mapping):
        return
    if any(key in content for key in _HAS_POSE):
        yield name, dict(content)
        return
    frames = [x for x in content.values() if isinstance(x, Mapping) and "tid" in x and "smpl" in x]
    if frames:
        yield from _tracks(content, name)
        return
    if depth <= 0:
        return
    keys = [key for key, value in content.items() if isinstance(value, Mapping | list)]
    if any("global" in str(key) for key in keys):  # GVHMR: the same motion before the camera, too
        keys = [key for key in keys if "incam" not in str(key)]
    if "body" in keys:  # GRAB: hands and objects have parameters as well
        keys = ["body"]
    found = [(str(key), list(find_people(content[key], "", depth - 1))) for key in keys]
    found = [(key, people) for key, people in found if people]
    around = {k: content[k] for k in ("gender", "image_path") if k in content}
    around |= _emdb_camera(content)
    for key, people in found:
        several = len(found) > 1
        for inner, columns in people:
            label = "_".join(x for x in (name, key if several else "", inner) if x)
            columns = around | columns
            if "image_path" not in columns and "imgname" not in columns:
                columns["is_motion"] = np.array(True)  # what trackers and motion sets hold
            yield label, columns


def _tracks(frames: Mapping[str, Any], name: str) -> Iterator[tuple[str, Columns]]:
    """PHALP's and 4D-Humans' results: a dict a frame, in it lists of the people seen.

    Their camera is a focal length of 5000 pixels at the photo's middle.
    """
    people: dict[int, list[tuple]] = {}
    for frame, seen in frames.items():
        if not isinstance(seen, Mapping):
            continue
        fits, ids = seen.get("smpl") or [], seen.get("tid")
        ids = [] if ids is None else ids
        places, sizes = seen.get("camera"), seen.get("size")
        for k, (who, fit) in enumerate(zip(np.ravel(ids), fits, strict=False)):
            if isinstance(fit, Mapping) and "body_pose" in fit:
                place = None if places is None or k >= len(places) else np.ravel(places[k])[:3]
                size = None if sizes is None or k >= len(sizes) else np.ravel(sizes[k])[:2]
                people.setdefault(int(who), []).append((str(frame), fit, place, size))
    for who, seen in sorted(people.items()):
        columns: Columns = {
            column: np.concatenate(
                [np.asarray(fit[column]).reshape(1, *shape) for _, fit, _, _ in seen]
            )
            for column, shape in (
                ("global_orient", (1, 3, 3)), ("body_pose", (-1, 3, 3)), ("betas", (-1,)),
            )
        }  # fmt: skip
        columns["imgname"] = np.array([frame for frame, *_ in seen])
        columns["is_motion"] = np.array(True)
        if all(place is not None for *_, place, _ in seen):
            columns["transl"] = np.stack([place for *_, place, _ in seen]).astype(np.float64)
            if all(size is not None for *_, size in seen):
                sizes = np.stack([size for *_, size in seen]).astype(np.float64)
                columns["center_px"] = sizes[:, ::-1] / 2
                columns["focal_px"] = np.full((len(seen), 1), 5000.0)
        yield f"{name}_{who}", columns


def _bedlam_camera(columns: Columns) -> Columns:
    """BEDLAM's: intrinsics, and a shift that its loader adds to the translation."""
    inner, outer = columns.get("cam_int"), columns.get("cam_ext")
    out: Columns = {}
    if outer is not None:
        shift = np.asarray(outer).reshape(len(outer), -1, 4)[:, :3, 3]
        out["transl"] = np.asarray(columns["transl"]) + shift
    return out | _intrinsics(inner)


def _intrinsics(inner: Any) -> Columns:
    if inner is None:
        return {}
    inner = np.asarray(inner, np.float64).reshape(-1, 3, 3)
    return {
        "focal_px": (inner[:, :1, 0] + inner[:, 1:2, 1]) / 2, "center_px": inner[:, :2, 2],
    }  # fmt: skip


def _emdb_camera(content: Mapping[str, Any]) -> Columns:
    """EMDB's moving camera: world to camera (N, 4, 4) and one matrix of intrinsics."""
    camera = content.get("camera")
    if not isinstance(camera, Mapping) or not {"extrinsics", "intrinsics"} <= set(camera):
        return {}
    outer = np.asarray(camera["extrinsics"], np.float64).reshape(-1, 4, 4)
    out = {"to_camera": outer[:, :3].reshape(-1, 12), "mocap_framerate": np.array(30.0)}
    out["imgname"] = np.array([f"images/{k:05d}.jpg" for k in range(len(outer))])
    good = np.asarray(content.get("good_frames_mask", np.ones(len(outer), bool))).astype(bool)
    if good.shape == (len(outer),):
        out["has_smpl"] = good
    return out | _intrinsics(camera["intrinsics"])


def _axis_angles(pose: "np.ndarray | Rows") -> "np.ndarray | Rows":
    """Return (N, 3 J) of matrices (N, J, 3, 3); what is no matrix stays as it is."""
    if isinstance(pose, Rows):
        if pose.axes[-2:] != (3, 3):
            return pose
        return pose.map(pose.shape[1] // 3, _rotvecs)
    pose = np.asarray(pose)
    if pose.ndim < 3 or pose.shape[-2:] != (3, 3) or pose.dtype.kind not in "fiu":
        return pose
    if pose.ndim == 3:  # one joint: (N, 3, 3)
        pose = pose[:, None]
    return _rotvecs(pose.reshape(len(pose), -1))


def _rotvecs(flat: np.ndarray) -> np.ndarray:
    """Return (N, 3 J) of (N, 9 J); rows that hold no rotations are NaN."""
    from scipy.spatial.transform import Rotation

    matrices = np.asarray(flat, np.float64).reshape(-1, 3, 3)
    good = np.isfinite(matrices).all((1, 2))
    good[good] = np.linalg.det(matrices[good]) > 0.1
    out = np.full((len(matrices), 3), np.nan)
    if good.any():
        out[good] = Rotation.from_matrix(matrices[good]).as_rotvec()
    return out.reshape(len(flat), -1)
