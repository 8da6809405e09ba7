"""Names of files that belong to photos: short ones, and never one for two photos."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from curation.datasets.base import is_image_name, relative_id

__all__ = ["FolderStems", "unique_stems"]


def unique_stems(paths: Iterable[str]) -> dict[str, str]:
    """Return for each photo its path without the ending; with it, where that is another's, too.

    ``a.jpg`` and ``a.png`` of one folder keep their endings, all others lose theirs. Capitals do
    not count: some disks do not tell them apart.

    Args:
        paths: With forward slashes; the same photo may come more than once.
    """
    photos = dict.fromkeys(paths)
    names = {path: PurePosixPath(path).with_suffix("").as_posix() for path in photos}
    while True:  # a photo that keeps its ending may meet another's stem: a.jpg and a.jpg.png
        counts = Counter(name.casefold() for name in names.values())
        met = [p for p, name in names.items() if name != p and counts[name.casefold()] > 1]
        if not met:
            return names
        names |= {path: path for path in met}


class FolderStems:
    """The same for photos one by one: what else their folder holds decides, each listed once.

    Args:
        root: Directory that the photos' paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, dict[str, str]] = {}

    def __call__(self, path: str) -> str:
        """Return a photo's path as unique_stems of its whole folder does."""
        folder = PurePosixPath(path).parent
        if folder.as_posix() not in self._folders:
            try:
                found = list((self._root / folder).iterdir())
            except OSError:
                found = []  # the photos are gone: nothing to be confused with
            paths = sorted(relative_id(self._root, p) for p in found if is_image_name(p.name))
            self._folders[folder.as_posix()] = unique_stems(paths)
        known = self._folders[folder.as_posix()]
        return known.get(path) or PurePosixPath(path).with_suffix("").as_posix()
