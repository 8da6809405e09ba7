"""VPoser (Pavlakos et al. 2019), read from the checkpoints that its users have.

Both public releases are read: V1.0 (``snapshots/TR00_E096.pt``, a state dict) and V02_05
(``snapshots/V02_05_epoch=..ckpt``, a training framework's dict, names under ``vp_model.``). Nothing
of them is executed. Their licence is their publisher's.

SMPLify-X solves for the code z, with |z|^2 as the prior; the reference solver does that. The fast
solver works on axis-angles, so there the prior is the bound that the autoencoder itself minimised,
at the code the encoder proposes:

    E(x) = |mean(x)|^2 + |R(x) - decode(mean(x))|_F^2 / (2 sigma^2),

the code's squared norm, and how far the pose is from what the code can say. The first term alone
would leave 31 directions of the pose free. Both are residuals with analytic Jacobians.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bodymodel.checkpoints import load_checkpoint
from bodymodel.rotations import left_jacobian, rotmat_to_rotvec, rotvec_to_rotmat, skew
from fitting.layers import Layer, Network, batch_norm
from fitting.prior_names import find_checkpoint

__all__ = ["SIGMA", "VPoser", "load_vposer", "vposer_of"]

SIGMA = 0.15
"""Radians that a joint may differ from what the code says: about what such a code loses."""

_JOINTS, _DIM = 21, 63


@dataclass(frozen=True, eq=False)
class VPoser:
    """The trained autoencoder, as a prior and as a code for poses.

    Attributes:
        encoder: Pose -> mean of the code. The pose goes in as 63 axis-angles or as 189 entries of
            rotation matrices, row by row.
        decoder: Code -> 21 rotations as 6 numbers: the first two columns, row by row.
        sigma: Radians, see SIGMA.
    """

    encoder: Network
    decoder: Network
    sigma: float = SIGMA

    @property
    def code_size(self) -> int:
        """Length of the code, 32 in both releases."""
        return self.decoder.layers[0].weight.shape[1]

    @property
    def start(self) -> Tensor:
        """(63,) the pose of code 0."""
        return self.decode(self.encoder.layers[-1].bias.new_zeros(self.code_size))

    @property
    def coarse(self) -> "VPoser":
        """The same."""
        return self

    def to(self, *args, **kwargs) -> "VPoser":
        """Return it on another device or in another dtype, as ``Tensor.to``."""
        return VPoser(
            self.encoder.to(*args, **kwargs), self.decoder.to(*args, **kwargs), self.sigma
        )

    def encode(self, body_pose: Tensor) -> Tensor:
        """(..., 63) axis-angle -> (..., code) mean of the code. Differentiable."""
        if self._takes_matrices:
            body_pose = rotvec_to_rotmat(body_pose.unflatten(-1, (_JOINTS, 3))).flatten(-3)
        return self.encoder(body_pose)

    def decode(self, code: Tensor) -> Tensor:
        """(..., code) -> (..., 63) axis-angle. Differentiable."""
        return rotmat_to_rotvec(_gram_schmidt(self._sixes(self.decoder(code)))).flatten(-2)

    def energy(self, body_pose: Tensor) -> Tensor:
        """(..., 63) -> (...), half the squared residual. Differentiable."""
        code = self.encode(body_pose)
        said = _gram_schmidt(self._sixes(self.decoder(code)))
        is_ = rotvec_to_rotmat(body_pose.unflatten(-1, (_JOINTS, 3)))
        far = (is_ - said).square().sum((-3, -2, -1))
        return 0.5 * (code.square().sum(-1) + far / (2 * self.sigma**2))

    def residual_and_jacobian(self, body_pose: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residual (..., code + 189) and its Jacobian (..., code + 189, 63)."""
        shape = body_pose.shape[:-1]
        rotvec = body_pose.unflatten(-1, (_JOINTS, 3))
        rotmat = rotvec_to_rotmat(rotvec)
        turns = _rotmat_jacobian(rotvec, rotmat)  # (..., 21, 9, 3)
        by_pose = turns.new_zeros(*shape, _JOINTS, 9, _JOINTS, 3)
        joint = torch.arange(_JOINTS, device=turns.device)
        by_pose[..., joint, :, joint, :] = turns.movedim(-3, 0)
        by_pose = by_pose.flatten(-2).flatten(-3, -2)  # (..., 189, 63)
        if self._takes_matrices:
            code, slope = self.encoder.with_jacobian(rotmat.flatten(-3))
            code_by_pose = slope @ by_pose
        else:
            code, code_by_pose = self.encoder.with_jacobian(body_pose)
        six, six_by_code = self.decoder.with_jacobian(code, forward=True)
        six = self._sixes(six)
        said, said_by_six = _gram_schmidt(six), _gram_schmidt_jacobian(six)
        six_by_code = six_by_code.unflatten(-2, (_JOINTS, 6))
        said_by_pose = (said_by_six @ six_by_code).flatten(-3, -2) @ code_by_pose
        scale = 1 / (2**0.5 * self.sigma)
        far = scale * (rotmat - said).flatten(-3)
        return (
            torch.cat([code, far], -1),
            torch.cat([code_by_pose, scale * (by_pose - said_by_pose)], -2),
        )

    def quadratic(self, body_pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return |r|^2 (...), J^T r (..., 63) and J^T J (..., 63, 63)."""
        residual, jacobian = self.residual_and_jacobian(body_pose)
        pull = (jacobian.mT @ residual[..., None])[..., 0]
        return residual.square().sum(-1), pull, jacobian.mT @ jacobian

    @property
    def _takes_matrices(self) -> bool:
        return self.encoder.layers[0].weight.shape[1] == 9 * _JOINTS

    @staticmethod
    def _sixes(numbers: Tensor) -> Tensor:
        return numbers.unflatten(-1, (_JOINTS, 6))


def _gram_schmidt(six: Tensor) -> Tensor:
    """(..., 6), the entries of a 3 x 2 matrix row by row -> (..., 3, 3)."""
    first, second = six[..., 0::2], six[..., 1::2]
    x = first / first.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    y = second - (x * second).sum(-1, keepdim=True) * x
    y = y / y.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def _gram_schmidt_jacobian(six: Tensor) -> Tensor:
    """(..., 6) -> (..., 9, 6), of the matrix's entries row by row."""
    first, second = six[..., 0::2], six[..., 1::2]
    eye = torch.eye(3, dtype=six.dtype, device=six.device)

    def outer(a: Tensor, b: Tensor) -> Tensor:
        return a[..., :, None] * b[..., None, :]

    length = first.norm(dim=-1).clamp_min(1e-12)[..., None, None]
    x = first / length[..., 0]
    x_by_first = (eye - outer(x, x)) / length
    along = (x * second).sum(-1)[..., None, None]
    rest = second - along[..., 0] * x
    rest_by_first = -outer(x, second) @ x_by_first - along * x_by_first
    rest_by_second = eye - outer(x, x)
    length = rest.norm(dim=-1).clamp_min(1e-12)[..., None, None]
    y = rest / length[..., 0]
    y_by_rest = (eye - outer(y, y)) / length
    y_by_first, y_by_second = y_by_rest @ rest_by_first, y_by_rest @ rest_by_second
    z_by_first = skew(x) @ y_by_first - skew(y) @ x_by_first
    z_by_second = skew(x) @ y_by_second
    nothing = torch.zeros_like(x_by_first)
    by_first = torch.stack([x_by_first, y_by_first, z_by_first], -2)  # (..., 3 row, 3 column, 3)
    by_second = torch.stack([nothing, y_by_second, z_by_second], -2)
    return torch.stack([by_first, by_second], -1).flatten(-2).flatten(-3, -2)


def _rotmat_jacobian(rotvec: Tensor, rotmat: Tensor) -> Tensor:
    """(..., 3) -> (..., 9, 3): an increment turns the matrix by the left Jacobian times it."""
    turn = left_jacobian(rotvec)  # (..., 3, 3)
    columns = [skew(turn[..., k]) @ rotmat for k in range(3)]
    return torch.stack([c.flatten(-2) for c in columns], -1)


# --- files -----------------------------------------------------------------------------------


def load_vposer(path: str | Path) -> VPoser:
    """Read a VPoser release, V1.0 or V02_05, in float64.

    Args:
        path: Its folder, or the checkpoint in it.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it is damaged, or of another layout.
    """
    file = find_checkpoint(Path(path))
    content = load_checkpoint(file)
    state = content.get("state_dict", content)
    try:
        return vposer_of(state)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{file} is no VPoser of a known layout ({type(error).__name__}: {error}); known are "
            "V1.0 (bodyprior_enc_*, bodyprior_dec_*) and V02_05 (vp_model.encoder_net.*)"
        ) from error


