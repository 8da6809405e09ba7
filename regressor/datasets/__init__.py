"""Labels as people have them on disk, each layout a source of examples.

``open_labels("spin:lsp_train.npz@lsp/")`` opens one; the layout is found out by what is there if
it is not named, the folder of the photos by the first photo.
"""

from pathlib import Path

from bodymodel.body import BodyData
from regressor.datasets import (
    agora,
    bedlam,
    ffhq,
    fits,
    freihand,
    human36m,
    photos,
    spin,
    threedpw,
    wholebody,
)
from regressor.datasets.labels import LabelError, LabelRows, Layout

__all__ = ["LAYOUTS", "LabelError", "LabelRows", "Layout", "find_layout", "open_labels"]

LAYOUTS: tuple[Layout, ...] = (
    fits.EXPOSE, fits.HUMANDATA, bedlam.LAYOUT, spin.LAYOUT, ffhq.LAYOUT, wholebody.LAYOUT,
    human36m.LAYOUT, freihand.LAYOUT, threedpw.LAYOUT, agora.LAYOUT, photos.LAYOUT,
)  # fmt: skip
"""All that can be read."""


def open_labels(source: str | Path, body: BodyData) -> LabelRows:
    """Open labels of any layout.

    Args:
        source: ``PATH``, ``LAYOUT:PATH``, each with ``@FOLDER`` of the photos if they are not
            where the layout says.
        body: That will be posed: decides which labels mean something.

    Raises:
        LabelError: If there is nothing of a known layout, or it is damaged.
    """
    layout, path, images = _parts(str(source))
    if not path.exists():
        raise LabelError(f"{path} does not exist")
    if images is not None and not images.is_dir():
        raise LabelError(f"{images} is not a folder; after @ stands the folder of the photos")
    return (layout or find_layout(path)).open(path, images, body)


def find_layout(path: Path) -> Layout:
    """Return the layout of a file or folder.

    Raises:
        LabelError: If it is of none, or could be of several.
    """
    found = [layout for layout in LAYOUTS if layout.is_it(path)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(layout.name for layout in found)
        raise LabelError(f"{path} could be {names}; say which: {found[0].name}:{path}")
    known = "\n".join(f"  {layout.name:10s} {layout.what}" for layout in LAYOUTS)
    raise LabelError(f"{path} holds no labels of a known layout:\n{known}")


def _parts(source: str) -> tuple[Layout | None, Path, Path | None]:
    layout = None
    for known in LAYOUTS:
        if source.startswith(f"{known.name}:"):
            layout, source = known, source[len(known.name) + 1 :]
            break
    if "@" in source and not Path(source).exists():
        before, _, after = source.rpartition("@")
        return layout, Path(before), Path(after)
    return layout, Path(source), None
