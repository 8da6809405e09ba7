"""From where the fast solver ended to what it hands back, one person at a time."""

from collections.abc import Sequence

import numpy as np
import torch

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.sliced import sliced_forward
from fitting.config import FitConfig
from fitting.covariance import joint_covariance
from fitting.ending import Ending
from fitting.energy import TERMS, Energy
from fitting.extra import has_2d, residual_3d_mm
from fitting.prepared import PreparedBody
from fitting.records import FitResult, FitTarget
from fitting.residuals import part_medians, point_residuals
from fitting.starts import START_NAMES, stature_m
from fitting.uncertainty import pack_mm2

__all__ = ["make_results", "refused_result"]


def make_results(
    prepared: PreparedBody, targets: Sequence[FitTarget], energy: Energy, ending: Ending
) -> list[FitResult]:
    """Return the result of each person.

    Args:
        prepared: The body.
        targets: B persons.
        energy: Of the last stage.
        ending: Where they ended.
    """
    x, layout = ending.x, prepared.layout
    terms = energy.terms(x)
    total = terms.sum(1)
    sliced = prepared.all_points
    state = sliced_forward(sliced, layout.full_pose(x), layout.shape(x), layout.transl(x))
    focal = energy.evidence.focal_px * layout.zoom(x)
    center = energy.evidence.center_px
    pixels = focal[:, None, None] * state.points[..., :2] / state.points[..., 2:]
    pixels = (pixels + center[:, None]).cpu().double().numpy()
    covariance = joint_covariance(
        energy, energy(x).matrix, x, prepared.body_joints, prepared.config.uncertainty,
        ending.rivals,
    )  # fmt: skip
    covariance = pack_mm2(covariance.cpu().double().numpy())
    tall = stature_m(prepared.stature, layout.shape(x)) * focal / layout.transl(x)[:, 2]
    params = layout.params(x).numpy()
    places = state.points.cpu().double().numpy()
    tried = ending.tried.cpu().numpy()
    energies = ending.start_energies.cpu().float().numpy()
    is_finite = (torch.isfinite(x).all(1) & torch.isfinite(total)).tolist()
    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    results = []
    for k, target in enumerate(targets):
        projected = np.full((len(FIT_KEYPOINTS), 2), np.nan, np.float32)
        is_seen = has_2d(target) or bool(target.views)
        if is_seen:
            projected[rows] = pixels[k]
        confidence = np.asarray(target.keypoints_2d)[:, 2]
        residual = point_residuals(projected, target.keypoints_2d)
        is_used = (confidence >= prepared.config.min_confidence) & (confidence > 0)
        status, reason = _status(is_finite[k], bool(ending.converged[k]), prepared.config)
        results.append(
            FitResult(
                params={n: v[k].astype(np.float32) for n, v in params.items()},
                projected_2d=projected,
                residual_px=residual,
                residual_part_px=part_medians(np.where(is_used, residual, np.nan)),
                person_height_px=float(tall[k]) if is_seen else float("nan"),
                energy=dict(zip(TERMS, terms[k].tolist(), strict=True)),
                energy_total=float(total[k]),
                starts=tuple(name for name, ok in zip(START_NAMES, tried[k], strict=True) if ok),
                start_energies=energies[k][tried[k]],
                start_margin=float(ending.start_margin[k]),
                winner=START_NAMES[int(ending.winner[k])],
                iterations=int(ending.iterations[k]),
                status=status,
                reason=reason,
                focal_px=float(focal[k]) if is_seen else float("nan"),
                joint_covariance_mm2=covariance[k],
                residual_3d_mm=residual_3d_mm(target, rows, places[k]),
                self_penetration=ending.self_penetration[k],
            )
        )
    return results


def _status(is_finite: bool, converged: bool, config: FitConfig) -> tuple[str, str]:
    """Return FitResult's status and reason."""
    if not is_finite:
        return "solver_error", "the solver ended at values that are not numbers"
    if not converged:
        limit = config.fine[-1].iterations
        reason = f"the energy still fell after {limit} iterations of the last stage"
        return "not_converged", reason
    return "ok", ""


def refused_result(prepared: PreparedBody, reason: str) -> FitResult:
    """Return the result of a person who is not fitted."""
    size, like = prepared.layout.size, prepared.layout.hand_means
    params = prepared.layout.params(like.new_full((1, size), torch.nan)).numpy()
    arrays = {name: value[0] for name, value in params.items()}
    return FitResult.refused(arrays, TERMS, "too_few_keypoints", reason)
