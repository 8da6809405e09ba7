"""How a person is turned in the picture, from whatever of them is seen."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fitting.starts import COARSE_POINTS, image_roll

UPRIGHT = {
    "nose": (0, 10), "left_eye": (3, 6), "right_eye": (-3, 6), "left_ear": (7, 8),
    "right_ear": (-7, 8), "head_top": (0, -8), "neck": (0, 25),
    "left_shoulder": (18, 30), "right_shoulder": (-18, 30),
    "left_hip": (10, 80), "right_hip": (-10, 80), "pelvis": (0, 78),
}  # fmt: skip
SLICED = SimpleNamespace(points=COARSE_POINTS)


def roll_of(names, turn=0.0, weights=None):
    """The roll that is found where only ``names`` are seen and the picture is turned."""
    c, s = np.cos(turn), np.sin(turn)
    points = torch.zeros(1, len(COARSE_POINTS), 2, dtype=torch.float64)
    seen = torch.zeros(1, len(COARSE_POINTS), dtype=torch.float64)
    for name in names:
        x, y = UPRIGHT[name]
        k = COARSE_POINTS.index(name)
        points[0, k] = torch.tensor([c * x - s * y + 200, s * x + c * y + 300])
        seen[0, k] = (weights or {}).get(name, 1.0)
    evidence = SimpleNamespace(points_px=points, weights=seen, center_px=torch.zeros(1, 2).double())
    return float(image_roll(SLICED, evidence)[0])


FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
SHOULDERS = ("left_shoulder", "right_shoulder")


@pytest.mark.parametrize("turn", [0.0, 0.4, -2.0, 3.0])
@pytest.mark.parametrize(
    "names",
    [
        tuple(UPRIGHT), (*SHOULDERS, "left_hip", "right_hip"), ("pelvis", "neck"),
        (*SHOULDERS, *FACE), ("neck", "head_top"), FACE, (*FACE, "left_shoulder"),
        (*FACE, "right_shoulder"), (*FACE, "left_hip"),
    ],
)  # fmt: skip
def test_whatever_is_seen_tells_the_same(names, turn):
    assert roll_of(names, turn) == pytest.approx(turn, abs=1e-9)


def test_one_side_is_a_trunk_and_its_other_shoulder_does_not_tilt_it():
    """A hip that is hidden must not turn the trunk towards the hip that is seen."""
    one = roll_of((*SHOULDERS, "right_hip", *FACE))
    assert one == pytest.approx(-np.arctan2(8, 50), abs=1e-9)  # the shoulder is outside the hip
    assert roll_of(("right_shoulder", "right_hip")) == pytest.approx(one)


def test_how_sure_a_point_is_does_not_turn_the_trunk():
    names = (*SHOULDERS, "left_hip", "right_hip")
    assert roll_of(names, weights={"left_hip": 0.05}) == pytest.approx(0, abs=1e-9)


def test_who_shows_nothing_of_it_is_upright():
    assert roll_of(("left_eye",)) == 0
    assert roll_of(("left_shoulder", "right_hip")) == 0
