"""Which examples a step of training sees: a pure function of seed, step and rank.

So training that was killed goes on with the very batches it would have seen, whatever the number
of worker processes, and no state of a data loader has to be kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from regressor.augment import AugmentConfig, Batch, make_batch
from regressor.examples import Example, ExampleSource


@dataclass(frozen=True, eq=False)
class Mixture(Dataset):
    """Batches by step.

    Attributes:
        sources: Data sets.
        shares: How often each is drawn from, relative to each other.
        batch: Examples a step and rank.
        augment: How crops are drawn.
        body_size: Side of the body's crop.
        source_size: Side of the pixels at hand.
        seed: Of everything drawn.
        rank: Of this process.
        skip: Indices by source that are held out.
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

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step; a photo that cannot be read is replaced by another draw."""
        rng = np.random.default_rng([self.seed, self.rank, step])
        shares = np.asarray(self.shares, float) / np.sum(self.shares)
        examples: list[Example] = []
        failures = 0
        while len(examples) < self.batch:
            which = int(rng.choice(len(self.sources), p=shares))
            index = int(rng.integers(len(self.sources[which])))
            if self.skip and index in self.skip[which]:
                continue
            example = self.sources[which][index]
            try:
                example = _loaded(example)
            except Exception as error:
                failures += 1
                if failures > 10 * self.batch:
                    raise RuntimeError(
                        f"step {step}: {failures} photos in a row could not be read, the last is "
                        f"{example.key} of {example.source}: {error}"
                    ) from error
                continue
            examples.append(example)
        return make_batch(examples, self.augment, self.body_size, self.source_size, rng)


@dataclass(frozen=True, eq=False)
class _InMemory:
    image: np.ndarray

    def load(self) -> np.ndarray:
        return self.image


def _loaded(example: Example) -> Example:
    """Read the photo now, so that one that cannot be read is known before it is in a batch."""
    from dataclasses import replace

    return replace(example, picture=_InMemory(example.picture.load()))


def hold_out(sources: Sequence[ExampleSource], share: float, seed: int) -> list[frozenset[int]]:
    """Return the indices of each source that are not trained on, whole photos together.

    By a hash of the photo's key, so that the same photos are held out whatever else is added.
    """
    import hashlib

    held = []
    for source in sources:
        indices = set()
        for index in range(len(source)):
            key = f"{seed}/{source[index].key}".encode()
            if int.from_bytes(hashlib.sha256(key).digest()[:8], "big") < share * 2**64:
                indices.add(index)
        held.append(frozenset(indices))
    return held
