"""Train the lifter: ``python -m regressor.lifter.train MOCAP.npz --out lifter.safetensors``.

The bank of people is drawn anew every ``refresh`` steps, the cameras at every step. Subjects whose
number is divisible by five are left out, as in the pose prior, so that they can be tested on.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class TrainLifter:
    """Train the keypoint lifter on motion capture."""

    mocap: Positional[Path]
    """Motion capture, as bodymodel.mocap.load_mocap reads it."""
    out: Path = Path("lifter.safetensors")
    """Where the weights go."""
    steps: int = 20000
    """Steps of the optimiser."""
    batch: int = 256
    """Persons a step."""
    people: int = 20000
    """Persons in the bank."""
    refresh: int = 4000
    """Steps between two banks."""
    learning_rate: float = 1e-3
    """Of AdamW, warmed up over 500 steps, then falling as a cosine."""
    device: str = "cpu"
    """Where it is trained."""
    seed: int = 0
    """Of everything drawn."""


def main() -> None:
    """Run the command."""
    config = tyro.cli(TrainLifter, description=__doc__)
    from regressor.lifter.training import train

    sys.exit(train(config))


if __name__ == "__main__":
    main()
