"""Photos that stay decoded: for training sets that fit into memory.

Decoding a photo costs a small network as much as a step of learning from it. The first time a photo
is asked for it is decoded and kept, until the room given is full; what comes after is decoded each
time, as before. Batches do not depend on it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from regressor.examples import Example, ExampleSource, Modality, Picture, modality_of


@dataclass(eq=False)
class PictureMemory:
    """Decoded photos, shared by the sources of a training.

    Attributes:
        room: Bytes that may be kept.
        used: Bytes that are.
    """

    room: int
    used: int = 0
    pictures: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)

    def load(self, key: tuple[int, int], load: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the kept photo, or load it, and keep it if there is room."""
        kept = self.pictures.get(key)
        if kept is not None:
            return kept
        image = load()
        if self.used + image.nbytes <= self.room:
            image.setflags(write=False)
            self.pictures[key] = image
            self.used += image.nbytes
        return image


@dataclass(frozen=True, eq=False)
class _KeptPicture:
    memory: PictureMemory
    key: tuple[int, int]
    picture: Picture

    def load(self) -> np.ndarray:
        return self.memory.load(self.key, self.picture.load)


@dataclass(frozen=True, eq=False)
class KeptSource:
    """A data set whose photos stay in memory.

    Attributes:
        source: The data set.
        memory: Where they stay.
    """

    source: ExampleSource
    memory: PictureMemory

    def __len__(self) -> int:
        return len(self.source)

    @property
    def modality(self) -> Modality:
        """What its examples show."""
        return modality_of(self.source)

    def __getitem__(self, index: int) -> Example:
        """Return one example; its photo is decoded when it is asked for."""
        example = self.source[index]
        key = (id(self.source), index)
        return replace(example, picture=_KeptPicture(self.memory, key, example.picture))
