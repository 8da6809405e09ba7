"""What is known of a person beside one photo, as the solver takes it. Torch-free."""

from dataclasses import replace

from curation.samples import FurtherEvidence
from fitting.records import FitTarget

__all__ = ["with_further"]


def with_further(target: FitTarget, further: FurtherEvidence) -> FitTarget:
    """Add 3D keypoints and further views to a person's evidence.

    Points lie where the conventions of the photo's keypoints have them, then those of the rest. A
    person whose views are calibrated has no unknown focal length.
    """
    return replace(
        target,
        views=further.views,
        focal_sd=0.0 if further.views else target.focal_sd,
        keypoints_3d=further.keypoints_3d,
        frame_3d=further.frame_3d,
        conventions=tuple(dict.fromkeys((*target.conventions, *further.conventions))),
    )
