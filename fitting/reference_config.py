"""What can be chosen about the reference solver. Torch-free, so that commands start quickly.

The defaults are SMPLify-X as published (Pavlakos et al. 2019, and the settings released with it):
its schedule, its weights, and those of its defects that change the energy or the way to its
minimum, each a switch that says what it does. What was mere book-keeping is put right.
"""

import importlib.util
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

LICENCE_LINE = (
    "the smplx package poses the bodies (--reference-body smplx); its licence allows "
    "non-commercial research only"
)
"""What a command says when it is about to use that package."""


@dataclass(frozen=True)
class ReferenceStage:
    """Weights of one stage. Unlike those of ``StageConfig`` they are squared in the energy."""

    pose: float
    """Of the axis-angles of the body; bending counts 3.17 times this, not squared."""
    shape: float
    """Of the betas."""
    expression: float
    """Of the expression components."""
    hands: float
    """Of the hands' axis-angles without their mean."""
    jaw: tuple[float, float, float]
    """Of the jaw's axis-angle, component by component."""
    hand_points: float = 0.0
    """Of the 2D points of the hands."""
    face_points: float = 0.0
    """Of the 2D points of the face."""
    collision: float = 0.0
    """Of the interpenetration, where that is on. Not squared."""


PUBLISHED_STAGES: tuple[ReferenceStage, ...] = (
    ReferenceStage(404.0, 100.0, 100.0, 404.0, (4040.0, 40400.0, 40400.0)),
    ReferenceStage(404.0, 50.0, 50.0, 404.0, (4040.0, 40400.0, 40400.0)),
    ReferenceStage(57.4, 10.0, 10.0, 57.4, (574.0, 5740.0, 5740.0)),
    ReferenceStage(4.78, 5.0, 5.0, 4.78, (47.8, 478.0, 478.0), 0.1, 0.0, 0.01),
    ReferenceStage(4.78, 5.0, 5.0, 4.78, (47.8, 478.0, 478.0), 2.0, 2.0, 1.0),
)


@dataclass(frozen=True)
class ReferenceConfig:
    """How the reference solver fits."""

    # Spelt --reference-body, not --reference.body: it decides about a licence.
    body: Annotated[
        Literal["auto", "smplx", "own"], tyro.conf.arg(name="reference-body", prefix_name=False)
    ] = "auto"
    """Who poses the mesh under --solver lbfgs: smplx, as published (its licence is non-commercial),
    or own, this project's model; auto takes smplx where it is installed."""
    body_prior: Literal["l2"] = "l2"
    """Prior on the body's pose; l2 is the squared norm of the axis-angles."""
    stages: tuple[ReferenceStage, ...] = PUBLISHED_STAGES
    """The annealing."""
    num_hand_components: int = 12
    """PCA components that a hand's pose may use."""
    robust_px: float = 100.0
    """Scale of the Geman-McClure function, in pixels of the photo. Published; so a small photo is
    forgiven more."""
    freeze_translation: bool = True
    """Keep the camera stage's translation to the end. Published; shape then makes up for a wrong
    depth. False solves for it in every stage."""
    use_missing_torso_points: bool = True
    """Place the camera by all shoulders and hips, those unseen at pixel (0, 0). Published; without
    hips the depth is half of what it should be. False leaves them out."""
    orientation_threshold_px: float = 25.0
    """Try the body turned by 180 degrees too if its shoulders are closer in the photo. Published;
    in pixels, so a small photo is always tried both ways, and a person at 60 degrees never."""
    signed_gradient_stop: bool = True
    """Stop a stage when the largest signed entry of the gradients vanishes. Published; false takes
    the largest magnitude. Hardly ever matters."""
    save_last_orientation: bool = False
    """Return the orientation that was tried last, not the better one. Published, but a slip in what
    was saved, so off."""
    compare_stale_losses: bool = False
    """Choose the orientation by its loss before the optimiser's last call. Published, but a slip in
    what was returned, so off."""
    interpenetration: bool = False
    """Whether triangles of different parts that cross push each other away, by the weights of the
    stages (--interpenetration on). The published settings have it on; without its authors' CUDA
    extension it is off there, too."""
    cone_height_m: float = 1e-4
    """Height of the cone before each triangle in which others are felt. Published; so thin that
    only what is about to come out is pushed."""
    max_calls: int = 30
    """Most calls of L-BFGS a stage."""
    iterations_per_call: int = 30
    """Most iterations a call; 5/4 as many evaluations."""
    min_points: int = 5
    """Fewest points of the body that a person is fitted to. The published solver takes anything."""


def resolve_body(wanted: Literal["auto", "smplx", "own"]) -> Literal["smplx", "own"]:
    """Return who poses the mesh: ``auto`` is smplx where it is installed. Loads nothing."""
    if wanted != "auto":
        return wanted
    return "smplx" if importlib.util.find_spec("smplx") else "own"
