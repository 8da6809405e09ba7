"""Where weights are: files of the user's, or those that come with the package."""

from importlib import resources
from pathlib import Path

BUNDLED = "bundled"
"""What the image network's weights that come along are called where a file is asked for."""


def weights_file(name: str | Path) -> Path:
    """Return the file of weights: the package's own for "bundled", else the path itself."""
    if str(name) != BUNDLED:
        return Path(name)
    return Path(str(resources.files("regressor") / "data" / "photos.safetensors"))
