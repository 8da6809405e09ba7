"""The prior that a user named, from the package or from the user's own files."""

from pathlib import Path

import numpy as np
import torch

from bodymodel.pickles import load_model_pickle
from fitting.prior_names import PRIORS, prior_file
from fitting.priors import BodyPrior, PosePrior, free_pose, load_pose_prior, squared_pose
from fitting.vposer import load_vposer

__all__ = ["load_gmm", "load_prior"]

_SMPL_DIM, _DIM = 69, 63


def load_prior(choice: str) -> BodyPrior:
    """Return a prior in float64 on the CPU; its ``to`` takes it elsewhere.

    Args:
        choice: ``open`` (ours, learnt from motion capture), ``gaussian`` (the plain Gaussian of the
            same data), ``l2`` (squared axis-angles), ``none``; or the folder or checkpoint of a
            VPoser release, or SMPLify's ``gmm_08.pkl``.

    Raises:
        FileNotFoundError: If it is neither a name nor there.
        ValueError: If the file is damaged or of another layout.
    """
    file = prior_file(choice)
    if file is not None:
        return load_gmm(file) if file.suffix == ".pkl" else load_vposer(file)
    if choice == "open":
        from fitting.learned_prior import load_learned_prior

        return load_learned_prior()
    makers = {
        "gaussian": lambda: load_pose_prior(dtype=torch.float64),
        "l2": lambda: squared_pose(torch.float64),
        "none": lambda: free_pose(torch.float64),
    }
    assert set(makers) | {"open"} == set(PRIORS)
    return makers[choice]()


def load_gmm(path: str | Path) -> PosePrior:
    """Read SMPLify's mixture of Gaussians (Bogo et al. 2016), ``gmm_08.pkl``.

    It is over SMPL's 69 axis-angles. SMPL-X has no hand joints among its body's, so they are
    integrated out: the mean's and the covariance's last six entries are dropped. The energy is
    the published one, min_c 0.5 |x - m_c|^2 - log(w_c) with the normaliser in w_c, up to a constant
    that makes the smallest cost zero.

    Args:
        path: A pickle of a dict with ``means`` (C, 69), ``covars`` (C, 69, 69), ``weights`` (C,);
            63 instead of 69 is taken, too. It is read as data, never run.

    Raises:
        ValueError: If it is damaged, asks for code, or holds something else.
    """
    content = load_model_pickle(path)
    missing = {"means", "covars", "weights"} - set(content)
    if missing:
        raise ValueError(
            f"{path} is no mixture of Gaussians: it lacks {', '.join(sorted(missing))}, it holds "
            f"{', '.join(sorted(content)) or 'nothing'}"
        )
    try:
        means, covars, weights = (
            np.asarray(content[k], np.float64) for k in ("means", "covars", "weights")
        )
    except (TypeError, ValueError):
        raise ValueError(f"{path}: means, covars and weights must be arrays of numbers") from None
    count, dim = len(np.atleast_1d(weights)), means.shape[-1] if means.ndim else 0
    shapes = (means.shape, covars.shape, weights.shape)
    if dim not in (_SMPL_DIM, _DIM) or shapes != ((count, dim), (count, dim, dim), (count,)):
        raise ValueError(
            f"{path}: expected means (C, 69), covars (C, 69, 69), weights (C,), got {shapes}"
        )
    covars = covars[:, :_DIM, :_DIM]
    try:
        factors = np.linalg.cholesky(np.linalg.inv(covars))
    except np.linalg.LinAlgError:
        raise ValueError(f"{path}: a covariance is not positive definite") from None
    if not (weights > 0).all():
        raise ValueError(f"{path}: the weights must be positive, got {weights.tolist()}")
    costs = 0.5 * np.linalg.slogdet(covars)[1] - np.log(weights)
    arrays = (means[:, :_DIM], np.swapaxes(factors, -1, -2), costs - costs.min())
    return PosePrior(*(torch.tensor(a) for a in arrays))
