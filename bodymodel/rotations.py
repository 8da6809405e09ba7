"""Rotations: axis-angle, matrices, six numbers, and the derivatives of the exponential map.

The published Rodrigues forms normalise the axis, and so have wrong or undefined second derivatives
where every fit starts, at zero rotation. Here every coefficient is a function of the squared
angle: its power series below half a radian, its closed form above. Both agree to rounding at
the seam, in value and in derivatives.
"""

import math
from fractions import Fraction
from functools import lru_cache

import roma
import torch
from torch import Tensor

# Squared angle below which the power series are used; with eight terms the remainder's second
# derivative is then below 1e-16.
_SERIES_BELOW = 0.25
_TERMS = 8

_SINC = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(_TERMS))
_VERSINE = tuple((-1) ** k / math.factorial(2 * k + 2) for k in range(_TERMS))
_SINE_REST = tuple((-1) ** k / math.factorial(2 * k + 3) for k in range(_TERMS))
# |B_2n| / (2n)! with the Bernoulli numbers B_2 .. B_16: the series of x cot x.
_COTANGENT = tuple(
    float(Fraction(bernoulli) / math.factorial(2 * n))
    for n, bernoulli in enumerate(
        ("1/6", "1/30", "1/42", "1/30", "5/66", "691/2730", "7/6", "3617/510"), start=1
    )
)


def _require_last(x: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(x.shape[-len(shape) :]) != shape:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name} must be (..., {wanted}), got {tuple(x.shape)}")


