from dataclasses import dataclass, field, replace

import numpy as np
import torch

from regressor.augment import AugmentConfig
from regressor.kept import KeptSource, PictureMemory
from regressor.mixture import Mixture


@dataclass
class Counting:
    picture: object
    loads: list = field(default_factory=list)

    def load(self):
        self.loads.append(1)
        return self.picture.load()


@dataclass
class Counted:
    examples: list

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


def counted(rendered):
    return Counted([replace(e, picture=Counting(e.picture)) for e in (rendered[0], rendered[1])])


def test_a_photo_is_decoded_once(rendered):
    source = counted(rendered)
    kept = KeptSource(source, PictureMemory(1 << 30))
    first = kept[0].picture.load()
    assert kept[0].picture.load() is first
    assert len(source.examples[0].picture.loads) == 1
    assert not source.examples[1].picture.loads  # not before it is asked for


def test_what_does_not_fit_is_decoded_each_time(rendered):
    source = counted(rendered)
    size = source.examples[0].picture.load().nbytes
    memory = PictureMemory(size + 10)
    kept = KeptSource(source, memory)
    for _ in range(3):
        kept[0].picture.load()
        np.testing.assert_array_equal(kept[1].picture.load(), rendered[1].picture.load())
    assert len(source.examples[0].picture.loads) == 2  # one here to know its size
    assert len(source.examples[1].picture.loads) == 3
    assert memory.used == size


def test_two_sources_do_not_mix_up(rendered):
    memory = PictureMemory(1 << 30)
    a = KeptSource(Counted([rendered[0]]), memory)
    b = KeptSource(Counted([rendered[1]]), memory)
    assert not np.array_equal(a[0].picture.load(), b[0].picture.load())


def test_batches_are_the_same(rendered):
    plain = Mixture([rendered], [1.0], 4, AugmentConfig(), 32, 48, seed=5)
    kept = replace(plain, sources=[KeptSource(rendered, PictureMemory(1 << 30))])
    for step in (0, 1, 0):
        assert torch.equal(plain[step].pictures.source, kept[step].pictures.source)
        assert torch.equal(plain[step].targets.rotations, kept[step].targets.rotations)


def test_kept_hands_are_still_hands(rendered):
    from regressor.close_ups import close_ups
    from regressor.examples import Modality, modality_of

    hands = KeptSource(close_ups(rendered, Modality.HAND), PictureMemory(1 << 30))
    assert modality_of(hands) is Modality.HAND
    assert modality_of(KeptSource(rendered, PictureMemory(0))) is Modality.BODY
