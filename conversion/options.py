"""Settings of a transfer. Torch-free: they are flags of conversion.run."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["TransferOptions"]


@dataclass(frozen=True)
class TransferOptions:
    """Settings of a transfer."""

    start: Literal["closed_form", "zeros"] = "closed_form"
    """Closed form, or the published stages from the T-pose."""
    betas_weight: float = 1e-3
    """Ties betas to zero: mm^2 of mean square distance per squared standard deviation. A thousandth
    leaves the surface where it is and forbids wild values."""
    expression_weight: float = 1e-4
    """Likewise."""
    fingers_weight: float = 5.0
    """Ties fingers that the source does not have to the flat hand: mm^2 / rad^2."""
    num_samples: int = 1000
    """Vertices that the solver looks at before the polish on all."""
    iterations: int = 30
    """Most steps of the solver."""
    polish_iterations: int = 10
    """Most steps on all vertices."""
    far_mm: float = 30.0
    """A result this far from its mesh on average is no conversion."""
    part_pose: Literal["given", "solved"] = "given"
    """MANO's fingers and FLAME's head, jaw, eyes, expression. given: taken over, and place, turn
    and shape found; solved: all is found from the mesh.
    """
