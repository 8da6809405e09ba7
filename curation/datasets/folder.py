"""A plain folder of photos. Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curation.datasets.base import iter_image_files, relative_id
from curation.samples import Sample


@dataclass(frozen=True)
class FolderDataset:
    """Every image file below a directory, without labels."""

    root: Path
    kind: str = "folder"

    def count(self) -> int:
        """Return the number of image files."""
        return sum(1 for _ in iter_image_files(self.root))

    def iter_samples(self) -> Iterator[Sample]:
        """Yield the image files in the order of their names."""
        for path in iter_image_files(self.root):
            yield Sample(relative_id(self.root, path), path)
