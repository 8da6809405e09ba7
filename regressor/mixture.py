"""Which examples a step of training sees: a pure function of seed, step and rank.

So training that was killed goes on with the very batches it would have seen, whatever the number
of worker processes, and no state of a data loader has to be kept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch.utils.data import Dataset

from regressor.augment import SOURCE_MARGIN, AugmentConfig, Batch, make_batch
from regressor.conditioning import Conditioning
from regressor.examples import Example, ExampleSource, Modality, modality_of

PARTS_PER_PERSON = 64 / 48
"""Hands alone, and heads alone, to whole people in a step: ExPose's released batch sizes."""


@dataclass(frozen=True, eq=False)
class PartDraw:
    """How hands or heads alone are drawn.

    Attributes:
        batch: How many a step and rank.
        size: Side of the network's crop.
        augment: How crops are drawn.
        conditioning: Where the network starts; at the mean if None.
    """

    batch: int
    size: int
    augment: AugmentConfig
    conditioning: Conditioning | None = None

    @property
    def source_size(self) -> int:
        """Side of the pixels at hand: the crop's own, and what a turned one needs around it."""
        return math.ceil(SOURCE_MARGIN * self.size)


@dataclass(frozen=True, eq=False)
class Mixture(Dataset):
    """Batches by step.

    Attributes:
        sources: Data sets, each of whole people, of hands or of heads.
        shares: How often each is drawn from, relative to others that show the same.
        batch: Whole people a step and rank.
        augment: How their crops are drawn.
        body_size: Side of the body's crop.
        source_size: Side of the pixels at hand.
        seed: Of everything drawn.
        rank: Of this process.
        skip: Indices by source that are held out.
        parts: Hands and heads alone that come along.
    """

    sources: Sequence[ExampleSource]
    shares: Sequence[float]
    batch: int
    augment: AugmentConfig
    body_size: int
    source_size: int
    seed: int
    rank: int = 0
    skip: tuple[frozenset[int], ...] = ()
    parts: Mapping[Modality, PartDraw] = field(default_factory=dict)

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step; a photo that cannot be read is replaced by another draw."""
        rng = np.random.default_rng([self.seed, self.rank, step])
        people = self._draw(Modality.BODY, self.batch, step, rng)
        batch = make_batch(people, self.augment, self.body_size, self.source_size, rng)
        parts = {}
        for modality, draw in self.parts.items():
            examples = self._draw(modality, draw.batch, step, rng)
            part = make_batch(examples, draw.augment, draw.size, draw.source_size, rng)
            if draw.conditioning is not None:
                start = draw.conditioning.draw(part.targets, modality, rng)
                part = replace(part, start=start)
            parts[modality] = part
        return replace(batch, parts=parts)

    def _draw(
        self, modality: Modality, count: int, step: int, rng: np.random.Generator
    ) -> list[Example]:
        those = [
            k
            for k, source in enumerate(self.sources)
            if modality_of(source) is modality
            and len(source) > (len(self.skip[k]) if self.skip else 0)
        ]
        if count and not those:
            raise ValueError(
                f"no {modality.value} is left to learn from; give more data, or hold out less"
            )
        shares = np.asarray([self.shares[k] for k in those], float)
        examples: list[Example] = []
        failures = 0
        while len(examples) < count:
            which = those[int(rng.choice(len(those), p=shares / shares.sum()))]
            index = int(rng.integers(len(self.sources[which])))
            if self.skip and index in self.skip[which]:
                continue
            example = self.sources[which][index]
            try:
                example = _loaded(example)
            except Exception as error:
                failures += 1
                if failures > 10 * count:
                    raise RuntimeError(
                        f"step {step}: {failures} photos in a row could not be read, the last is "
                        f"{example.key} of {example.source}: {error}"
                    ) from error
                continue
            examples.append(example)
        return examples


@dataclass(frozen=True, eq=False)
class _InMemory:
    image: np.ndarray

    def load(self) -> np.ndarray:
        return self.image


def _loaded(example: Example) -> Example:
    """Read the photo now, so that one that cannot be read is known before it is in a batch."""
    return replace(example, picture=_InMemory(example.picture.load()))


def hold_out(sources: Sequence[ExampleSource], share: float, seed: int) -> list[frozenset[int]]:
    """Return the indices of each source that are not trained on, whole photos together.

    By a hash of the photo's key, so that the same photos are held out whatever else is added.
    """
    from curation.splits import assign_splits

    held = []
    for source in sources:
        keys = [source[index].key for index in range(len(source))]
        sides = assign_splits(keys, shares={"held": share, "train": 1 - share}, salt=str(seed))
        held.append(frozenset(k for k, side in enumerate(sides) if side == "held"))
    return held
