"""Motion capture as places of joints to body parameters: 3D keypoints without a photo."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from fitting.config import FitConfig
from fitting.fit import Fitter
from fitting.records import FitResult, FitTarget

__all__ = ["JointsFit", "fit_joints"]


@dataclass(frozen=True, eq=False)
class JointsFit:
    """Bodies whose joints lie where they were recorded.

    Attributes:
        params: The fields of BodyParams, (F, ...) float32, in the frame of the recording.
        error_mm: (F, N) distance of each joint that was given, NaN where it was missing.
        results: What the solver said of each frame.
    """

    params: dict[str, np.ndarray]
    error_mm: np.ndarray
    results: list[FitResult]


def fit_joints(
    body: BodyData,
    joints: np.ndarray,
    names: Sequence[str],
    *,
    weight: float = 100.0,
    is_clip: bool = True,
    fitter: Fitter | None = None,
) -> JointsFit:
    """Fit a body to recorded joints.

    Args:
        body: A SMPL-X body.
        joints: (F, N, 3) metres in any right-handed frame; NaN where a joint is missing.
        names: Of the N joints, out of FIT_KEYPOINTS (BODY_JOINTS, fingers, landmarks).
        weight: Of the points, beside keypoints in a photo: 100 takes them for exact to 2 mm.
        is_clip: Whether the frames follow each other, one person: they share a shape, and move
            smoothly. Else each frame is fitted by itself.
        fitter: To be used again; made for ``body`` by default.

    Raises:
        ValueError: If a name or a shape is wrong.
    """
    joints = np.asarray(joints, np.float64)
    unknown = [name for name in names if name not in FIT_KEYPOINTS]
    if unknown or joints.ndim != 3 or joints.shape[1:] != (len(names), 3):
        raise ValueError(
            f"joints must be (F, {len(names)}, 3) and the names keypoints of the 'fit' convention; "
            f"got {joints.shape}, unknown names {unknown}"
        )
    if fitter is None:
        config = FitConfig(w_points_3d=weight, loose_weight=1.0, interpenetration="off")
        clip = replace(config.clip, w_motion=config.clip.w_motion * weight)
        fitter = Fitter(body, replace(config, clip=clip))
    rows = [FIT_KEYPOINTS.index(name) for name in names]
    nobody = np.zeros((len(FIT_KEYPOINTS), 3), np.float32)
    targets = []
    for k, frame in enumerate(joints):
        points = np.zeros((len(FIT_KEYPOINTS), 4))
        seen = np.isfinite(frame).all(1)
        points[rows, :3] = np.where(seen[:, None], frame, 0)
        points[rows, 3] = seen
        targets.append(
            FitTarget(
                nobody, 1000.0, np.zeros(2), keypoints_3d=points,
                clip="joints" if is_clip else "", frame=k,
            )
        )  # fmt: skip
    results = fitter.fit(targets)
    return JointsFit(
        {name: np.stack([r.params[name] for r in results]) for name in results[0].params},
        np.stack(
            [
                np.full(len(rows), np.nan) if r.residual_3d_mm is None else r.residual_3d_mm[rows]
                for r in results
            ]
        ),
        results,
    )
