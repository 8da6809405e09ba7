"""What can be chosen about a fit. Every weight multiplies a *squared* residual.

Units follow SMPLify-X (Pavlakos et al. 2019, section 3.3 and its released configuration): 2D
residuals count in thousandths of the picture height that a person usually has a good part of,
angles in radians, shape in standard deviations. Two things differ on purpose. The picture height is
replaced by 1.25 times the person's own height in pixels, so that a small person in a large picture
is fitted as carefully as a large one; and hands and face, which have more points than the body, are
weighted so that they do not out-vote it on where the body is.
"""

from dataclasses import dataclass, field
from typing import Literal

from fitting.clip_config import ClipConfig
from fitting.focal import FocalConfig
from fitting.uncertainty import UncertaintyConfig


@dataclass(frozen=True)
class StageConfig:
    """One step of the annealing."""

    iterations: int
    """Most Levenberg-Marquardt iterations."""
    w_pose: float
    """Pose prior."""
    w_shape: float
    """Squared betas."""
    w_hand_points: float = 0.0
    """2D points of the fingers; 0 leaves the fingers at rest."""
    w_face_points: float = 0.0
    """2D points of the face; 0 leaves jaw, eyes and expression at rest."""
    w_expression: float = 3.0
    """Squared expression components: what their being normal is worth beside points of the face at
    the last stage's weight. SMPLify-X's 25 leaves no expression at all at that weight."""
    w_hand: float = 22.8
    """Squared PCA coefficients of the hands (radians)."""
    w_jaw: float = 2280.0
    """Squared jaw opening; sideways and twist cost 100 times as much."""
    w_eyes: float = 2280.0
    """Squared eye rotations."""
    w_limits: float = 1000.0
    """Squared excess over the anatomical joint limits."""
    w_world: float = 30.0
    """Depth along bones as the detector guesses it, in squared standard deviations of its error."""
    w_upright: float = 2200.0
    """Squared sine of the trunk's lean out of the image plane, for trunks that are upright in the
    picture."""
    upright_sine: float = 0.5
    """Scale of the Geman-McClure function on that sine: far from upright nothing pulls."""
    robust_px: float = 100.0
    """Scale of the Geman-McClure function, in the units of the 2D residuals; in pixels of the photo
    with FitConfig.residuals published."""


@dataclass(frozen=True)
class FitConfig:
    """How persons are fitted."""

    coarse: tuple[StageConfig, ...] = (
        StageConfig(iterations=8, w_pose=160.0, w_shape=2500.0),
        StageConfig(iterations=8, w_pose=40.0, w_shape=400.0),
    )
    """Annealing on the body's points alone, from every start."""
    flip: StageConfig = StageConfig(iterations=5, w_pose=22.8, w_shape=100.0)
    """Short runs from limbs turned over in depth."""
    fine: tuple[StageConfig, ...] = (
        StageConfig(
            iterations=5, w_pose=22.8, w_shape=25.0, w_hand_points=0.01, w_face_points=0.01
        ),
        StageConfig(
            iterations=300, w_pose=22.8, w_shape=25.0, w_hand_points=1.0, w_face_points=0.5
        ),
    )
    """Annealing on all points, from the best starts."""
    headings: tuple[str, ...] = ("front", "back", "left", "right")
    """Ways to face that are tried, out of starts.HEADINGS."""
    given_starts: Literal["auto", "alone", "compete"] = "auto"
    """Where a person comes with a start: alone replaces the headings, compete adds to them. auto is
    compete for what a network said (--init lifter, regressor:FILE), else alone."""
    same_m: float = 0.1
    """Starts whose points have come this close to each other (metres, RMS) go on as one."""
    hopeless_coarse: float = 15.0
    """Starts are dropped whose energy exceeds the best's by this factor in the coarse stages."""
    hopeless_fine: float = 4.0
    """The same before the fine stages and in them."""
    hopeless_last: float = 1.2
    """The same after the first iterations of the last stage."""
    probation: int = 10
    """How many these are."""
    keep: int = 3
    """Starts that go on to the fine stages."""
    limb_flips: bool = True
    """Try each arm and leg turned over in depth before the fine stages."""
    residuals: Literal["person", "published"] = "person"
    """How 2D residuals count. person: in thousandths of 1.25 times the person's height in pixels.
    published: in thousandths of the photo's height, robust at a scale in pixels of the photo, and
    with SMPLify-X's points and their weights (reference_energy.point_weights)."""
    interpenetration: Literal["off", "measure", "on"] = "off"
    """on: measure how far each body goes through itself, and push apart what does; measure: only
    measure; off: neither. In a run, --interpenetration says."""
    w_penetration: float = 5.0
    """Squared depth (cm) of parts inside each other, times the area (cm^2) that is."""
    penetration_rounds: int = 4
    """Most times that parts are looked for which are inside each other, and pushed apart."""
    penetration_iterations: int = 6
    """Most iterations of each time."""
    penetration_mm: float = 3.0
    """Bodies are pushed apart that go deeper than this: skin gives way."""
    w_silhouette_inside: float = 600.0
    """Mask, where there is one: squared distance by which vertices stick out of it, their mean."""
    w_silhouette_outside: float = 50.0
    """Squared distance by which its outline is beyond the body, the mean."""
    silhouette_slack_m: float = 0.02
    """Scale of the Geman-McClure function on the latter: what clothes add."""
    silhouette_rounds: int = 3
    """How often shape and pose take turns."""
    num_hand_components: int = 12
    """PCA components that a hand's pose may use."""
    loose_weight: float = 0.2
    """Weight of hips, shoulders, neck and head top (keypoints.LOOSE_POINTS): clothes and hair hide
    them, so that they scatter more than limbs even about calibrated places."""
    min_confidence: float = 0.1
    """2D points below this confidence are not used."""
    min_points: int = 5
    """Fewest points of the body that a person is fitted to."""
    tolerance: float = 1e-5
    """A person is done when an iteration lowers the energy by less than this part of it."""
    focal: FocalConfig = field(default_factory=FocalConfig)
    """What is expected of a focal length that nobody knows."""
    uncertainty: UncertaintyConfig = field(default_factory=UncertaintyConfig)
    """What the joints' covariances are calibrated by."""
    w_points_3d: float = 1.0
    """3D keypoints beside those in the image; at 1 a millimetre costs what it costs as seen in the
    photo. Exact ones (motion capture) deserve 100."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    """How frames of a clip are tied together."""
