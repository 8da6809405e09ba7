"""Draw the pictures of annotate_ui/data/guidelines.md: right fits of rendered people, made wrong.

    python -m fitting.demo demo && python -m fitting.run demo
    PYTHONPATH=. python scripts/build_guide_pictures.py demo annotate_ui/data

Each picture shows the photo with the fit, and the fit from the side. Nobody is in the photos: they
are rendered from the open body.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from bodymodel.files import load_body
from bodymodel.render import overlay, render_views
from bodymodel.spec import BODY_JOINTS
from curation.crops import person_window
from curation.images import read_image
from curation.reproject import posed_vertices
from curation.store import FitStore

SIDE_PX = 300


def turned(row, axis, degrees):
    """Turn the whole body about an axis of the camera, on the spot."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec(np.radians(degrees) * np.asarray(axis, float))
    return Rotation.as_rotvec(turn * Rotation.from_rotvec(row["global_orient"]))


def changed(row, joint, rotvec):
    """Turn one joint."""
    pose = np.array(row["body_pose"], np.float64)
    pose[BODY_JOINTS.index(joint) - 1] += rotvec
    return {"body_pose": pose}


def picture(body, row, root, zoom=None):
    """(H, 2H, 3): the photo with the fit, and the fit from the side."""
    image = read_image(root / row["image_path"])[0]
    x0, y0, x1, y1 = person_window(image.shape[:2], row["bbox_xyxy_px"], 0.2)
    side = max(x1 - x0, y1 - y0)
    cx, cy = (x0 + x1) // 2, (y0 + y1) // 2
    if zoom is not None:
        cx, cy, side = zoom
    canvas = np.full((side, side, 3), 90, np.uint8)
    ax, ay = cx - side // 2, cy - side // 2
    sx, sy = max(0, ax), max(0, ay)
    part = image[sy : ay + side, sx : ax + side]
    canvas[sy - ay : sy - ay + part.shape[0], sx - ax : sx - ax + part.shape[1]] = part
    vertices = posed_vertices(body, row).astype(np.float32)
    center = np.asarray(row["center_px"]) - (ax, ay)
    small = np.asarray(Image.fromarray(canvas).resize((SIDE_PX, SIDE_PX), Image.LANCZOS))
    scale = SIDE_PX / side
    front = overlay(small, vertices, body.faces, float(row["focal_px"]) * scale, center * scale)
    if zoom is not None:
        return np.concatenate([small, front], 1)
    views = render_views(canvas, vertices, body.faces, float(row["focal_px"]), center, SIDE_PX)
    return np.concatenate([front, views["side"]], 1)


def main(demo, out):
    """Draw all."""
    body = load_body("open")
    root = Path(demo)
    rows = sorted(FitStore(root / "fits").iter_rows(), key=lambda r: r["pa_mpjpe_mm"])
    good, other, third = rows[0], rows[1], rows[2]
    middle = posed_vertices(body, third).mean(0)
    lean = dict(third)
    lean["global_orient"] = turned(third, (1, 0, 0), 24)
    lean["transl"] = np.asarray(third["transl"]) + middle - posed_vertices(body, lean).mean(0)
    back = dict(good)
    back["global_orient"] = turned(good, (0, 1, 0), 180)
    center = posed_vertices(body, good).mean(0) - posed_vertices(body, back).mean(0)
    back["transl"] = np.asarray(good["transl"]) + center
    wrong_hand = dict(good)
    hand = np.array(good["left_hand_pose"], np.float64)
    hand[:, 2] -= 1.1
    wrong_hand["left_hand_pose"] = hand
    wide = dict(third)
    betas = np.array(third["betas"], np.float64)
    betas[1] += 4
    wide["betas"] = betas
    wrist = np.asarray(good["keypoints_2d"])[:, :2]
    from bodymodel.keypoints import FIT_KEYPOINTS

    wx, wy = wrist[FIT_KEYPOINTS.index("left_middle1")]
    zoom = (int(wx), int(wy), 110)
    pictures = {
        "accept": (good, None),
        "limb_off": (dict(other) | changed(other, "left_shoulder", (0.0, 0.1, 0.9)), None),
        "depth_off": (lean, None),
        "global_orientation": (back, None),
        "hand_off": (wrong_hand, zoom),
        "shape_off": (wide, None),
    }
    for name, (row, zoom) in pictures.items():
        drawn = picture(body, row, root, zoom)
        Image.fromarray(drawn).save(Path(out) / f"guide-{name}.jpg", quality=82)


if __name__ == "__main__":
    main(*sys.argv[1:3])
