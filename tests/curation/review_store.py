"""A small store of fits with photos and a review whose truth is known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from curation.decisions import Decision, DecisionStore, default_url
from curation.reproject import Reprojector
from curation.run_writer import RunWriter
from curation.schema import fit_id
from curation.store import FitStore
from tests.fit_rows import example_row, run_info


@dataclass(frozen=True, eq=False)
class Review:
    """Attributes: DATA, its store, the fits in order, whether each is good."""

    data: Path
    store: FitStore
    fit_ids: list[str]
    good: np.ndarray


def make_review(data: Path, body: BodyData, photos: int = 40, seed: int = 0) -> Review:
    """Fits of one or two people a photo; photo 1 is photo 0 mirrored. Three annotators who err."""
    rng = np.random.default_rng(seed)
    (data / "images").mkdir(parents=True)
    points = Reprojector.for_body(body)
    rows, good = [], []
    for k in range(photos):
        name = f"images/im{k:03d}.png"
        pixels = gaussian_filter(rng.normal(size=(48, 64, 3)), (5, 5, 0))
        pixels = (255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8)
        if k == 1:
            pixels = np.asarray(Image.open(data / "images/im000.png"))[:, ::-1]
        Image.fromarray(pixels).save(data / name)
        for person in range(1 + (k % 5 == 0)):
            is_good = bool(rng.random() < 0.7)
            row = example_row(
                k, image_id=name, image_path=name, image_sha256=f"{k:064x}", person_index=person,
                run_id="run-1", dataset="photos", attempt=0, status="ok", reason="", has_fit=True,
                fit_id=fit_id("photos", name, person, "run-1"), width=64, height=48,
                has_left_hand=k % 2 == 0, has_right_hand=True, has_face=k % 3 == 0,
                body_name=body.name, body_sha256=body.sha256, body_is_open=body.is_open,
                focal_px=80.0, center_px=np.array([32, 24], np.float32),
                bbox_xyxy_px=np.array([5, 4, 60, 45], np.float32), person_height_px=40.0,
                residual_body_px=float(rng.lognormal(-0.5 if is_good else 0.7, 0.4)),
                has_truth=False, code_version="0",
            )  # fmt: skip
            row["residual_body_pct"] = 100 * row["residual_body_px"] / 40
            for pose in ("global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose"):
                row[pose] = (row[pose] * 0.01).astype(np.float32)
            row["global_orient"] = np.array([2.9, 0.1, 0.02 * k], np.float32)
            for side, hand in enumerate(("left_hand_pose", "right_hand_pose")):
                spread = rng.normal(0, 0.5, 12) @ body.hand_components[side][:12]
                hand_pose = body.hand_means[side] + spread
                row[hand] = hand_pose.reshape(15, 3).astype(np.float32)
            row["betas"] = (row["betas"] * 0.1).astype(np.float32)
            row["expression"] = (row["expression"] * 0.1).astype(np.float32)
            row["transl"] = np.array([0.1 * person, 0, 5 + 0.01 * k], np.float32)
            projected = points.project(row)
            seen = np.isfinite(projected).all(1)
            row["keypoints_2d"] = np.zeros((len(FIT_KEYPOINTS), 3), np.float32)
            row["keypoints_2d"][seen] = np.column_stack([projected[seen], np.ones(seen.sum())])
            rows.append(row)
            good.append(is_good)
    info = run_info(data, body_name=body.name, body_sha256=body.sha256,
                    body_is_open=body.is_open)  # fmt: skip
    store = FitStore(data / "fits")
    with RunWriter(store, info) as writer:
        for begin in range(0, len(rows), 12):
            images = {row["image_id"] for row in rows[begin : begin + 12]}
            if begin and rows[begin]["image_id"] == rows[begin - 1]["image_id"]:
                images.discard(rows[begin]["image_id"])
            writer.write(rows[begin : begin + 12])
        writer.finish("complete", {"fitted": len(rows)})
    ids = [row["fit_id"] for row in rows]
    _decide(store, ids, np.array(good), rng)
    return Review(data, FitStore(store.root), ids, np.array(good))


def _decide(store: FitStore, ids: list[str], good: np.ndarray, rng: np.random.Generator) -> None:
    decisions = DecisionStore(default_url(store.root))
    people = ("anna", "bert", "carl")
    out = []
    for k, name in enumerate(ids[:-4]):  # the last four are undecided
        for person in range(1 + (k % 3 == 0)):
            right = rng.random() < 0.93
            accept = bool(good[k]) == right
            out.append(
                Decision(
                    name, people[(k + person) % 3], "accept" if accept else "reject",
                    parts=frozenset({"body", "right_hand", "face"}) if accept and k % 4 == 0
                    else frozenset({"body", "left_hand", "right_hand", "face"}) if accept
                    else frozenset(),
                    reasons=() if accept else (("limb_off", "depth_off")[k % 2],),
                    seconds=float(rng.uniform(1, 9)),
                    source="audit" if k % 5 == 0 else "queue",
                    probability=0.2 if k % 5 == 0 else float("nan"),
                )
            )  # fmt: skip
    decisions.append_all(out)
    decisions.close()
