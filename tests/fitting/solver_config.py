"""Settings of a solver, as long as fitting.config is not there. Import it before fitting.run."""

import importlib.util
import sys
import types

if importlib.util.find_spec("fitting.config") is None:
    module = types.ModuleType("fitting.config")
    # Executed in that module, so that its annotations resolve there.
    exec(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class FitConfig:\n"
        "    tolerance: float = 1e-3\n",
        module.__dict__,
    )
    sys.modules["fitting.config"] = module
