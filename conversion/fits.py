"""Conversions as rows of the project's store of fits, to be reviewed and trained on.

A row is a person in a photo. Where the source knows the camera (EFT, 3DPW), the row is in its
frame, with its focal length, and is drawn over the photo like any fit. Where it does not (motion
capture, meshes, SPIN's npz), ``focal_px`` is NaN and ``focal_source`` empty: pose and shape are as
good, but there is nothing to draw them over, and ``global_orient`` and ``transl`` are in the
source's own frame. There are no keypoints and no residuals; how far the row is from its source is
in ``energy`` (``v2v_mean_mm``, ``v2v_p99_mm``).
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import BODY_JOINTS, PARTS
from conversion.clips import Clip, Frames
from conversion.output import part_columns
from conversion.result import CONVERTED
from curation.reproject import rotvec_to_rotmat, trunk_lean_deg
from curation.schema import POSE_SHAPES, fit_id, image_key

__all__ = ["FitRows", "in_camera"]

_log = logging.getLogger(__name__)
_K = len(FIT_KEYPOINTS)


def in_camera(
    orient: np.ndarray, transl: np.ndarray, pelvis: np.ndarray, to_camera: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move bodies from the world into the camera's frame.

    The root turns about the pelvis, which is not the origin: for x -> R x + t the translation
    becomes ``R (pelvis + transl) + t - pelvis``.

    Args:
        orient: (F, 3) axis-angle.
        transl: (F, 3) metres.
        pelvis: (F, 3) of the unposed bodies.
        to_camera: (F, 3, 4).

    Returns:
        The axis-angles and translations, (F, 3).
    """
    from scipy.spatial.transform import Rotation

    turn, shift = to_camera[..., :3], to_camera[..., 3]
    turned = turn @ rotvec_to_rotmat(orient)
    there = (turn @ (pelvis + transl)[..., None])[..., 0] + shift - pelvis
    return Rotation.from_matrix(turned).as_rotvec(), there


