"""What a conversion gives back, row by row. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import PARTS

__all__ = ["CONVERTED", "TransferResult", "failed_result"]

CONVERTED = ("ok", "not_converged")
"""The statuses whose rows hold parameters."""


@dataclass(frozen=True, eq=False)
class TransferResult:
    """B conversions. Rows whose status is not ok or not_converged hold NaN.

    Attributes:
        full_pose: (B, J, 3) float32 axis-angle in the order of the target's joints.
        betas: (B, B') float32.
        expression: (B, E) float32.
        transl: (B, 3) float64 metres.
        status: ok, not_converged, input_error or solver_error.
        reason: One sentence where not ok.
        v2v_mean_mm: (B,) distance to the sampled source on valid vertices; v2v_p99_mm, v2v_max_mm
            likewise.
        v2v_part_mm: Mean by spec.PARTS, NaN where a part has no valid vertex.
        iterations: (B,) steps of the solver, polish included.
    """

    full_pose: np.ndarray
    betas: np.ndarray
    expression: np.ndarray
    transl: np.ndarray
    status: list[str]
    reason: list[str]
    v2v_mean_mm: np.ndarray
    v2v_p99_mm: np.ndarray
    v2v_max_mm: np.ndarray
    v2v_part_mm: dict[str, np.ndarray] = field(default_factory=dict)
    iterations: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.status)


def failed_result(body: BodyData, reasons: Sequence[str]) -> TransferResult:
    """Return the result where nothing can be converted.

    Args:
        body: The target.
        reasons: Of each row.
    """

    def empty(*shape: int, dtype=np.float32) -> np.ndarray:
        return np.full((len(reasons), *shape), np.nan, dtype)

    return TransferResult(
        full_pose=empty(len(body.parents), 3),
        betas=empty(body.num_betas),
        expression=empty(body.num_expression),
        transl=empty(3, dtype=np.float64),
        status=["input_error"] * len(reasons),
        reason=list(reasons),
        v2v_mean_mm=empty(),
        v2v_p99_mm=empty(),
        v2v_max_mm=empty(),
        v2v_part_mm={part: empty() for part in PARTS},
        iterations=np.zeros(len(reasons), np.int64),
    )
