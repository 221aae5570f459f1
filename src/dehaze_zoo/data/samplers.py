"""Which samples an epoch holds, in which order, for which rank; and the random stream that belongs to each. Nothing here has a state
that would have to be saved: everything follows from (seed, epoch, position)."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
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
        whole = zip(range(self.samples_per_epoch), self.elements(), strict=False)
        for position, element in itertools.islice(whole, start + self.rank, None, self.world_size):
            yield Token(self.epoch, position, element)

    def elements(self) -> Iterator[int]:
        """The element at each position of the epoch."""
        for round_ in itertools.count():
            yield from map(int, generator(self.seed, "order", self.epoch, round_).permutation(self.length_of_set))

    def __len__(self) -> int:
        """Of the whole epoch on this rank, also where it starts in its midst."""
        return len(range(self.rank, self.samples_per_epoch, self.world_size))


class MixedSampler(EpochSampler):
    """An epoch of samples of several sets, each with its share of ``weights``; elements count through all sets, one after another.

    The shares are met to a sample in every epoch, at positions drawn anew; each set goes through whole permutations of its own.
    Raises ValueError for an empty set with a weight, or weights that are not positive numbers for at least one set.
    """

    def __init__(
        self, lengths: Sequence[int], weights: Sequence[float], samples_per_epoch: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if not any(weights) or min(weights) < 0 or len(weights) != len(lengths):
            raise ValueError(f"weights {[*weights]} for {len(lengths)} sets")
        if any(weight and not length for weight, length in zip(weights, lengths, strict=True)):
            raise ValueError(f"nothing to sample: sets of {[*lengths]}")
        super().__init__(sum(lengths), samples_per_epoch, seed, rank, world_size)
        self.lengths, self.shares = [*lengths], np.asarray(weights, np.float64) / sum(weights)

    def elements(self) -> Iterator[int]:
        edges = np.rint([0, *np.cumsum(self.shares) * self.samples_per_epoch]).astype(np.int64)
        counts = edges[1:] - edges[:-1]
        which = generator(self.seed, "mix", self.epoch).permutation(np.repeat(np.arange(len(counts)), counts))
        order = np.empty(self.samples_per_epoch, np.int64)
        for number, (length, before) in enumerate(zip(self.lengths, np.cumsum([0, *self.lengths]), strict=False)):
            rounds = range(-(-int(counts[number]) // length) if length else 0)
            drawn = [generator(self.seed, f"order {number}", self.epoch, k).permutation(length) for k in rounds]
            order[which == number] = np.concatenate([*drawn, np.empty(0, np.int64)])[: counts[number]] + before
        return iter(order.tolist())


class ShardSampler(Sampler[int]):
    """Every element once, in order, dealt over the ranks without the repeats that torch's DistributedSampler adds to even them out."""

    def __init__(self, length_of_set: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, length_of_set, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
