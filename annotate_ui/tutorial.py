"""The tutorial: the owner's items, and before them items that come with the page, ten together.

The built-in ones are rendered people with the true body, or one that was made wrong in a known way
(``scripts/build_tutorial.py``); who starts a review has nothing else to teach with.
"""

import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from curation.gold import TUTORIAL_ITEMS, GoldItem

__all__ = ["BuiltIn", "built_in_lessons", "lessons"]

_PREFIX = "built-in-lesson-"


@dataclass(frozen=True)
class BuiltIn:
    """What the page shows of a built-in item.

    Attributes:
        number: Among the built-in ones.
        gold: Its answer; the ``fit_id`` is of no store.
        errors: By part, as of :meth:`annotate_ui.items.Item.errors`.
        files: Names of its pictures.
    """

    number: int
    gold: GoldItem
    errors: tuple[dict[str, Any], ...]
    files: tuple[str, ...]

    def file(self, name: str) -> bytes | None:
        """Return one of its files, None if there is none of that name."""
        with _archive() as archive:
            try:
                return archive.read(f"{self.number}/{name}")
            except KeyError:
                return None

    def described(self, lease: str) -> dict[str, Any]:
        """Return what the page needs to show it."""
        return {
            "lease": lease,
            "why": "tutorial",
            "settles": False,
            "dataset": "tutorial",
            "image": f"rendered person {self.number + 1}",
            "person": 0,
            "status": "",
            "errors": list(self.errors),
            "files": list(self.files),
        }


@cache
def built_in_lessons() -> tuple[BuiltIn, ...]:
    """Return the items that come with the page."""
    with _archive() as archive:
        told = json.loads(archive.read("lessons.json"))
    return tuple(
        BuiltIn(
            number=k,
            gold=GoldItem(
                f"{_PREFIX}{k}", one["verdict"], tuple(one["reasons"]), one["note"], True
            ),
            errors=tuple(one["errors"]),
            files=tuple(one["files"]),
        )
        for k, one in enumerate(told)
    )


def lessons(own: Sequence[GoldItem]) -> list[GoldItem | BuiltIn]:
    """Return the tutorial's items: the owner's, last, and built-in ones up to ten in all.

    Args:
        own: The owner's.
    """
    chosen = list(own)[:TUTORIAL_ITEMS]
    return [*built_in_lessons()[: TUTORIAL_ITEMS - len(chosen)], *chosen]


@contextmanager
def _archive() -> Iterator[zipfile.ZipFile]:
    file = resources.files("annotate_ui").joinpath("data", "tutorial.zip")
    with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        yield archive
