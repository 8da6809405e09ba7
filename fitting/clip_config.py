"""How a clip is fitted. Torch-free."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipConfig:
    """How frames of a clip are tied together. Differences are those between frames at 30 Hz."""

    w_motion: float = 0.5
    """Squared second differences of the joints' places, in the units of the 2D residuals: 1 expects
    some 10 mm a frame and frame."""
    w_turns: float = 100.0
    """The same of the body's rotations, radians; it is for twists, which no joint shows."""
    w_details: float = 900.0
    """The same of fingers, jaw and eyes."""
    w_expression: float = 100.0
    """The same of the expression."""
    step_m: float = 0.06
    """A joint's usual way from frame to frame, by which answers that follow each other are told
    from those that jump."""
    longest_gap: int = 10
    """Frames further apart are not tied to each other."""
    iterations: int = 50
    """Most iterations of all frames together."""
