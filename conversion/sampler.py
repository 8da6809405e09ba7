"""Sampling the source's meshes at the target's vertices (equation 3), many at once."""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from conversion.correspondence import Correspondence

__all__ = ["Sampler"]


class Sampler:
    """A correspondence on tensors.

    Args:
        match: The correspondence.
        dtype: Of the meshes.
        device: Likewise.
    """

    def __init__(
        self, match: Correspondence, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self._is_identity = match.is_identity
        self._lift = match.lift

        def real(array: np.ndarray) -> Tensor:
            return torch.as_tensor(np.asarray(array, np.float64)).to(device, dtype)

        def whole(array: np.ndarray) -> Tensor:
            return torch.as_tensor(np.asarray(array, np.int64)).to(device)

        def matrix(given: sparse.spmatrix) -> Tensor:
            coo = given.tocoo()
            index = whole(np.stack([coo.row, coo.col]))
            return torch.sparse_coo_tensor(
                index, real(coo.data), coo.shape, check_invariants=False
            ).coalesce()

        if self._lift is None:
            self._corners = whole(match.corners.T)
            self._weights = real(match.weights.T)
            return
        lift = self._lift
        self._points, self._normals = (matrix(m) for m in lift.matrices)
        self._inverse_sizes = real(1 / np.maximum(lift.sizes, 1e-12))
        self._faces = whole(lift.faces.T)
        rows, columns = lift.faces.ravel(), np.repeat(np.arange(len(lift.faces)), 3)
        shape = (len(lift.rest), len(lift.faces))
        self._at_vertex = matrix(sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape))

    def __call__(self, vertices: Tensor) -> Tensor:
        """Sample meshes: (B, Vs, 3) -> (B, 3, Vt), in any unit."""
        if self._is_identity:
            return vertices.mT.contiguous()
        if self._lift is None:
            planar = vertices.mT
            a, b, c = (planar.index_select(2, corners) for corners in self._corners)
            return a * self._weights[0] + b * self._weights[1] + c * self._weights[2]
        batch = len(vertices)
        wide = vertices.transpose(0, 1).reshape(vertices.shape[1], -1)  # (Vs, B 3)
        a, b, c = (wide[ids].unflatten(1, (batch, 3)) for ids in self._faces)
        across = torch.linalg.cross(b - a, c - a, dim=-1).flatten(1)
        area = torch.sparse.mm(self._at_vertex, across).unflatten(1, (batch, 3))
        length = area.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        # unit normals, times the size of their surroundings over the template's
        normal = area * (self._inverse_sizes[:, None, None] / length.sqrt())
        out = torch.sparse.mm(self._points, wide)
        out = out + torch.sparse.mm(self._normals, normal.flatten(1))
        return out.unflatten(1, (batch, 3)).permute(1, 2, 0).contiguous()
