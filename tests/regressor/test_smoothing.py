import torch

from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from regressor.smoothing import OneEuro, smooth_rotations, smooth_vectors


def test_still_stays_still():
    values = torch.full((20, 3), 0.7)
    torch.testing.assert_close(smooth_vectors(values, 30), values)
    rotations = rotvec_to_rotmat(torch.tensor([0.1, 2.0, -1.0])).expand(20, 3, 3)
    torch.testing.assert_close(smooth_rotations(rotations, 30), rotations, atol=1e-5, rtol=0)


def test_jitter_shrinks_and_motion_is_followed():
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(120) / 30
    angle = torch.stack([0 * time, 2.5 * time, 0 * time], -1)  # past half a turn, axis-angle jumps
    clean = rotvec_to_rotmat(angle)
    noise = 0.05 * torch.randn(120, 3, generator=generator)
    noisy = clean @ rotvec_to_rotmat(noise)
    smooth = smooth_rotations(noisy, 30, OneEuro(speed=1.0))

    def jitter(rotations):
        turn = rotmat_to_rotvec(rotations[:-1].mT @ rotations[1:])
        return float((turn[1:] - turn[:-1]).norm(dim=-1).mean())

    assert jitter(smooth) < 0.5 * jitter(noisy)
    lag = rotmat_to_rotvec(clean.mT @ smooth).norm(dim=-1)
    assert float(lag[20:].max()) < 0.35


def test_more_speed_means_less_lag():
    values = torch.arange(60.0)[:, None]
    slow = smooth_vectors(values, 30, OneEuro(speed=0.0))
    quick = smooth_vectors(values, 30, OneEuro(speed=1.0))
    assert (values - quick)[-1] < (values - slow)[-1]
