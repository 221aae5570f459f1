"""Several data sets as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from dehaze_zoo.data.pairs import Sample, Samples
from dehaze_zoo.data.samplers import Token


class MixedTraining(Samples):
    """Training sets one after another, drawn by the Tokens of a MixedSampler."""

    def __init__(self, sets: Sequence[Samples]) -> None:
        self.sets, self.lengths = sets, [len(dataset) for dataset in sets]
        self._ends = [*accumulate(self.lengths)]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, token: Token) -> Sample:
        number = bisect_right(self._ends, token.element)
        before = self._ends[number] - self.lengths[number]
        return self.sets[number][token._replace(element=token.element - before)]


class NamedSets(Samples):
    """Judged sets one after another; a sample's name is led by its set's, as in haze4k/1_0.6_1.26.png."""

    def __init__(self, sets: Mapping[str, Samples]) -> None:
        self.sets = sets

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.sets.values())

    def __getitem__(self, index: int) -> Sample:
        for name, dataset in self.sets.items():
            if index < len(dataset):
                sample = dataset[index]
                return {**sample, "name": f"{name}/{sample['name']}"}
            index -= len(dataset)
        raise IndexError(index)
