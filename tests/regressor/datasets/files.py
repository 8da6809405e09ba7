"""Small files in the exact layouts that people download."""

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image


def photo(path: Path, width: int = 64, height: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 30)).save(path)
    return path


def dump(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def pickled(path: Path, content) -> Path:
    """As Python 2's, which those files are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def spin(folder: Path, name: str = "mpii_train", count: int = 3, **more) -> Path:
    rng = np.random.default_rng(0)
    names = np.array([f"images/{k:03d}.jpg" for k in range(count)])
    for photo_name in names:
        photo(folder / photo_name)
    part = np.zeros((count, 24, 3))
    part[..., :2] = rng.uniform(5, 40, (count, 24, 2))
    part[..., 2] = 1
    openpose = np.zeros((count, 25, 3))
    openpose[:, 22] = (11.0, 12.0, 0.9)  # right big toe
    arrays = {
        "imgname": names,
        "center": np.full((count, 2), 24.0),
        "scale": np.full(count, 0.24),  # a box of 48 pixels, tight 40
        "part": part,
        "openpose": openpose,
        **more,
    }
    path = folder / f"{name}.npz"
    np.savez(path, **arrays)
    return path


def neuralannot(seed: int = 0, **flags) -> dict:
    rng = np.random.default_rng(seed)
    sizes = {"root_pose": 3, "body_pose": 63, "lhand_pose": 45, "rhand_pose": 45, "jaw_pose": 3,
             "shape": 10, "expr": 10, "trans": 3}  # fmt: skip
    return {k: rng.normal(0, 0.2, n).tolist() for k, n in sizes.items()} | flags


def wholebody(folder: Path) -> Path:
    photo(folder / "train2017" / "000000000009.jpg")
    keypoints = [v for k in range(17) for v in (10 + k, 20 + k, 2)]
    hand = [v for k in range(21) for v in (5 + k, 6 + k, 1.0)]
    one = {
        "id": 183126, "image_id": 9, "category_id": 1, "iscrowd": 0, "bbox": [4.0, 5.0, 30.0, 40.0],
        "keypoints": keypoints, "num_keypoints": 17,
        "foot_kpts": [0] * 18, "face_kpts": [0] * 204, "lefthand_kpts": hand,
        "righthand_kpts": hand, "foot_valid": False, "face_valid": False,
        "lefthand_valid": True, "righthand_valid": False,
    }  # fmt: skip
    crowd = one | {"id": 2, "iscrowd": 1}
    broken = one | {"id": 3, "keypoints": [1, 2, 3]}
    images = [{"id": 9, "file_name": "000000000009.jpg", "width": 64, "height": 48}]
    content = {"images": images, "annotations": [one, crowd, broken]}
    return dump(folder / "annotations" / "coco_wholebody_train_v1.0.json", content)


def human36m(folder: Path, subject: int = 1, frames=(0, 5, 7), camera: int = 4) -> dict:
    """Return what was written: the camera and the world's joints in millimetres."""
    rng = np.random.default_rng(subject)
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_rotvec([1.4, 0.3, -0.2]).as_matrix()
    world = rng.normal(0, 300, (17, 3))
    cam = {"R": rotation.tolist(), "t": [10.0, -20.0, 5000.0], "f": [1145.0, 1143.0],
           "c": [512.0, 515.0]}  # fmt: skip
    annotations = folder / "annotations"
    images = [
        {"id": k, "file_name": f"s_{subject:02d}/s_{subject:02d}_{frame:06d}.jpg", "width": 1000,
         "height": 1002, "subject": subject, "action_name": "Walking", "action_idx": 2,
         "subaction_idx": 1, "cam_idx": camera, "frame_idx": frame}
        for k, frame in enumerate(frames)
    ]  # fmt: skip
    labels = [{"id": k, "image_id": k, "bbox": [300, 200, 250, 500]} for k in range(len(frames))]
    tree = {"2": {"1": {str(f): world.tolist() for f in frames}}}
    fits = {"2": {"1": {str(f): neuralannot(f) for f in frames}}}
    name = f"Human36M_subject{subject}"
    dump(annotations / f"{name}_data.json", {"images": images, "annotations": labels})
    dump(annotations / f"{name}_camera.json", {str(camera): cam})
    dump(annotations / f"{name}_joint_3d.json", tree)
    dump(annotations / f"{name}_SMPLX_NeuralAnnot.json", fits)
    return {"rotation": rotation, "world": world, "camera": cam, "images": images}


def freihand(folder: Path, labels: int = 2) -> dict:
    rng = np.random.default_rng(3)
    matrix = [[480.0, 0, 112], [0, 480.0, 112], [0, 0, 1]]
    xyz = rng.normal(0, 0.04, (labels, 21, 3)) + np.array([0, 0, 0.7])
    mano = rng.normal(0, 0.3, (labels, 1, 61))
    for k in range(4 * labels):
        photo(folder / "training" / "rgb" / f"{k:08d}.jpg", 224, 224)
    dump(folder / "training_K.json", [matrix] * labels)
    dump(folder / "training_xyz.json", xyz.tolist())
    dump(folder / "training_mano.json", mano.tolist())
    return {"xyz": xyz, "mano": mano}


def ffhq(folder: Path, count: int = 2) -> Path:
    rng = np.random.default_rng(4)
    for k in range(count):
        photo(folder / f"{k:05d}.png")
    path = folder / "ffhq_parameters_with_keyps.npz"
    np.savez(
        path,
        global_pose=rng.normal(0, 0.2, (count, 3)), jaw_pose=rng.normal(0, 0.1, (count, 3)),
        betas=rng.normal(size=(count, 100)), expression=rng.normal(size=(count, 50)),
        keypoints2D=rng.uniform(300, 700, (count, 73, 2)),
        img_fnames=np.array([f"{k:05d}.png" for k in range(count)]),
    )  # fmt: skip
    return path


def threedpw(folder: Path, split: str = "train", frames: int = 4) -> dict:
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(5)
    outer = np.tile(np.eye(4), (frames, 1, 1))
    outer[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 1, (frames, 3))).as_matrix()
    outer[:, 2, 3] = 4
    points = np.zeros((frames, 3, 18))
    points[:, :2] = rng.uniform(100, 900, (frames, 2, 18))
    points[:, 2] = 0.8
    points[:, :, 17] = 0
    valid = np.ones(frames, int)
    valid[1] = 0
    content = {
        "sequence": "downtown_walking_00",
        "poses": [rng.normal(0, 0.3, (frames, 72)), rng.normal(0, 0.3, (frames, 72))],
        "betas": [rng.normal(size=10), rng.normal(size=10)],
        "trans": [rng.normal(size=(frames, 3))] * 2,
        "poses2d": [points, np.zeros_like(points)],
        "jointPositions": [rng.normal(size=(frames, 72)), rng.normal(size=(frames, 72))],
        "genders": ["m", "f"],
        "campose_valid": [valid, valid],
        "cam_intrinsics": np.array([[1960.0, 0, 540], [0, 1962.0, 960], [0, 0, 1]]),
        "cam_poses": outer,
        "img_frame_ids": np.arange(frames) * 2,
    }
    pickled(folder / "sequenceFiles" / split / "downtown_walking_00.pkl", content)
    (folder / "imageFiles").mkdir(exist_ok=True)
    return content


