"""Parts that are inside each other are pushed apart: contacts as a term of the fast solver.

SMPLify-X's field counts triangles that cross, so a hand that is wholly inside the belly is felt at
its wrist only, and by a height that says little of how deep it is. Here every vertex inside another
part is a residual: its depth below the nearest face of that part, weighed by the area it stands
for. The contacts are looked for anew a few times; between that they are fixed, and only the four
vertices of each are posed.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from bodymodel.parts import region_of
from bodymodel.penetration import Contacts, find_contacts, make_surface
from bodymodel.sliced import SlicedState
from bodymodel.vertex_motion import Skin, make_skin, place_vertices, vertex_jacobian
from fitting.energy import Energy
from fitting.records import SelfPenetration

__all__ = ["BodyContacts", "ContactTerm"]

MOST_CONTACTS = 48
"""Contacts a person that the solver sees; of more it sees a sample with the same area."""


@dataclass(frozen=True, eq=False)
class ContactTerm:
    """The depth of a batch's contacts, squared: a ``fitting.energy.Term``.

    Attributes:
        skin: Of the body.
        vertex: (B, 4 K): of each contact the vertex inside and the corners of the face over it.
        rows: (B, 4 K, 3) whose products with them sum up to the depth.
        weight: (B, K) of the squared depths (metres), 0 where there is no contact.
    """

    skin: Skin
    vertex: Tensor
    rows: Tensor
    weight: Tensor
    name: str = "penetration"

    def take(self, index: Tensor) -> "ContactTerm":
        """Return it for some of the persons."""
        return replace(
            self, vertex=self.vertex[index], rows=self.rows[index], weight=self.weight[index]
        )

    def add(
        self, energy: Energy, x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> Tensor:
        """Add to half the gradient and to J^T J in place; return the energy, (B,)."""
        layout = energy.layout
        placed = place_vertices(
            self.skin, layout.full_pose(x), layout.shape(x), layout.transl(x), self.vertex
        )
        batch, count = self.weight.shape
        depth = (self.rows * placed.points).sum(-1).view(batch, count, 4).sum(-1)
        root_weight = self.weight.sqrt() * (depth > 0)
        residual = root_weight * depth
        by_vertex = vertex_jacobian(self.skin, placed, self.rows, root_on_manifold=True)
        pose, shape, transl = (
            part.reshape(batch, count, 4, *part.shape[2:]).sum(2) for part in by_vertex
        )
        jacobian = energy.columns(pose, shape, transl) * root_weight[..., None]
        gradient += (jacobian.mT @ residual[..., None])[..., 0]
        matrix += jacobian.mT @ jacobian
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

    def term(self, contacts: Contacts, persons: Tensor, weight: float) -> ContactTerm:
        """Return the term of some persons, ascending, each of whom has contacts.

        Args:
            contacts: Of the batch.
            persons: (P,) of the batch.
            weight: Of depth in cm, squared, times area in cm^2.
        """
        dtype, most = self._skin.template.dtype, MOST_CONTACTS
        slot = torch.searchsorted(persons, contacts.person).clamp_max(len(persons) - 1)
        mine = (persons[slot] == contacts.person).nonzero()[:, 0]
        order = mine[self._rank[contacts.vertex[mine]].argsort()]
        order = order[slot[order].argsort(stable=True)]
        slot = slot[order]
        sizes = torch.bincount(slot, minlength=len(persons))
        place = torch.arange(len(slot), device=slot.device) - (sizes.cumsum(0) - sizes)[slot]
        is_kept = place < most
        order, slot, place = order[is_kept], slot[is_kept], place[is_kept]

        shape = (len(persons), most)
        vertex = torch.zeros(*shape, 4, dtype=torch.int64, device=slot.device)
        ids = torch.cat([contacts.vertex[:, None], contacts.corners], 1)
        vertex[slot, place] = ids[order]
        signs = torch.cat([-torch.ones_like(contacts.bary[:, :1]), contacts.bary], 1)
        rows = torch.zeros(*shape, 4, 3, dtype=dtype, device=slot.device)
        rows[slot, place] = (signs[:, :, None] * contacts.direction[:, None])[order].to(dtype)
        whole = torch.zeros(len(persons), dtype=dtype, device=slot.device)
        sample = torch.zeros(shape, dtype=dtype, device=slot.device)
        sample[slot, place] = contacts.area[order].to(dtype)
        mine_slot = torch.searchsorted(persons, contacts.person[mine])
        whole.index_add_(0, mine_slot, contacts.area[mine].to(dtype))
        share = whole / sample.sum(1).clamp_min(1e-12)
        in_cm = 1e4 * 1e4  # square metres and squared metres
        return ContactTerm(
            self._skin, vertex.flatten(1, 2), rows.flatten(1, 2),
            weight * in_cm * sample * share[:, None],
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
