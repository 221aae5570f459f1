from __future__ import annotations

from collections import Counter

import pytest

from dehaze_zoo.data.samplers import EpochSampler, MixedSampler, ShardSampler, Token


def epoch(length: int, samples: int, ranks: int = 1, seed: int = 0, number: int = 0) -> list[Token]:
    tokens = []
    for rank in range(ranks):
        sampler = EpochSampler(length, samples, seed, rank, ranks)
        sampler.set_epoch(number)
        mine = list(sampler)
        assert len(sampler) == len(mine)
        tokens += mine
    return tokens


@pytest.mark.parametrize(("length", "samples"), [(10, 32), (100, 32), (7, 7), (1, 16), (3, 8)])
def test_the_same_samples_for_any_number_of_ranks(length: int, samples: int) -> None:
    one = sorted(epoch(length, samples))
    assert [token.position for token in one] == list(range(samples))
    for ranks in (2, 8):
        assert sorted(epoch(length, samples, ranks)) == one


def test_whole_permutations_the_last_one_cut() -> None:
    tokens = [token.element for token in epoch(10, 32)]
    for start in (0, 10, 20):
        assert sorted(tokens[start : start + 10]) == list(range(10))
    assert len(set(tokens[30:])) == 2
    assert tokens[:10] != tokens[10:20]
    counts = Counter(tokens)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    assert epoch(50, 50) == epoch(50, 50)
    assert [t.element for t in epoch(50, 50)] != [t.element for t in epoch(50, 50, number=1)]
    assert [t.element for t in epoch(50, 50)] != [t.element for t in epoch(50, 50, seed=1)]


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_epoch_goes_on_from_its_midst(ranks: int) -> None:
    for rank in range(ranks):
        sampler = EpochSampler(10, 32, 0, rank, ranks)
        sampler.set_epoch(4)
        whole = list(sampler)
        resumed = EpochSampler(10, 32, 0, rank, ranks)
        resumed.start_at(4, 16)
        resumed.set_epoch(4)  # as Lightning does at an epoch's start
        assert list(resumed) == whole[16 // ranks :]
        resumed.set_epoch(5)
        assert len(list(resumed)) == len(whole)


def test_batches_over_all_ranks_hold_the_same_samples() -> None:
    batches = {tuple(sorted(epoch(10, 32)[k : k + 8])) for k in range(0, 32, 8)}
    shares = [list(EpochSampler(10, 32, 0, rank, 4)) for rank in range(4)]
    assert {tuple(sorted(token for share in shares for token in share[k : k + 2])) for k in range(0, 8, 2)} == batches


def test_judging_deals_every_element_once() -> None:
    for ranks in (1, 2, 3, 8):
        assert sorted(i for rank in range(ranks) for i in ShardSampler(7, rank, ranks)) == list(range(7))
        assert sum(len(ShardSampler(7, rank, ranks)) for rank in range(ranks)) == 7


def test_nothing_to_sample() -> None:
    with pytest.raises(ValueError, match="nothing to sample"):
        EpochSampler(0, 5, 0)


def mixed(samples: int, ranks: int = 1, number: int = 0, weights: tuple[float, ...] = (2, 1, 0)) -> list[Token]:
    tokens = []
    for rank in range(ranks):
        sampler = MixedSampler([10, 4, 7], weights, samples, 0, rank, ranks)
        sampler.set_epoch(number)
        tokens += list(sampler)
    return tokens


@pytest.mark.parametrize("samples", [48, 50, 1, 9])
def test_sets_are_mixed_by_weight_in_every_epoch(samples: int) -> None:
    for number in range(3):
        tokens = mixed(samples, number=number)
        shares = Counter(0 if token.element < 10 else 1 if token.element < 14 else 2 for token in tokens)
        assert abs(shares[0] - samples * 2 / 3) <= 0.5
        assert shares[2] == 0
        for first, length in ((0, 10), (10, 4)):
            own = [token.element for token in tokens if first <= token.element < first + length]
            for start in range(0, len(own) - length + 1, length):
                assert sorted(own[start : start + length]) == list(range(first, first + length))  # whole permutations
    assert mixed(48, number=0) != mixed(48, number=1)


def test_a_mix_is_the_same_for_any_number_of_ranks_and_from_its_midst() -> None:
    one = mixed(48)
    for ranks in (2, 8):
        assert sorted(mixed(48, ranks)) == one
    sampler = MixedSampler([10, 4, 7], (2, 1, 0), 48, 0, 1, 2)
    sampler.start_at(0, 16)
    assert list(sampler) == one[17::2]


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -1, 1), (1, 1)])
def test_impossible_weights(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="weights"):
        mixed(4, weights=weights)
    with pytest.raises(ValueError, match="nothing to sample"):
        MixedSampler([0, 3], (1, 1), 4, 0)
