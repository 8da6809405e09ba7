"""Draw annotate_ui/data/tutorial.zip: ten items to practise on, right fits and wrong ones.

    python -m fitting.demo demo && python -m fitting.run demo
    PYTHONPATH=. python scripts/build_tutorial.py demo annotate_ui/data/tutorial.zip

The bodies are the rendered people's true ones, or those made wrong in a known way, so the answers
are known as well. Nobody is in the photos: they are rendered from the open body.
"""

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
from build_guide_pictures import changed, turned
from PIL import Image

from annotate_ui.pictures import PICTURE_FILES, draw_item
from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import BODY_JOINTS, PARTS, keypoint_part
from curation.reproject import Reprojector, posed_vertices
from curation.schema import PARAMETERS
from curation.store import FitStore

SIDE_PX = 400
PHOTOS = (17, 6, 22, 8, 21, 11, 14, 19, 10, 13)
RIGHT = "Every limb lies on its limb, and from the side the body stands as the person does."
LEANS = "In the photo it looks nearly right; the side view shows that the whole body leans."
HAND = (
    "Accept, without the left hand (key L): its fingers are bent another way. The body is as good "
    "as any."
)
PART = np.array([keypoint_part(name) for name in FIT_KEYPOINTS])


def about_middle(body, row, orient):
    """Turn a body and leave its middle where it is."""
    after = dict(row) | {"global_orient": orient}
    shift = posed_vertices(body, row).mean(0) - posed_vertices(body, after).mean(0)
    return after | {"transl": np.asarray(row["transl"]) + shift}


def swapped(row):
    """Exchange the poses of left and right."""
    pose = np.array(row["body_pose"], np.float64)
    for joint in ("hip", "knee", "ankle", "shoulder", "elbow"):
        i, j = (BODY_JOINTS.index(f"{side}_{joint}") - 1 for side in ("left", "right"))
        pose[[i, j]] = pose[[j, i]] * (1, -1, -1)
    return dict(row) | {"body_pose": pose}


def bent_hand(row):
    """Bend the left hand's fingers backwards."""
    hand = np.array(row["left_hand_pose"], np.float64)
    hand[:, 2] += 1.3
    return dict(row) | {"left_hand_pose": hand}


def wide(row):
    """Make the body fat."""
    betas = np.array(row["betas"], np.float64)
    betas[1] += 5
    return dict(row) | {"betas": betas}


def small(data):
    """Return a picture's file with at most SIDE_PX a side."""
    picture = Image.open(io.BytesIO(data))
    picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=78)
    return out.getvalue()


def errors_of(body, row):
    """Pixel error by part, as the page shows it."""
    residual = Reprojector.for_body(body).residuals(row)
    # True bodies are off by nothing, which would tell the answer: the fit's error is added.
    residual = np.hypot(residual, row["residual_px"])
    row["residual_px"] = residual.astype(np.float32)
    out, tall = [], float(row["person_height_px"])
    for part in PARTS:
        known = residual[(part == PART) & np.isfinite(residual)]
        px = float(np.median(known)) if len(known) else None
        out.append(
            {
                "part": part,
                "px": None if px is None else round(px, 2),
                "pct": None if px is None else round(100 * px / tall, 2),
                "seen": part == "body" or bool(row[f"has_{part}"]),
            }
        )
    return out


def main(demo, out):
    """Draw all."""
    body, root = load_body("open"), Path(demo)
    rows = {row["image_id"]: row for row in FitStore(root / "fits").iter_rows()}
    with np.load(root / "truth.npz") as truth:
        for k, name in enumerate(truth["image_id"]):
            true = {key: truth[key][k] for key in PARAMETERS if key in truth}
            true |= {"focal_px": truth["focal_px"][k], "center_px": truth["center_px"][k]}
            rows[str(name)] = dict(rows[str(name)]) | true
    photos = [rows[f"images/im{int(n):04d}.jpg"] for n in PHOTOS]
    lessons = [
        ("accept", "", RIGHT, lambda r: r),
        ("reject", "global_orientation", "The body faces the other way: look at face and feet.",
         lambda r: about_middle(body, r, turned(r, (0, 1, 0), 180))),
        ("reject", "limb_off", "The left arm is not where it is in the photo.",
         lambda r: dict(r) | changed(r, "left_shoulder", (0.0, 0.2, 1.1))),
        ("accept", "", "Right. Clothes and hair are not part of the body.", lambda r: r),
        ("reject", "depth_off", LEANS, lambda r: about_middle(body, r, turned(r, (1, 0, 0), 24))),
        ("reject", "left_right_swap", "Each leg lies on the other one, and so do the arms.",
         swapped),
        ("accept", "", HAND, bent_hand),
        ("reject", "shape_off", "The pose is right, the body is much too wide.", wide),
        ("accept", "", "Right: an unusual pose is no reason to reject.", lambda r: r),
        ("reject", "limb_off", "The right leg is bent; in the photo it goes another way.",
         lambda r: dict(r) | changed(r, "right_knee", (1.2, 0.0, 0.0))),
    ]  # fmt: skip
    told = []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for k, ((verdict, reasons, note, change), row) in enumerate(
            zip(lessons, photos, strict=True)
        ):
            row = change(row)
            errors = errors_of(body, row)
            files = draw_item(body, row, root / row["image_path"], (*PICTURE_FILES, "points.json"))
            kept = []
            for name, data in sorted(files.items()):
                if not data or (name.split(".")[0].removesuffix("_photo") == "face"):
                    continue
                archive.writestr(
                    _entry(f"{k}/{name}"), small(data) if name.endswith("jpg") else data
                )
                kept.append(name)
            told.append(
                {
                    "verdict": verdict, "reasons": [reasons] if reasons else [], "note": note,
                    "errors": errors,
                    "files": [n for n in kept if n.endswith(".jpg")],
                }
            )  # fmt: skip
        archive.writestr(_entry("lessons.json"), json.dumps(told, indent=1))


def _entry(name):
    return zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))


if __name__ == "__main__":
    main(*sys.argv[1:3])
