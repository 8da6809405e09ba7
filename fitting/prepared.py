"""What is made ready once for a body, so that batches need not do it again."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.depth_spans import TRUNK, DepthSpans
from bodymodel.fit_points import fit_points
from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from bodymodel.sliced import SlicedBody, slice_body, sliced_forward
from bodymodel.spec import BODY_JOINTS
from fitting.config import FitConfig
from fitting.contacts import BodyContacts
from fitting.covariance import relative_joints
from fitting.limits import JointLimits, joint_limits
from fitting.prior_choice import load_prior
from fitting.priors import BodyPrior
from fitting.silhouette import HeldSurface
from fitting.starts import COARSE_POINTS, LIMBS, Limb
from fitting.state import Layout

__all__ = ["FINE_POINTS", "PreparedBody", "PreparedLimb"]


def _fine_points() -> tuple[str, ...]:
    """The points that any 2D convention has, fixed on the body."""
    annotated = {
        name
        for convention, names in CONVENTIONS.items()
        if convention not in ("fit", "smplx144")
        for name in names
    }
    return tuple(n for n in FIT_KEYPOINTS if n in annotated and "contour" not in n)


FINE_POINTS = _fine_points()


@dataclass(frozen=True, eq=False)
class PreparedLimb:
    """A limb that may be turned over in depth.

    Attributes:
        limb: Which.
        sliced: The body reduced to its points.
        points: (P,) where these stand among those of the coarse stages.
        columns: Positions of its joints' rotations in the vector of unknowns.
    """

    limb: Limb
    sliced: SlicedBody
    points: Tensor
    columns: Tensor


@dataclass(frozen=True, eq=False)
class PreparedBody:
    """A body as the solver needs it; ``PreparedBody.of`` makes it.

    Attributes:
        body: The body.
        config: How to fit.
        dtype: Of all computations.
        device: Of everything.
        coarse: The body reduced to the points of the coarse stages, where conventions put them.
        fine: Likewise to those of the last stages, which photos have.
        all_points: Likewise to all that have a place on the body.
        limbs: What each of LIMBS is turned over by.
        body_joints: The body reduced to its own 22 joints.
        stature: Likewise to what tells its height.
        depth: Differences of depth that something may be known of.
        trunk: Of these the trunk's, about which there is an opinion without any guess.
        layout: Of the unknowns.
        prior: On the body's pose.
        coarse_prior: The same for the coarse stages.
        limits: Of all joints.
        contacts: Finds what is inside each other; None if nobody wants to know.
        shape_columns: Positions of betas and translation in the vector of unknowns.
        but_betas: Of everything else than the betas.
        rigid_columns: Of the root's rotation and the translation.
    """

    body: BodyData
    config: FitConfig
    dtype: torch.dtype
    device: torch.device
    coarse: SlicedBody
    fine: SlicedBody
    all_points: SlicedBody
    limbs: tuple[PreparedLimb, ...]
    body_joints: SlicedBody
    stature: SlicedBody
    depth: DepthSpans
    trunk: DepthSpans
    layout: Layout
    prior: BodyPrior
    coarse_prior: BodyPrior
    limits: JointLimits
    contacts: BodyContacts | None
    shape_columns: Tensor
    but_betas: Tensor
    rigid_columns: Tensor

    @classmethod
    def of(
        cls,
        body: BodyData,
        config: FitConfig,
        dtype: torch.dtype,
        device: torch.device,
        prior: BodyPrior | None = None,
        conventions: tuple[str, ...] = (),
    ) -> "PreparedBody":
        """Prepare a body; the arguments are those of fitting.fit.Fitter.

        Raises:
            ValueError: If the body is of another family.
        """
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        layout = Layout.of(body, config.num_hand_components, **options)
        prior = (load_prior("gaussian") if prior is None else prior).to(**options)
        everything = torch.arange(layout.size, device=device)
        is_beta = torch.isin(everything, layout.columns("betas"))
        wants_contacts = config.interpenetration != "off"
        return cls(
            body=body,
            config=config,
            dtype=dtype,
            device=device,
            **_placed(body, conventions, layout, options),
            # what these are for means the body's own places
            body_joints=slice_body(body, BODY_JOINTS, **options),
            stature=slice_body(body, ("left_heel", "right_heel", "head_top"), **options),
            depth=DepthSpans.of(body, **options),
            trunk=DepthSpans.of(body, (TRUNK,), **options),
            layout=layout,
            prior=prior,
            coarse_prior=prior.coarse,
            limits=joint_limits(**options),
            contacts=BodyContacts(body, **options) if wants_contacts else None,
            shape_columns=layout.columns("betas", "transl").sort()[0],
            but_betas=everything[~is_beta],
            rigid_columns=layout.columns("global_orient", "transl"),
        )

    def placed(self, conventions: tuple[str, ...]) -> "PreparedBody":
        """Return the same with the points where these conventions put them."""
        options = {"dtype": self.dtype, "device": self.device}
        return replace(self, **_placed(self.body, conventions, self.layout, options))

    @cached_property
    def surface(self) -> HeldSurface:
        """What is held against masks; few fits need it."""
        return HeldSurface(self.body, self.device)

    @cached_property
    def rest(self) -> Tensor:
        """(P, 3) the coarse points of the mean body at rest."""
        like = self.layout.hand_means
        return sliced_forward(
            self.coarse,
            like.new_zeros(1, 55, 3),
            like.new_zeros(1, self.coarse.num_shape),
            like.new_zeros(1, 3),
        ).points[0]

    def real(self, values: Any) -> Tensor:
        """Return numbers in the solver's precision and place."""
        return torch.as_tensor(np.asarray(values), dtype=self.dtype, device=self.device)

    def joints(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., 22, 3) the body's joints, the others relative to the pelvis."""
        flat, layout = x.reshape(-1, x.shape[-1]), self.layout
        state = sliced_forward(
            self.body_joints, layout.full_pose(flat), layout.shape(flat), layout.transl(flat)
        )
        return relative_joints(state.points).view(*x.shape[:-1], -1, 3)


def _placed(
    body: BodyData, conventions: tuple[str, ...], layout: Layout, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields of PreparedBody that depend on where the points come from."""
    options = {**options, "places": fit_points(body, conventions)}
    limbs = []
    for limb in LIMBS:
        sliced = slice_body(body, limb.points, **options)
        points = [COARSE_POINTS.index(name) for name in sliced.points]
        points = torch.tensor(points, device=options["device"])
        limbs.append(PreparedLimb(limb, sliced, points, layout.body_columns(limb.joints)))
    return {
        "coarse": slice_body(body, COARSE_POINTS, **options),
        "fine": slice_body(body, FINE_POINTS, **options),
        "all_points": slice_body(body, **options),
        "limbs": tuple(limbs),
    }
