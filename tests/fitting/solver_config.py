"""Settings of a solver, as long as fitting.config is not there. Import it before fitting.run."""

import importlib.util
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class FitConfig:
    """A setting of a solver."""

    tolerance: float = 1e-3
    """When it is done."""


if importlib.util.find_spec("fitting.config") is None:
    sys.modules["fitting.config"] = sys.modules[__name__]
