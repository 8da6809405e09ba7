"""What a store's readers and writers must know of compaction that was interrupted. Torch-free.

``curation.compact`` writes the merged rows to ``NAME.parquet.compact``, then a journal that names
the parts which they replace, then renames the merged part to NAME.parquet (which it replaces as
well), removes the others and the journal. The rename decides: while ``.compact`` is there, the old
parts count; once it is not, those that the journal names are not to be read.
"""

import json
from collections.abc import Iterable
from pathlib import Path

__all__ = ["JOURNAL", "finish_compaction", "merged_path", "replaced_parts"]

JOURNAL = "compact.json"


def merged_path(part: Path) -> Path:
    """Return where the rows that are to become a part are written."""
    return part.with_name(part.name + ".compact")


def _read(folder: Path) -> dict | None:
    """Return the journal; None if there is none, an empty one if it cannot be read."""
    try:
        journal = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}
    return journal if isinstance(journal, dict) else {}


def _replaced(folder: Path) -> list[Path]:
    journal = _read(folder)
    if not journal or merged_path(folder / journal["part"]).exists():
        return []
    return [folder / name for name in journal["replaces"]]


def replaced_parts(folders: Iterable[Path]) -> set[Path]:
    """Return the parts whose rows are in another part already, and that are still there."""
    return {path for folder in folders for path in _replaced(folder)}


def finish_compaction(folder: Path) -> None:
    """Remove what a killed compaction left; the run's lock must be held.

    Args:
        folder: Of the run's parts.
    """
    for path in _replaced(folder):
        path.unlink(missing_ok=True)
    # The journal last: while parts that it names are there, it is needed.
    (folder / JOURNAL).unlink(missing_ok=True)
    for path in folder.glob("*.compact"):
        path.unlink()
