"""Parts that are inside each other are pushed apart: contacts as a term of the fast solver.

SMPLify-X's field counts triangles that cross, so a hand that is wholly inside the belly is felt at
its wrist only, and by a height that says little of how deep it is. Here every vertex inside another
part is a residual: its depth below the nearest face of that part, weighed by the area it stands
for. The contacts are looked for anew a few times; between that they are fixed and linear, so that
an iteration costs no more than without them.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from bodymodel.parts import region_of
from bodymodel.penetration import Contacts, find_contacts, make_surface
from bodymodel.rotations import left_jacobian_inverse, rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import SlicedState
from bodymodel.vertex_motion import make_skin, place_vertices, vertex_jacobian
from fitting.energy import Energy
from fitting.records import SelfPenetration

__all__ = ["BodyContacts", "ContactTerm"]

MOST_CONTACTS = 48
"""Contacts a person that the solver sees; of more it sees a sample with the same area."""


@dataclass(frozen=True, eq=False)
class ContactTerm:
    """The depth of a batch's contacts, squared: a ``fitting.energy.Term``.

    Depths are linear about the states in which the contacts were found: exact there in value and
    derivative, and as cheap as a prior. Steps between two searches are small.

    Attributes:
        origin: (B, size) those states.
        depth: (B, K) metres, there.
        jacobian: (B, K, size), the root's columns for a small rotation applied on the left.
        weight: (B, K) of the squared depths, 0 where there is no contact.
    """

    origin: Tensor
    depth: Tensor
    jacobian: Tensor
    weight: Tensor
    name: str = "penetration"

    def take(self, index: Tensor) -> "ContactTerm":
        """Return it for some of the persons."""
        return ContactTerm(
            self.origin[index], self.depth[index], self.jacobian[index], self.weight[index]
        )

    def add(
        self, energy: Energy, x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> Tensor:
        """Add to half the gradient and to J^T J in place; return the energy, (B,)."""
        root = energy.layout.slices["global_orient"]
        there = rotvec_to_rotmat(self.origin[:, root])
        turned = rotmat_to_rotvec(rotvec_to_rotmat(x[:, root]) @ there.mT)
        move = x - self.origin
        move[:, root] = turned
        depth = self.depth + (self.jacobian @ move[..., None])[..., 0]
        root_weight = self.weight.sqrt() * (depth > 0)
        residual = root_weight * depth
        rows = self.jacobian.clone()
        rows[..., root] = rows[..., root] @ left_jacobian_inverse(turned)
        rows *= root_weight[..., None]
        gradient += (rows.mT @ residual[..., None])[..., 0]
        matrix += rows.mT @ rows
        return residual.square().sum(1)


class BodyContacts:
    """Looks for contacts of bodies and measures them.

    Args:
        body: A SMPL-X body.
        dtype: Of the solver.
        device: Of everything.
    """

    def __init__(self, body: BodyData, dtype: torch.dtype, device: torch.device | str) -> None:
        self._surface = make_surface(body, device=device)
        self._model = BodyModel(body).to(device)
        self._skin = make_skin(body, dtype, device)
        # contacts are thinned by this order, so that the sample is spread over the surface
        generator = torch.Generator().manual_seed(0)
        rank = torch.randperm(len(body.v_template), generator=generator)
        self._rank = rank.to(device)

    def find(self, params: BodyParams) -> Contacts:
        """Return the contacts of bodies (B)."""
        with torch.no_grad():
            params = params.map(lambda value: value.to(self._model.dtype))
            # without their place, which is far off: single precision is enough
            params = replace(params, transl=torch.zeros_like(params.transl))
            return find_contacts(self._surface, self._model(params).vertices)

    def measure_params(self, params: BodyParams) -> list[SelfPenetration]:
        """Return how far bodies (B) go through themselves."""
        return self.measure(self.find(params), len(params.transl))

    def term(self, energy: Energy, x: Tensor, contacts: Contacts, weight: float) -> ContactTerm:
        """Return the term of persons in whose states contacts were found.

        Args:
            energy: Theirs; gathers the derivatives.
            x: (B, size) the states.
            contacts: Of the same B persons.
            weight: Of depth in cm, squared, times area in cm^2.
        """
        dtype, most, batch = x.dtype, MOST_CONTACTS, len(x)
        order = self._rank[contacts.vertex].argsort()
        order = order[contacts.person[order].argsort(stable=True)]
        person = contacts.person[order]
        sizes = torch.bincount(person, minlength=batch)
        place = torch.arange(len(person), device=x.device) - (sizes.cumsum(0) - sizes)[person]
        is_kept = place < most
        order, person, place = order[is_kept], person[is_kept], place[is_kept]

        def spread(values: Tensor) -> Tensor:
            out = values.new_zeros(batch, most, *values.shape[1:])
            out[person, place] = values[order]
            return out

        vertex = spread(torch.cat([contacts.vertex[:, None], contacts.corners], 1))
        signs = torch.cat([-torch.ones_like(contacts.bary[:, :1]), contacts.bary], 1)
        rows = spread(signs[:, :, None] * contacts.direction[:, None]).to(dtype)
        area = spread(contacts.area).to(dtype)
        whole = area.new_zeros(batch).index_add(0, contacts.person, contacts.area.to(dtype))
        share = whole / area.sum(1).clamp_min(1e-12)

        layout = energy.layout
        placed = place_vertices(
            self._skin, layout.full_pose(x), layout.shape(x), layout.transl(x), vertex.flatten(1)
        )
        by_vertex = vertex_jacobian(self._skin, placed, rows.flatten(1, 2), root_on_manifold=True)
        pose, shape, transl = (
            part.reshape(batch, most, 4, *part.shape[2:]).sum(2) for part in by_vertex
        )
        depth = (rows.flatten(1, 2) * placed.points).sum(-1).view(batch, most, 4).sum(-1)
        in_cm = 1e4 * 1e4  # square metres and squared metres
        return ContactTerm(
            x.clone(), depth, energy.columns(pose, shape, transl),
            weight * in_cm * area * share[:, None],
        )  # fmt: skip

    def measure(self, contacts: Contacts, batch: int) -> list[SelfPenetration]:
        """Return how far each person of a batch goes through itself."""
        joints = self._surface.joints
        person = contacts.person.cpu()
        depth = contacts.depth.cpu().double()
        area = torch.zeros(batch, dtype=torch.float64)
        area.index_add_(0, person, contacts.area.cpu().double())
        deepest = torch.zeros(batch, dtype=torch.float64)
        deepest.scatter_reduce_(0, person, depth, "amax")
        pairs: list[dict[str, float]] = [{} for _ in range(batch)]
        columns = (person, contacts.part.cpu(), contacts.other.cpu(), depth)
        for k, part, other, deep in zip(*(c.tolist() for c in columns), strict=True):
            pair = "+".join(sorted((region_of(joints[part]), region_of(joints[other]))))
            pairs[k][pair] = max(pairs[k].get(pair, 0.0), deep)
        return [
            SelfPenetration(
                depth_mm=1000 * float(deepest[k]),
                area_cm2=1e4 * float(area[k]),
                parts=tuple(sorted(pairs[k], key=pairs[k].__getitem__, reverse=True)),
            )
            for k in range(batch)
        ]