def _series(coefficients: tuple[float, ...], t2: Tensor) -> Tensor:
    value = torch.full_like(t2, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * t2 + c
    return value


def _squared_angle(rotvec: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return where the series hold, the squared angle for them, and the angle squared and plain.

    Each branch of a ``torch.where`` must be finite in its derivatives also where the other is
    taken, hence the replaced arguments.
    """
    t2 = (rotvec * rotvec).sum(-1)
    small = t2 < _SERIES_BELOW
    t2_small = torch.where(small, t2, torch.zeros_like(t2))
    t2_large = torch.where(small, torch.ones_like(t2), t2)
    return small, t2_small, t2_large, t2_large.sqrt()


def skew(v: Tensor) -> Tensor:
    """Return the cross-product matrix: ``skew(v) @ w == cross(v, w)``.

    Args:
        v: (..., 3).

    Returns:
        (..., 3, 3).

    Raises:
        ValueError: If the last dimension is not 3.
    """
    _require_last(v, (3,), "v")
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack((o, -z, y, z, o, -x, -y, x, o), dim=-1).unflatten(-1, (3, 3))


def _combine(rotvec: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return I + a K + b K^2, with K^2 = v v^T - (v.v) I written out."""
    x, y, z = rotvec.unbind(-1)
    bx, by, bz = b * x, b * y, b * z
    xx, yy, zz = bx * x, by * y, bz * z
    xy, xz, yz = bx * y, bx * z, by * z
    ax, ay, az = a * x, a * y, a * z
    entries = (
        1 - (yy + zz), xy - az, xz + ay,
        xy + az, 1 - (xx + zz), yz - ax,
        xz - ay, yz + ax, 1 - (xx + yy),
    )  # fmt: skip
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def rotvec_to_rotmat(rotvec: Tensor) -> Tensor:
    """Convert axis-angle to rotation matrices; twice differentiable everywhere, zero included.

    R = I + A K + B K^2 with K = skew(v), A = sin(t) / t, B = (1 - cos t) / t^2, t = |v|.

    Args:
        rotvec: (..., 3), radians.

    Returns:
        (..., 3, 3).

    Raises:
        ValueError: If the last dimension is not 3.
    """
    _require_last(rotvec, (3,), "rotvec")
    small, s2, t2, t = _squared_angle(rotvec)
    a = torch.where(small, _series(_SINC, s2), torch.sin(t) / t)
    # 1 - cos t loses half of the digits to cancellation; 2 sin^2(t / 2) does not.
    b = torch.where(small, _series(_VERSINE, s2), 2 * torch.sin(t / 2) ** 2 / t2)
    return _combine(rotvec, a, b)


def rotmat_to_rotvec(rotmat: Tensor) -> Tensor:
    """Convert rotation matrices to axis-angle of at most pi.

    At an angle of exactly pi the two opposite axes are the same rotation; either may come back.
    Differentiable once.

    Args:
        rotmat: (..., 3, 3) rotations; small departures from orthonormality are tolerated.

    Returns:
        (..., 3), radians.

    Raises:
        ValueError: If the last dimensions are not (3, 3).
    """
    _require_last(rotmat, (3, 3), "rotmat")
    return roma.rotmat_to_rotvec(rotmat)


def left_jacobian(rotvec: Tensor) -> Tensor:
    """Return the left Jacobian J of the exponential map at ``rotvec``.

    exp(v + dv) ~= exp(J dv) exp(v): what a small change of the axis-angle does, as a rotation in
    the outer frame. J = I + B K + C K^2 with B = (1 - cos t) / t^2, C = (t - sin t) / t^3
    (Sola et al., "A micro Lie theory for state estimation in robotics", eq. 145).

    Args:
        rotvec: (..., 3), radians.

    Returns:
        (..., 3, 3).

    Raises:
        ValueError: If the last dimension is not 3.
    """
    _require_last(rotvec, (3,), "rotvec")
    small, s2, t2, t = _squared_angle(rotvec)
    b = torch.where(small, _series(_VERSINE, s2), 2 * torch.sin(t / 2) ** 2 / t2)
    c = torch.where(small, _series(_SINE_REST, s2), (1 - torch.sin(t) / t) / t2)
    return _combine(rotvec, b, c)


def rotmat_and_left_jacobian(rotvec: Tensor) -> tuple[Tensor, Tensor]:
    """Return both at once, for solvers with analytic derivatives; not to be differentiated itself.

    A third of the operations of the two functions apart: they share the angle, and what the second
    derivative at zero needs is left out. Agrees with them to 1e-11.

    Args:
        rotvec: (..., 3), radians.

    Returns:
        (..., 3, 3) the rotation matrix and (..., 3, 3) the left Jacobian.

    Raises:
        ValueError: If the last dimension is not 3.
    """
    _require_last(rotvec, (3,), "rotvec")
    t2 = rotvec.square() @ rotvec.new_ones(3)
    t = t2.sqrt()
    a = torch.sinc(t / math.pi)
    b = 0.5 * torch.sinc(t / (2 * math.pi)).square()
    # (1 - a) / t^2 loses its digits below a hundredth of a radian
    c = torch.where(t2 < 1e-4, (1 - t2 / 20) / 6, (1 - a) / t2.clamp_min(1e-8))
    a, b, c = a[..., None, None], b[..., None, None], c[..., None, None]
    generators = _generators(rotvec.dtype, rotvec.device)
    k = (rotvec @ generators).unflatten(-1, (3, 3))
    outer = rotvec[..., :, None] * rotvec[..., None, :]
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    bk = b * k
    rotmat = torch.cos(t)[..., None, None] * eye + (a * k + b * outer)
    return rotmat, a * eye + (bk + c * outer)


@lru_cache(maxsize=8)
def _generators(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, 9): skew(v) is v @ this, row by row."""
    return skew(torch.eye(3, dtype=dtype, device=device)).reshape(3, 9)


def compose_rotvecs(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the axis-angle, at most pi, of the rotation ``outer`` after ``inner``.

    By unit quaternions; not to be differentiated.

    Args:
        outer: (..., 3), radians.
        inner: (..., 3), radians.

    Returns:
        (..., 3).

    Raises:
        ValueError: If a last dimension is not 3.
    """
    _require_last(outer, (3,), "outer")
    _require_last(inner, (3,), "inner")
    both = torch.stack([outer, inner])
    half = 0.5 * both.norm(dim=-1, keepdim=True)
    w1, w2 = half.cos()
    v1, v2 = 0.5 * torch.sinc(half / math.pi) * both
    w = w1 * w2 - (v1 * v2).sum(-1, keepdim=True)
    v = w1 * v2 + w2 * v1 + torch.linalg.cross(v1, v2)
    v = torch.where(w < 0, -v, v)
    n = v.norm(dim=-1, keepdim=True)
    # w >= 0 and w^2 + n^2 = 1, so the ratio tends to 2
    return v * torch.where(n < 1e-9, 2.0, 2 * torch.atan2(n, w.abs()) / n.clamp_min(1e-12))


def left_jacobian_inverse(rotvec: Tensor) -> Tensor:
    """Return the inverse of ``left_jacobian``; finite below an angle of 2 pi, where J is singular.

    J^-1 = I - K / 2 + D K^2 with D = (1 - (t / 2) cot(t / 2)) / t^2 (Sola et al., eq. 146).

    Args:
        rotvec: (..., 3), radians, shorter than 2 pi.

    Returns:
        (..., 3, 3).

    Raises:
        ValueError: If the last dimension is not 3.
    """
    _require_last(rotvec, (3,), "rotvec")
    small, s2, t2, t = _squared_angle(rotvec)
    half = t / 2
    closed = (1 - half * torch.cos(half) / torch.sin(half)) / t2
    d = torch.where(small, _series(_COTANGENT, s2), closed)
    return _combine(rotvec, torch.full_like(d, -0.5), d)


def rotmat_to_rot6d(rotmat: Tensor) -> Tensor:
    """Return the first two columns of rotation matrices, one after the other (Zhou et al. 2019).

    Many checkpoints hold the same six numbers interleaved, row by row: that is
    ``rotmat[..., :2].flatten(-2)``, and not this.

    Args:
        rotmat: (..., 3, 3).

    Returns:
        (..., 6): first column, second column.

    Raises:
        ValueError: If the last dimensions are not (3, 3).
    """
    _require_last(rotmat, (3, 3), "rotmat")
    return torch.cat((rotmat[..., 0], rotmat[..., 1]), dim=-1)


def rot6d_to_rotmat(rot6d: Tensor) -> Tensor:
    """Return the rotations whose first two columns, made orthonormal, are given (Gram-Schmidt).

    Args:
        rot6d: (..., 6): first column, second column; any length, not parallel. A column of
            (almost) no length, or two parallel ones, give no rotation but finite numbers.

    Returns:
        (..., 3, 3).

    Raises:
        ValueError: If the last dimension is not 6.
    """
    _require_last(rot6d, (6,), "rot6d")
    first, second = rot6d[..., :3], rot6d[..., 3:]
    x = torch.nn.functional.normalize(first, dim=-1, eps=1e-12)
    y = second - (x * second).sum(-1, keepdim=True) * x
    y = torch.nn.functional.normalize(y, dim=-1, eps=1e-12)
    return torch.stack((x, y, torch.linalg.cross(x, y)), dim=-1)
