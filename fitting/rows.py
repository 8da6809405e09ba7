"""From an observation and its fit to a row of the store. Torch-free."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import BODY_JOINTS, PARTS, keypoint_part
from curation.reproject import posed_joints
from curation.samples import PersonObservation
from curation.schema import FIT_STATUSES, PARAMETERS, POSE_SHAPES, fit_id
from fitting.focal import choose_focal
from fitting.further import with_further
from fitting.quality import NO_QUALITY, quality_columns
from fitting.records import FitResult, FitTarget
from fitting.truth import NO_TRUTH, errors_against_truth
from fitting.uncertainty import joint_std_mm

__all__ = ["RowMaker", "fit_target"]

_PART_POINTS = {
    part: np.array([keypoint_part(name) == part for name in FIT_KEYPOINTS]) for part in PARTS
}


def fit_target(
    observation: PersonObservation,
    given_px: float | None = None,
    *,
    fov_deg: float | None = None,
    free_sd: float = 0.0,
) -> FitTarget:
    """Return what the solver is given of a person.

    The principal point is the data set's, else the image's centre. See ``choose_focal`` for the
    arguments.
    """
    o = observation
    choice = choose_focal(o, given_px, fov_deg=fov_deg, free_sd=free_sd)
    center = (o.width / 2, o.height / 2)
    if o.camera is not None and o.camera.center_px is not None:
        center = o.camera.center_px
    # What is stored is float32: solve with exactly that.
    focal_px, center_px = float(np.float32(choice.focal_px)), np.array(center, np.float32)
    target = FitTarget(
        o.keypoints_2d,
        focal_px,
        center_px,
        float(o.height),
        choice.sd,
        world_points=o.world_points,
        conventions=o.conventions,
    )
    return target if o.further is None else with_further(target, o.further)


@dataclass(frozen=True, eq=False)
class RowMaker:
    """Makes the rows of one run.

    Attributes:
        run_id: The run.
        dataset: Name of the dataset.
        body: The body that is fitted.
        config_hash: Of the settings.
        code_version: Of this project.
        torch_version: Of torch.
        device: The solver's.
        focal_px: The user's focal length, None for the data set's, EXIF's, or the usual one.
        fov_deg: Likewise as an angle of view across the longer side.
        focal_sd: Of the logarithm of the usual one; 0 takes it as it is.
        calibrated: Whether the solver puts points where their conventions do; the reference solver
            does not.
    """

    run_id: str
    dataset: str
    body: BodyData
    config_hash: str
    code_version: str
    torch_version: str
    device: str
    focal_px: float | None = None
    fov_deg: float | None = None
    focal_sd: float = 0.0
    calibrated: bool = True

    def target(self, observation: PersonObservation) -> FitTarget:
        """Return what the solver is given of a person."""
        return fit_target(observation, self.focal_px, fov_deg=self.fov_deg, free_sd=self.focal_sd)

    def row(
        self,
        observation: PersonObservation,
        result: FitResult | None,
        image_path: str,
        solve_ms: float = math.nan,
        attempt: int = 0,
    ) -> dict[str, Any]:
        """Return a row of curation.schema.fit_schema.

        Args:
            observation: The person.
            result: Their fit; None where the observation's status says why there is none.
            image_path: Of the photo, relative to the dataset's root.
            solve_ms: Their share of the solver's time.
            attempt: How often the image was retried.
        """
        o = observation
        status, reason = (o.status, o.reason) if result is None else (result.status, result.reason)
        has_fit = result is not None and status in FIT_STATUSES
        if has_fit and not _is_finite(result):
            status, reason = "solver_error", "the solver gave numbers that are not finite"
            has_fit = False
        seen = o.keypoints_2d[:, 2] > 0
        row: dict[str, Any] = {
            "fit_id": fit_id(self.dataset, o.image_id, o.person_index, self.run_id),
            "run_id": self.run_id,
            "dataset": self.dataset,
            "image_id": o.image_id,
            "image_path": image_path,
            "image_sha256": o.image_sha256,
            "person_index": o.person_index,
            "attempt": attempt,
            "width": o.width,
            "height": o.height,
            "has_bbox": bool(np.isfinite(o.bbox_xyxy_px).all()),
            "bbox_xyxy_px": o.bbox_xyxy_px,
            "status": status,
            "reason": reason,
            "has_fit": has_fit,
            "body_name": self.body.name,
            "body_sha256": self.body.sha256,
            "body_is_open": self.body.is_open,
            "keypoint_convention": "fit",
            "has_keypoints": bool(seen.any()),
            "keypoints_2d": o.keypoints_2d,
            "keypoint_source": o.keypoint_source,
            "keypoint_places": list(o.conventions if self.calibrated else ()),
            "silhouette": "",  # whoever had the mask made knows
            "views": 1 + len(o.further.views) if o.further is not None else 1,
            "has_left_hand": bool((seen & _PART_POINTS["left_hand"]).any()),
            "has_right_hand": bool((seen & _PART_POINTS["right_hand"]).any()),
            "has_face": bool((seen & _PART_POINTS["face"]).any()),
            "oks_detection": o.oks_detection,
            "code_version": self.code_version,
            "torch_version": self.torch_version,
            "device": self.device,
            "config_hash": self.config_hash,
            "solve_ms": solve_ms,
        }
        row |= self._fit(o, result) if has_fit else self._no_fit()
        return row

    def _fit(self, observation: PersonObservation, result: FitResult) -> dict[str, Any]:
        target = self.target(observation)
        focal_px = result.focal_px if math.isfinite(result.focal_px) else target.focal_px
        source = choose_focal(
            observation, self.focal_px, fov_deg=self.fov_deg, free_sd=self.focal_sd
        ).source
        sizes = {"betas": self.body.num_betas, "expression": self.body.num_expression}
        params = {k: result.params[k] for k in PARAMETERS if sizes.get(k, 1)}
        joints = posed_joints(self.body, result.params)
        errors = NO_TRUTH
        if observation.truth is not None:
            errors = errors_against_truth(self.body, joints, observation.truth)
        return params | {
            "focal_px": focal_px,
            "center_px": target.center_px,
            "focal_source": source,
            "residual_px": result.residual_px,
            "residual_3d_mm": _median(result.residual_3d_mm),
            **quality_columns(self.body, observation, result, joints),
            "energy": {str(k): float(v) for k, v in result.energy.items()},
            "energy_total": float(result.energy_total),
            "starts": list(result.starts),
            "start_energies": np.asarray(result.start_energies, np.float32).tolist(),
            "start_winner": result.winner,
            "iterations": int(result.iterations),
            **_uncertainty(result.joint_covariance_mm2),
            **errors,
        }

    def _no_fit(self) -> dict[str, Any]:
        """Every column of _fit, empty."""
        nan = math.nan
        shapes = POSE_SHAPES | {"transl": (3,), "center_px": (2,)}
        shapes |= {"residual_px": (len(FIT_KEYPOINTS),), "betas": (self.body.num_betas,)}
        shapes |= {"expression": (self.body.num_expression,)}
        numbers = ("focal_px", "energy_total", "residual_3d_mm")
        arrays = {k: np.full(shape, nan, np.float32) for k, shape in shapes.items() if all(shape)}
        return (
            arrays
            | dict.fromkeys(numbers, nan)
            | {"focal_source": "", "energy": {}, "starts": [], "start_energies": []}
            | {"start_winner": ""}
            | {"iterations": 0, **_uncertainty(None), **NO_QUALITY, **NO_TRUTH}
        )


def _uncertainty(covariance: np.ndarray | None) -> dict[str, Any]:
    """Return the columns of the joints' covariances; None for unknown."""
    if covariance is None:
        covariance = np.full((len(BODY_JOINTS), 6), np.nan, np.float32)
    spread = {f"joint_std_{k}_mm": v for k, v in joint_std_mm(covariance).items()}
    return {"joint_covariance_mm2": covariance, **spread}


def _median(values: np.ndarray | None) -> float:
    values = np.zeros(0) if values is None else values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def _is_finite(result: FitResult) -> bool:
    return all(np.isfinite(value).all() for value in result.params.values())
