"""The other rooms' doors that a run goes through, named in one place and loaded late.

``fitting.run`` is handed a ``Rooms``; tests hand in another.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from curation.samples import PersonObservation
from fitting.config import FitConfig
from fitting.loop import Solver
from fitting.overlays import draw_fit
from fitting.reference_config import ReferenceConfig

__all__ = ["Rooms", "real_rooms"]


@dataclass(frozen=True)
class Rooms:
    """What a run needs of others.

    Attributes:
        open_dataset: (root, kind or None) -> curation.datasets.Dataset.
        observe: (samples, *, source, workers, cache_dir) -> observations, in order.
        load_body: (source, family, gender) -> the body; a module-level function.
        make_fitter: (body, config, device, dtype) -> the solver that the config is of.
        start_torch: ("auto", "cpu", "cuda"...) -> the device's name, torch's version.
        seed: Seeds every random generator.
        draw: As fitting.overlays.draw_fit; a module-level function.
        part_s: Seconds between parts.
    """

    open_dataset: Callable[[Path, str | None], Any]
    observe: Callable[..., Iterable[PersonObservation]]
    load_body: Callable[[str, str, str], BodyData]
    make_fitter: Callable[[BodyData, FitConfig | ReferenceConfig, str, str, str], Solver]
    start_torch: Callable[[str], tuple[str, str]]
    seed: Callable[[int], None]
    draw: Callable[[BodyData, Mapping[str, Any], Path], dict[str, np.ndarray]] = draw_fit
    part_s: float = 10.0


def real_rooms() -> Rooms:
    """Return the project's own rooms. Loads torch."""
    from bodymodel.files import load_body
    from curation.datasets import open_dataset
    from curation.observe import observe

    return Rooms(open_dataset, observe, load_body, make_fitter, start_torch, seed_everything)


def make_fitter(
    body: BodyData, config: FitConfig | ReferenceConfig, device: str, dtype: str, prior: str
) -> Solver:
    """Return the solver whose settings these are; the prior is by name or path."""
    from fitting.prior_choice import load_prior

    pose_prior = load_prior(prior)
    if isinstance(config, ReferenceConfig):
        from fitting.reference import ReferenceFitter

        return ReferenceFitter(body, config, device, dtype, pose_prior)
    from fitting.fit import Fitter

    return Fitter(body, config, device, dtype, pose_prior)


def start_torch(wanted: str) -> tuple[str, str]:
    """Return the device to use and torch's version.

    Args:
        wanted: "auto" for cuda where it is usable, else cpu; or a device's name.

    Raises:
        RuntimeError: If the device is named and cannot be used.
    """
    import torch

    if wanted == "auto":
        return ("cuda" if torch.cuda.is_available() else "cpu"), torch.__version__
    device = torch.device(wanted)
    torch.zeros(1, device=device)  # raises here, and says why, if it cannot be used
    return str(device), torch.__version__


def seed_everything(seed: int) -> None:
    """Seed torch on every device, and the generators of Python."""
    import random

    import torch

    random.seed(seed)
    torch.manual_seed(seed)