def vposer_of(state: Mapping[str, Tensor]) -> VPoser:
    """Make a VPoser of a state dict; the names tell the release.

    Raises:
        KeyError: If a layer is missing.
        ValueError: If the sizes are not those of 21 joints.
    """
    state = {
        name.removeprefix("module.").removeprefix("vp_model."): value.detach().double()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    is_first = "bodyprior_dec_out.weight" in state
    vposer = _version_1(state) if is_first else _version_2(state)
    wide, sixes = (
        vposer.encoder.layers[0].weight.shape[1],
        vposer.decoder.layers[-1].weight.shape[0],
    )
    if wide not in (_DIM, 9 * _JOINTS) or sixes != 6 * _JOINTS:
        raise ValueError(
            f"expected 63 or 189 numbers in and 126 out (21 joints, 6 numbers a rotation), got "
            f"{wide} and {sixes}"
        )
    return vposer


def _version_1(state: Mapping[str, Tensor]) -> VPoser:
    name = "bodyprior_"
    return VPoser(
        Network(
            (
                Layer.of(state, f"{name}enc_fc1", 0.2).after(batch_norm(state, f"{name}enc_bn1")),
                Layer.of(state, f"{name}enc_fc2", 0.2).after(batch_norm(state, f"{name}enc_bn2")),
                Layer.of(state, f"{name}enc_mu"),
            )
        ),
        Network(
            (
                Layer.of(state, f"{name}dec_fc1", 0.2),
                Layer.of(state, f"{name}dec_fc2", 0.2),
                Layer.of(state, f"{name}dec_out"),
            )
        ),
    )


def _version_2(state: Mapping[str, Tensor]) -> VPoser:
    # Numbers are places in a sequence that also counts flattening, activations and dropout. Nothing
    # bends between the last layers of the encoder, so they are one.
    code = Layer.of(state, "encoder_net.8.mu").after(
        Layer.of(state, "encoder_net.7").after(
            Layer.of(state, "encoder_net.6").after(batch_norm(state, "encoder_net.4"))
        )
    )
    return VPoser(
        Network(
            (
                Layer.of(state, "encoder_net.2", 0.01).after(batch_norm(state, "encoder_net.1")),
                code,
            )
        ),
        Network(
            (
                Layer.of(state, "decoder_net.0", 0.01),
                Layer.of(state, "decoder_net.3", 0.01),
                Layer.of(state, "decoder_net.5"),
            )
        ),
    )