def agora(folder: Path) -> dict:
    rng = np.random.default_rng(6)
    photo(folder / "1280x720" / "train_0" / "ag_1_1280x720.png")
    sizes = {"global_orient": 3, "body_pose": 63, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3,
             "left_hand_pose": 45, "right_hand_pose": 45, "betas": 10, "expression": 10,
             "transl": 3}  # fmt: skip
    given = {k: rng.normal(0, 0.2, n).tolist() for k, n in sizes.items()}
    dump(folder / "smplx_params_cam" / "train_0" / "ag_1" / "0.json", given)
    dump(folder / "cam_params" / "train_0" / "ag_1.json",
         {"focal": [2986.6, 2986.6], "princpt": [1920.0, 1080.0]})  # fmt: skip
    image = {"id": 0, "file_name_3840x2160": "3840x2160/train_0/ag_1.png",
             "file_name_1280x720": "1280x720/train_0/ag_1_1280x720.png"}  # fmt: skip
    box = [300.0, 600.0, 360.0, 720.0]
    one = {
        "id": 0, "image_id": 0, "person_id": 0, "gender": "neutral", "kid": False, "occlusion": 10,
        "smplx_param_path": "./smplx_params_cam/train_0/ag_1/0.json",
        "cam_param_path": "./cam_params/train_0/ag_1.json", "is_valid": True, "age": "31-50",
        "ethnicity": "x", "bbox": box, "lhand_bbox": box, "rhand_bbox": box, "face_bbox": box,
    }  # fmt: skip
    others = [
        one | {"id": 1, "gender": "female"}, one | {"id": 2, "kid": True},
        one | {"id": 3, "is_valid": False},
        one | {"id": 4, "smplx_param_path": "./smplx_params_cam/train_0/ag_1/9.json"},
    ]  # fmt: skip
    content = {"images": [image], "annotations": [one, *others]}
    dump(folder / "AGORA_train_SMPLX.json", content)
    return given


def bedlam(folder: Path, count: int = 2) -> dict:
    rng = np.random.default_rng(7)
    names = np.array([f"seq_000000/seq_000000_{5 * k:04d}.png" for k in range(count)])
    for name in names:
        photo(folder / "png" / name)
    points = np.ones((count, 127, 3))
    points[..., :2] = rng.uniform(10, 700, (count, 127, 2))
    points[:, 9, 0] = -4
    arrays = {
        "imgname": names, "center": np.full((count, 2), 300.0), "scale": np.full(count, 2.4),
        "pose_cam": rng.normal(0, 0.2, (count, 165)), "shape": rng.normal(size=(count, 11)),
        "gtkps": points,
        "cam_int": np.tile([[900.0, 0, 640], [0, 900, 360], [0, 0, 1]], (count, 1, 1)),
        "gender": np.array(["neutral"] + ["female"] * (count - 1)),
    }  # fmt: skip
    np.savez(folder / "scene.npz", **arrays)
    return arrays


def curated(folder: Path, count: int = 3) -> dict:
    rng = np.random.default_rng(8)
    names = [f"im{k + 1:04d}.jpg" for k in range(count)]
    for name in names:
        photo(folder / name)
    points = np.zeros((count, 137, 3))
    points[:, :25, :2] = rng.uniform(10, 40, (count, 25, 2))
    points[:, :25, 2] = 0.7
    arrays = {
        "img_fns": np.array(names, "S"), "pose": rng.normal(0, 0.2, (count, 53, 3)),
        "betas": rng.normal(size=(count, 10)), "expression": rng.normal(size=(count, 10)),
        "keypoints2D": points,
    }  # fmt: skip
    arrays["pose"][1, 3] = np.nan
    np.savez(folder / "train.npz", **arrays)
    return arrays
