"""Which samples an epoch holds, in which order, for which rank; and the random stream that belongs to each. Nothing here has a state
that would have to be saved: everything follows from (seed, epoch, position)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Token(NamedTuple):
    """One sample of an epoch: ``position`` counts over all ranks, ``element`` is the number within the set."""

    epoch: int
    position: int
    element: int


def generator(seed: int, stream: str, *where: int) -> np.random.Generator:
    """The random numbers of one sample: the same in every worker, on every rank, after a resume. Streams of other names are others."""
    return np.random.default_rng(np.random.SeedSequence([seed % 2**63, zlib.crc32(stream.encode()), len(where), *where]))


class EpochSampler(Sampler[Token]):
    """An epoch of any number of samples, whatever the set's size: whole random permutations one after another, the last one cut.

    Rank r takes the positions r, r + world_size, ...: batch k of all ranks together holds the same samples for any number of ranks.
    ``set_epoch`` chooses the epoch; ``start_at`` lets one epoch begin at a position (over all ranks; a multiple of the batch size),
    for a resume in its midst. Raises ValueError for an empty set.
    """

    def __init__(self, length_of_set: int, samples_per_epoch: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if length_of_set < 1 or samples_per_epoch < 1:
            raise ValueError(f"nothing to sample: a set of {length_of_set}, {samples_per_epoch} samples an epoch")
        self.length_of_set, self.samples_per_epoch, self.seed = length_of_set, samples_per_epoch, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._start = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def start_at(self, epoch: int, position: int) -> None:
        self.epoch, self._start = epoch, (epoch, position)

    def __iter__(self) -> Iterator[Token]:
        start = self._start[1] if self._start[0] == self.epoch else 0
        n, round_, order = self.length_of_set, -1, np.empty(0, dtype=np.int64)
        for position in range(start + self.rank, self.samples_per_epoch, self.world_size):
            if position // n != round_:
                round_ = position // n
                order = generator(self.seed, "order", self.epoch, round_).permutation(n)
            yield Token(self.epoch, position, int(order[position % n]))

    def __len__(self) -> int:
        """Of the whole epoch on this rank, also where it starts in its midst."""
        return len(range(self.rank, self.samples_per_epoch, self.world_size))


class ShardSampler(Sampler[int]):
    """Every element once, in order, dealt over the ranks without the repeats that torch's DistributedSampler adds to even them out."""

    def __init__(self, length_of_set: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, length_of_set, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
