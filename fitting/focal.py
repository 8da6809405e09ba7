"""Where the focal length comes from, and what is expected of one that nobody knows. Torch-free.

By order: the data set's own calibration, the user's (``--focal-px``, ``--fov-deg``), EXIF, and what
photos usually have. Only the last is a guess, and may be an unknown of the fit: keypoints say how
strong the perspective is, the two expectations below say the rest.

*Field of view.* log(focal length / image diagonal) is normal about 0, a 43 mm lens on 35 mm film.
*Distance.* log(distance / ``FocalConfig.distance_m``) is normal about 0, narrowly on the near side
and widely on the far one: people are photographed from a few metres away or more. Where a crop
shows nothing but one person, the diagonal would put the camera into their face: a person seen with
k pixels per metre is focal length / k away. The crop was cut out of a larger photo, and its focal
length is longer than its diagonal.
"""

import math
from dataclasses import dataclass

from curation.samples import PersonObservation

__all__ = ["FocalChoice", "FocalConfig", "choose_focal", "focal_of_fov"]


@dataclass(frozen=True)
class FocalConfig:
    """What is expected of an unknown camera. Standard deviations are of natural logarithms."""

    fov_sd: float = 0.6
    """Of the focal length over the diagonal: two thirds of photos within a factor of 1.8."""
    distance_m: float = 4.0
    """Usual distance of a person."""
    near_sd: float = 0.4
    """Of shorter ones: one photo in six from nearer than 2.7 m."""
    far_sd: float = 1.2
    """Of longer ones: people in the background are no surprise."""
    weight: float = 25.0
    """Of a squared standard deviation in the energy, as that of the betas in the last stage."""


@dataclass(frozen=True)
class FocalChoice:
    """A focal length.

    Attributes:
        focal_px: Pixels of the full image.
        source: "dataset", "given", "exif", "fitted" (it is where the fit starts) or "default".
        sd: Standard deviation of its logarithm; 0 if it is not to be questioned.
    """

    focal_px: float
    source: str
    sd: float = 0.0


def choose_focal(
    observation: PersonObservation,
    given_px: float | None = None,
    *,
    fov_deg: float | None = None,
    free_sd: float = 0.0,
) -> FocalChoice:
    """Return the focal length to fit with.

    Args:
        observation: Of the person; what its data set says of the camera comes first.
        given_px: The user's.
        fov_deg: The user's, as the angle of view across the longer side.
        free_sd: Of the logarithm, where nobody knows; 0 takes the diagonal as it is (CLIFF, Li et
            al. 2022, and its successors do).
    """
    o = observation
    if o.camera is not None:
        return FocalChoice(float(o.camera.focal_px), "dataset")
    if given_px is not None:
        return FocalChoice(float(given_px), "given")
    if fov_deg is not None:
        return FocalChoice(focal_of_fov(fov_deg, max(o.width, o.height)), "given")
    if math.isfinite(o.focal_px) and o.focal_px > 0:
        return FocalChoice(float(o.focal_px), "exif")
    source = "fitted" if free_sd else "default"
    return FocalChoice(math.hypot(o.width, o.height), source, free_sd)


def focal_of_fov(fov_deg: float, size_px: float) -> float:
    """Return the focal length that sees ``size_px`` pixels under an angle of view, pixels."""
    return size_px / (2 * math.tan(math.radians(fov_deg) / 2))