@dataclass(eq=False)
class FitRows:
    """Writes converted parts into a store of fits: a run for each target body.

    Attributes:
        root: Of the store.
        dataset: Name of the source.
        dataset_root: Where its images are.
        config: The settings, as plain YAML types.
        config_hash: Of those that change rows.
        shard: (I, N).
        device: The solver's.
        images: Whether to look at the images for their size and hash.
    """

    root: Path
    dataset: str
    dataset_root: Path
    config: Mapping[str, Any]
    config_hash: str
    shard: tuple[int, int] = (0, 1)
    device: str = "cpu"
    images: bool = False
    written: int = 0
    _runs: dict[str, tuple[Any, set[bytes]]] = field(default_factory=dict)

    def add(
        self,
        clip: Clip,
        frames: Frames | None,
        path: Path,
        target: BodyData,
        model_of: Callable[[BodyData], Any],
    ) -> None:
        """Write a part's rows, unless they are there.

        Args:
            clip: The source.
            frames: The part's, for the camera; None for meshes.
            path: Of the part.
            target: Its body, SMPL-X.
            model_of: Gives the BodyModel of a body, for boxes.
        """
        import pyarrow.parquet as pq

        writer, done = self._run(target)
        names = ["clip", "frame", "label", "status", "reason", "iterations", "solve_ms"]
        file = pq.ParquetFile(path)
        texts = file.read(names).to_pydict()
        ids = [f"{c}/{f:06d}" for c, f in zip(texts["clip"], texts["frame"], strict=True)]
        if all(image_key(x) in done for x in ids):
            return
        numbers = part_columns(
            path, [*POSE_SHAPES, "betas", "expression", "transl", "v2v_mean_mm", "v2v_p99_mm"]
        )
        self._place(numbers, frames, target)
        seen = self._seen(numbers, frames, target, model_of)
        rows, empty = [], self._empty_row(writer.info, target)
        for k, image_id in enumerate(ids):
            status = texts["status"][k]
            row = empty | {
                "fit_id": fit_id(self.dataset, image_id, 0, writer.info.run_id),
                "image_id": image_id,
                # the store knows no wrong meshes or parameters
                "status": "label_error" if status == "input_error" else status,
                "has_fit": status in CONVERTED,
                **{name: texts[name][k] for name in ("reason", "iterations", "solve_ms")},
                **self._image(clip, texts["label"][k]),
            }
            if row["has_fit"]:
                row |= {n: numbers[n][k].reshape(s) for n, s in POSE_SHAPES.items()}
                row |= {n: numbers[n][k] for n in ("betas", "transl")}
                if target.num_expression:
                    row["expression"] = numbers["expression"][k]
                row |= {name: value[k] for name, value in seen.items()}
                v2v = {n: float(numbers[n][k]) for n in ("v2v_mean_mm", "v2v_p99_mm")}
                row |= {"energy": v2v, "energy_total": v2v["v2v_mean_mm"]}
            rows.append(row)
        writer.write(rows)  # a part comes once a run: what is done needs no noting
        self.written += len(rows)

    def close(self, outcome: str) -> None:
        """Note in the runs' records how it went, and let others write."""
        for writer, _ in self._runs.values():
            writer.finish(outcome, {"converted": self.written})
            writer.close()
        self._runs.clear()

    def _run(self, target: BodyData) -> tuple[Any, set[bytes]]:
        from curation.run_writer import RunInfo, RunWriter
        from curation.store import FitStore

        if target.sha256 not in self._runs:
            store = FitStore(self.root)
            run_id = f"conversion-{target.gender}-{target.sha256[:6]}-{self.config_hash[:8]}"
            info = RunInfo(
                run_id=run_id, config=dict(self.config), config_hash=self.config_hash,
                dataset=self.dataset, dataset_root=self.dataset_root, body_name=target.name,
                body_sha256=target.sha256, body_is_open=target.is_open,
                code_version=_code_version(), num_betas=target.num_betas,
                num_expression=target.num_expression,
            )  # fmt: skip
            writer = RunWriter(store, info, self.shard)
            self._runs[target.sha256] = writer, store.stored_images(run_id).done
        return self._runs[target.sha256]

    @staticmethod
    def _place(numbers: dict[str, np.ndarray], frames: Frames | None, target: BodyData) -> None:
        """Move rows into the camera's frame, where one is known."""
        if frames is None or frames.to_camera is None:
            return
        betas = np.nan_to_num(numbers["betas"])
        root = target.joint_regressor[0].astype(np.float64)
        dirs = np.einsum("v,vcs->cs", root, target.shapedirs)
        pelvis = root @ target.v_template + betas @ dirs.T
        orient = np.nan_to_num(numbers["global_orient"])
        orient, transl = in_camera(orient, numbers["transl"], pelvis, frames.to_camera)
        bad = np.isnan(numbers["transl"]).any(1)
        numbers["global_orient"] = np.where(bad[:, None], np.nan, orient)
        numbers["transl"] = transl

    @staticmethod
    def _seen(
        numbers: Mapping[str, np.ndarray],
        frames: Frames | None,
        target: BodyData,
        model_of: Callable[[BodyData], Any],
    ) -> dict[str, np.ndarray]:
        """Camera, box and lean of the rows, where the camera is known."""
        if frames is None or frames.focal_px is None:
            return {}
        import torch

        model, count = model_of(target), len(numbers["transl"])
        focal = frames.focal_px.astype(np.float32)
        center = frames.center_px.astype(np.float32)
        boxes = np.full((count, 4), np.nan, np.float32)
        lean = np.full(count, np.nan)
        pose = np.concatenate([numbers[name].reshape(count, -1, 3) for name in POSE_SHAPES], 1)
        for low in range(0, count, 64):
            rows = slice(low, low + 64)
            given = (pose[rows], numbers["betas"][rows])
            given += (numbers["expression"][rows],) if target.num_expression else ()
            with torch.no_grad():
                out = model.forward_pose(
                    *(torch.as_tensor(np.nan_to_num(x).astype(np.float32)) for x in given)
                )
            joints = out.joints.numpy()
            points = out.vertices.numpy() + numbers["transl"][rows, None]
            front = points[..., 2].min(1) > 0.05
            depth = np.maximum(points[..., 2:], 0.05)
            pixels = focal[rows, None, None] * points[..., :2] / depth + center[rows, None]
            box = np.concatenate([pixels.min(1), pixels.max(1)], 1)
            boxes[rows] = np.where(front[:, None], box, np.nan)
            lean[rows] = [trunk_lean_deg(j, target) for j in joints]
        known = np.isfinite(focal)
        return {
            "focal_px": focal,
            "center_px": center,
            "focal_source": np.where(known, "given", "").tolist(),
            "has_bbox": np.isfinite(boxes).all(1).tolist(),
            "bbox_xyxy_px": boxes,
            "trunk_lean_deg": np.where(known, lean, np.nan).tolist(),
        }

    def _image(self, clip: Clip, label: str) -> dict[str, Any]:
        if not clip.has_images or not label:
            return {}
        out: dict[str, Any] = {"image_path": label.replace("\\", "/")}
        if self.images:
            from curation.images import ImageError, read_header

            try:
                header = read_header(self.dataset_root / label)
                out |= {"width": header.width, "height": header.height}
                out["image_sha256"] = header.sha256
            except (ImageError, OSError) as error:
                _log.debug("%s: %s", label, error)
        return out

    def _empty_row(self, info: Any, target: BodyData) -> dict[str, Any]:
        """Every column, as it is without a fit, a camera or an image; rows share its arrays."""
        nan = math.nan
        shapes = POSE_SHAPES | {"betas": (target.num_betas,), "transl": (3,), "center_px": (2,)}
        shapes |= {"expression": (target.num_expression,)} if target.num_expression else {}
        shapes |= {"residual_px": (_K,), "bbox_xyxy_px": (4,)}
        shapes |= {"joint_covariance_mm2": (len(BODY_JOINTS), 6)}
        numbers = ("focal_px", "person_height_px", "residual_body_pct", "trunk_lean_deg")
        numbers += ("energy_total", "start_margin", "mpjpe_mm", "pa_mpjpe_mm")
        numbers += ("oks_detection", "oks_fit", "betas_abs_max", "prior_energy")
        numbers += tuple(f"joint_std_{group}_mm" for group in ("place", "trunk", "arms", "legs"))
        numbers += ("residual_3d_mm", "self_penetration_mm", "self_penetration_cm2")
        numbers += ("trunk_lean_error_deg", *(f"residual_{part}_px" for part in PARTS))
        return (
            {name: np.full(shape, nan, np.float32) for name, shape in shapes.items()}
            | dict.fromkeys(numbers, nan)
            | dict.fromkeys(
                ("has_bbox", "has_keypoints", "has_left_hand", "has_right_hand", "has_face"), False
            )
            | {
                "run_id": info.run_id, "dataset": self.dataset, "image_path": "",
                "image_sha256": "", "person_index": 0, "attempt": 0, "width": 0, "height": 0,
                "focal_source": "", "body_name": target.name, "body_sha256": target.sha256,
                "body_is_open": target.is_open, "keypoint_convention": "fit",
                "keypoints_2d": np.zeros((_K, 3), np.float32),
                "keypoint_source": np.zeros(_K, np.int8), "energy": {}, "starts": [],
                "start_energies": [], "self_penetration_parts": [],
                "keypoint_places": [],
                "start_winner": "", "silhouette": "", "views": 0,
                "has_truth": False, "code_version": info.code_version,
                "torch_version": _version("torch"), "device": self.device,
                "config_hash": info.config_hash,
            }
        )  # fmt: skip


def _code_version() -> str:
    return _version("pseudogt") or "source"


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
