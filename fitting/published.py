"""SMPLify-X's published energy in the fast solver, so that minima of one energy can be compared.

What is minimised at the end is, term by term, what ``fitting.reference`` minimises: residuals,
points and their weights, robust function, priors and their weights. How it gets there is the fast
solver's own: its headings, its annealing, and a translation that is solved for. The prior on the
pose is chosen apart, as for any fit: ``load_prior("l2")`` beside the reference's ``l2``.
"""

from fitting.config import FitConfig, StageConfig
from fitting.reference_config import ReferenceConfig, ReferenceStage

__all__ = ["smplifyx_config"]


def smplifyx_config(reference: ReferenceConfig | None = None) -> FitConfig:
    """Return the fast solver's settings that end at the published energy.

    Args:
        reference: Whose stages, robust scale and hands to take; as published by default.
    """
    reference = reference or ReferenceConfig()
    own, last = FitConfig(), reference.stages[-1]

    def stage(iterations: int, w: ReferenceStage, points: float = 0.0) -> StageConfig:
        return StageConfig(
            iterations=iterations,
            w_pose=w.pose**2,
            w_shape=w.shape**2,
            w_hand_points=points * last.hand_points**2,
            w_face_points=points * last.face_points**2,
            w_expression=w.expression**2,
            w_hand=w.hands**2,
            w_jaw=w.jaw[0] ** 2,
            w_eyes=0.0,
            w_limits=0.0,
            w_world=0.0,
            w_upright=0.0,
            robust_px=reference.robust_px,
        )

    early = reference.stages[-3]
    return FitConfig(
        coarse=(
            stage(own.coarse[0].iterations, early),
            stage(own.coarse[1].iterations, last),
        ),
        flip=stage(own.flip.iterations, last),
        fine=(
            stage(own.fine[0].iterations, last, 0.01),
            stage(own.fine[1].iterations, last, 1.0),
        ),
        residuals="published",
        num_hand_components=reference.num_hand_components,
        min_confidence=0.0,
        hopeless_last=1.1,
    )
