"""A plain folder of photos. Torch-free."""

from dataclasses import dataclass
from pathlib import Path

from curation.datasets.base import FolderOfPhotos, relative_id
from curation.samples import Sample


@dataclass(frozen=True)
class FolderDataset(FolderOfPhotos):
    """Every image file below a directory, without labels."""

    root: Path
    kind: str = "folder"

    def sample_of(self, path: Path) -> Sample:
        """Return the sample of an image below the root."""
        return Sample(relative_id(self.root, path), path)
