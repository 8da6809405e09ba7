"""Rendered people with OpenPose's files beside them, as a user has them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS

_GROUPS = {
    "pose_keypoints_2d": "openpose_body25",
    "face_keypoints_2d": "openpose_face70",
    "hand_left_keypoints_2d": "openpose_hand21_left",
    "hand_right_keypoints_2d": "openpose_hand21_right",
}
_INDEX = {name: k for k, name in enumerate(FIT_KEYPOINTS)}


def openpose_json(people: list[np.ndarray]) -> str:
    """One file of OpenPose 1.3 from (145, 3) ``fit`` keypoints of each person."""
    found = [
        {
            key: [
                round(float(v), 3)
                for name in CONVENTIONS[convention]
                for v in (points[_INDEX[name]] if name in _INDEX else (0, 0, 0))
            ]
            for key, convention in _GROUPS.items()
        }
        for points in people
    ]
    return json.dumps({"version": 1.3, "people": found})


def write_labelled(rendered, folder: Path, count: int) -> Path:
    """``count`` photos of one person each, one of nobody, one that is no picture."""
    (folder / "keypoints").mkdir(parents=True)
    for k in range(count):
        example = rendered[k]
        (folder / f"p{k}.jpg").write_bytes(example.picture.path.read_bytes())
        labels = openpose_json([example.keypoints_2d])
        (folder / "keypoints" / f"p{k}_keypoints.json").write_text(labels)
    Image.new("RGB", (160, 160), (90, 120, 90)).save(folder / "q-meadow.jpg")
    (folder / "keypoints" / "q-meadow_keypoints.json").write_text(openpose_json([]))
    (folder / "r-broken.jpg").write_bytes(b"no picture")
    return folder
