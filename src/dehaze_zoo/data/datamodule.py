"""Lightning's view of the data: which pairs train, validate and test, in which batches. Nothing is looked up on disk before setup."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Dataset, default_collate

from dehaze_zoo.data.cache import Cache, open_cache
from dehaze_zoo.data.clear import ClearPictures, ClearTraining
from dehaze_zoo.data.degradation import Degradation, DegradedPairs, DegradedTraining
from dehaze_zoo.data.haze import Haze, Hazing
from dehaze_zoo.data.layouts import LAYOUTS, Pair, PairList, find_pairs, find_root, hold_out, pair_folders
from dehaze_zoo.data.manifest import StaleError, Watch, manifest_path, read_manifest
from dehaze_zoo.data.mixed import MixedTraining, NamedSets
from dehaze_zoo.data.packed import TornError
from dehaze_zoo.data.pairs import Augment, JudgedPairs, Sample, Samples, TrainingPairs, collate_crops, finished
from dehaze_zoo.data.samplers import EpochSampler, MixedSampler, ShardSampler
from dehaze_zoo.data.synthetic import Framing, HazedPairs, HazedTraining, ScenePairs, SceneTraining, Variation, clear_pictures
from dehaze_zoo.data.table import PairTable
from dehaze_zoo.data.workers import keep_freed_memory, set_up_worker
from dehaze_zoo.errors import ImageError, UsageError


class DehazingData(pl.LightningDataModule, ABC):
    """What all sets share. Subclasses give ``training_set`` and ``pairs``.

    batch_size and samples_per_epoch count over all ranks; crop_size in pixels. num_workers null: one a core but one, at most 8.
    An epoch's incomplete last batch is left out, but where it is the only one. Batches are {"hazy", "clear": float32 (B, 3, h, w) in
    [0, 1], "name": list}; validation and test ones hold one picture. A picture that cannot be read is raised as ImageError.
    """

    def __init__(self, batch_size: int, samples_per_epoch: int, crop_size: int, seed: int = 0, num_workers: int | None = None) -> None:
        super().__init__()
        self.batch_size, self.samples_per_epoch, self.crop_size, self.seed = batch_size, samples_per_epoch, crop_size, seed
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.num_workers = max(1, min(8, cores - 1)) if num_workers is None else num_workers

    @abstractmethod
    def training_set(self) -> Samples:
        """Reads Tokens. Raises UsageError where there is nothing to read."""

    @abstractmethod
    def pairs(self, split: str) -> Samples:
        """One split, train, val or test, as it is judged: by number, without random choices. Raises UsageError where there is nothing."""

    def train_dataloader(self) -> DataLoader[Sample]:
        dataset, (rank, ranks) = self.training_set(), self._ranks()
        if min(self.batch_size, self.samples_per_epoch) < ranks or self.batch_size % ranks or self.crop_size < 1:
            raise UsageError(
                f"data.batch_size={self.batch_size}, data.samples_per_epoch={self.samples_per_epoch}, data.crop_size={self.crop_size}, "
                f"over all {ranks} rank(s).\nThe batch must be a multiple of {ranks}; the epoch at least {ranks}, the crop at least 1."
            )
        full = self.samples_per_epoch // self.batch_size * self.batch_size
        sampler = self.sampler(dataset, full or self.samples_per_epoch, rank, ranks)
        if self.trainer is not None:
            # Lightning sets this same epoch, but on a resume only after the workers have begun to fetch; the position it leaves to us.
            loop = self.trainer.fit_loop  # type: ignore[attr-defined]
            done = loop.epoch_loop.batch_progress
            batches = 0 if done.is_last_batch else done.current.ready
            parts = dataset.sets if isinstance(dataset, MixedTraining) else [dataset]
            plain = [part for part in parts if isinstance(part, TrainingPairs)]
            if len(plain) == len(parts):  # a batch is raw or it is not
                keep_freed_memory()
                for part in plain:
                    part.raw = True  # on_after_batch_transfer, which Lightning calls, does the rest where the network is
            sampler.start_at(loop.epoch_progress.current.processed, batches * self.batch_size)  # type: ignore[attr-defined]
        return self._loader(dataset, sampler, self.batch_size // ranks, persistent=self.num_workers > 0)

    def sampler(self, dataset: Samples, samples: int, rank: int, ranks: int) -> EpochSampler:
        """What draws an epoch of ``samples`` from the training set."""
        return EpochSampler(len(dataset), samples, self.seed, rank, ranks)

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._judging("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        return self._judging("test")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, ImageError):
            raise batch
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return finished(batch) if isinstance(batch, dict) and "turn" in batch else batch

    def _judging(self, split: str) -> DataLoader[Sample]:
        dataset = self.pairs(split)
        return self._loader(dataset, ShardSampler(len(dataset), *self._ranks()), 1, persistent=False)

    def _loader(self, dataset: Samples, sampler: Any, batch_size: int, persistent: bool) -> DataLoader[Sample]:
        return DataLoader(
            _Guarded(dataset),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=persistent,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_collate,
            worker_init_fn=set_up_worker,
        )

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)


class PairDataModule(DehazingData):
    """Pairs on disk: a published set by its name, or the user's own (set=folder).

    ``root`` null is $DEHAZE_ZOO_DATA/<set>; ``hazy`` and ``clear``, two folders, stand in for it. ``val_crop``: pixels of the centre crop
    that validation takes (null: all). ``holdout``: where training and test pairs lie in the same folder, the share of the scenes, or the
    list of them, that validation keeps for itself. ``augment``: see pairs.Augment. ``prepared``: folder of the manifests and packed
    cache (null: .dehaze_zoo in the root); ``cache``: train from the packed pictures, packed anew where they are missing, stale or torn.
    """

    def __init__(
        self,
        set: str,
        root: str | None = None,
        hazy: str | None = None,
        clear: str | None = None,
        holdout: float | Sequence[Any] | None = None,
        val_crop: int | None = None,
        augment: Mapping[str, Any] | None = None,
        prepared: str | None = None,
        cache: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.set, self.root, self.hazy, self.clear, self.holdout = set, root, hazy, clear, holdout
        self.val_crop, self.augment, self.prepared, self.cache = val_crop, augment or {}, prepared, cache

    def prepare_data(self) -> None:
        if self.cache:  # in one process of a machine, before the others open it
            self.packed()

    def training_set(self) -> TrainingPairs:
        table, cache = (self.training_table(), None) if not self.cache else self.packed()
        return TrainingPairs(table, self.crop_size, Augment(**self.augment), self.seed, cache)

    def training_table(self) -> PairTable:
        """The pairs that train, in a form that costs a loader's workers nothing."""
        found = self._found("train")
        return PairTable.of(found.hazy, found.clear, self._train_and_val(found)[0])

    def packed(self, whole: bool = False, watch: Watch = lambda done, total: None) -> tuple[PairTable, Cache]:
        """The pairs that train and their cache; ``whole`` compares all of its checksums. Raises as cache.open_cache does."""
        table = self.training_table()
        cache, why = open_cache(self.home()[0] / f"{self.set}-train.cache", table, whole, watch)
        if why:
            rank_zero_info(f"{cache.path}: packed, {len(table.files())} pictures ({why})")
        return table, cache

    def home(self) -> tuple[Path, Path]:
        """The folder of what `prepare` makes, and the one that its names are relative to."""
        root = Path(self.hazy).parent if self.hazy is not None else find_root(self.set, self.root)
        return (root / ".dehaze_zoo" if self.prepared is None else Path(self.prepared)), root

    def pairs(self, split: str) -> JudgedPairs:
        if split == "test":
            found = self._found("test")
            return JudgedPairs(found.pairs, problems=found.problems)
        if split not in ("train", "val"):
            raise UsageError(f"split={split}: must be train, val or test.")
        train, val = self._train_and_val()
        return JudgedPairs(train) if split == "train" else JudgedPairs(val, self.val_crop)

    def _found(self, split: str) -> PairList:
        """The pairs by the manifest, where there is one and no folder has changed since; else by the folders."""
        home, root = self.home()
        path = manifest_path(home, self.set, self.split_on_disk(split))
        try:
            table = read_manifest(path, root)
            return PairList(table.hazy, table.clear, table)
        except FileNotFoundError:
            pass
        except (TornError, StaleError) as error:
            rank_zero_warn(f"{error}: the folders are searched instead. python -m dehaze_zoo.prepare makes it anew.")
        return self.searched(split)

    def searched(self, split: str) -> PairList:
        """The pairs of a split as the folders have them now. Raises UsageError where there are none."""
        if (self.hazy is None) != (self.clear is None):
            raise UsageError("data.hazy and data.clear go together: give both folders, or data.root.")
        if self.hazy is not None and self.clear is not None:
            return pair_folders(self.hazy, self.clear)
        return find_pairs(self.set, find_root(self.set, self.root), split)

    def split_on_disk(self, split: str) -> str:
        """Which split's files stand for it: all for two folders, test for a validation that the authors did not set aside."""
        if self.hazy is not None or self.set not in LAYOUTS:
            return "all"
        return "test" if split == "val" and "val" not in LAYOUTS[self.set].splits else split

    def _train_and_val(self, train: PairList | None = None) -> tuple[Sequence[Pair], Sequence[Pair]]:
        train, val = train or self._found("train"), self._found("val")
        if train.hazy != val.hazy or (self.set in LAYOUTS and LAYOUTS[self.set].splits["train"].numbers):  # one folder, split by number
            return train.strict(), val.strict()
        if self.holdout is None:
            raise UsageError(
                f"data={self.set}: training and test pairs would be the same, those in {train.hazy.parent}.\n"
                "Give data.root the folder above train/ and test/, or use data=folder, which holds scenes out for validation."
            )
        return hold_out(train.strict(), self.holdout if isinstance(self.holdout, (int, float)) else [*self.holdout])


class MixedDataModule(DehazingData):
    """Several sets in one training: each sample is of ``sets[name]`` with the share ``weights[name]`` (0 leaves a set out).

    Batch, epoch, crop and seed are this module's; all else, its augmentation too, is each set's own. Validation and test go through all
    of them, names led by the set's. Raises UsageError for weights of other sets, below 0 or all 0.
    """

    def __init__(self, sets: Mapping[str, DehazingData], weights: Mapping[str, float], set: str = "mixed", **shared: Any) -> None:
        super().__init__(**shared)
        self.set, self.sets, self.weights = set, sets, weights
        for module in sets.values():
            module.batch_size, module.samples_per_epoch = self.batch_size, self.samples_per_epoch
            module.crop_size, module.seed = self.crop_size, self.seed

    def chosen(self) -> dict[str, DehazingData]:
        """The sets with a weight above 0."""
        if {*self.weights} != {*self.sets} or min(self.weights.values(), default=0) < 0 or not any(self.weights.values()):
            said = f"data.weights={dict(self.weights)}, data.sets: {', '.join(self.sets)}"
            raise UsageError(f"{said}.\nEach set has one weight, 0 or more, and one at least is above 0.")
        return {name: module for name, module in self.sets.items() if self.weights[name]}

    def prepare_data(self) -> None:
        for module in self.chosen().values():
            module.prepare_data()

    def training_set(self) -> Samples:
        return MixedTraining([module.training_set() for module in self.chosen().values()])

    def sampler(self, dataset: Samples, samples: int, rank: int, ranks: int) -> EpochSampler:
        assert isinstance(dataset, MixedTraining)
        return MixedSampler(dataset.lengths, [float(self.weights[name]) for name in self.chosen()], samples, self.seed, rank, ranks)

    def pairs(self, split: str) -> Samples:
        return NamedSets({name: module.pairs(split) for name, module in self.chosen().items()})


class SyntheticDataModule(DehazingData):
    """Haze made on the fly, over built-in scenes or over the user's own clear pictures; see scenes.py, haze.py and synthetic.py.

    ``outdoor``: share of open places among the scenes; ``frame``: a training sample is a window of a picture whose height is drawn,
    uniformly in its logarithm, between crop_size and this; ``grow``: other windows from an epoch on, {epoch: {crop_size, frame: [lowest,
    highest]}}; ``views``: samples that share a scene; ``picture_size``: height and width of the val_pairs and test_pairs that are
    judged, the same for every seed. ``clear`` and ``depth``: folders of the user's pictures and their depth maps; ``holdout``: the share
    of them that validation takes, and as many the test; ``val_crop`` and ``augment`` as in PairDataModule, for these pictures alone;
    ``vary``: arguments of synthetic.Variation, for training samples.
    Raises UsageError for sizes that cannot be, and for ``grow`` over the user's pictures.
    """

    def __init__(
        self,
        haze: Mapping[str, Any] | None = None,
        outdoor: float = 0.25,
        frame: int = 480,
        grow: Mapping[int, Mapping[str, Any]] | None = None,
        views: int = 1,
        picture_size: Sequence[int] = (240, 320),
        val_pairs: int = 16,
        test_pairs: int = 64,
        clear: str | None = None,
        depth: str | None = None,
        holdout: float = 0.1,
        val_crop: int | None = None,
        augment: Mapping[str, Any] | None = None,
        vary: Mapping[str, Any] | None = None,
        set: str = "synthetic",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.set, self.haze, self.outdoor, self.views = set, haze or {}, outdoor, views
        self.frame, self.grow = frame, grow or {}
        if grow and clear is not None:
            raise UsageError("data.grow is for built-in scenes: leave it out with data.clear.")
        self.picture_size, self.val_pairs, self.test_pairs = picture_size, val_pairs, test_pairs
        self.clear, self.depth, self.holdout = clear, depth, holdout
        self.val_crop, self.augment, self.vary = val_crop, augment or {}, vary or {}

    def training_set(self) -> Samples:
        if self.clear is not None:
            pictures = clear_pictures(self.clear, self.depth, self.holdout)["train"]
            return HazedTraining(pictures, self.crop_size, Augment(**self.augment), self._haze(), self.seed, Variation(**self.vary))
        windows = {0: Framing(self.crop_size, self.crop_size, max(self.crop_size, self.frame))}  # here, not above: a mix sets crop_size
        windows |= {int(epoch): Framing(window["crop_size"], *window["frame"]) for epoch, window in self.grow.items()}
        return SceneTraining(self.samples_per_epoch, windows, self._haze(), self.outdoor, self.seed, self.views, Variation(**self.vary))

    def pairs(self, split: str) -> Samples:
        if split not in ("train", "val", "test"):
            raise UsageError(f"split={split}: must be train, val or test.")
        if self.clear is not None:
            pictures = clear_pictures(self.clear, self.depth, self.holdout)[split]
            return HazedPairs(pictures, self._haze(), self.val_crop if split == "val" else None)
        height, width = self.picture_size
        return ScenePairs(split, self.val_pairs if split == "val" else self.test_pairs, height, width, self._haze(), self.outdoor)

    def _haze(self) -> Hazing:
        ranges: dict[str, Any] = {name: value if name == "tint" else tuple(value) for name, value in self.haze.items()}
        return Haze(**ranges)


class DegradedDataModule(SyntheticDataModule):
    """RIDCP's degradation pipeline, over built-in scenes or over the user's own clear pictures; see degradation.py.

    ``degradation``: arguments of Degradation; ``depth_kind``: what the user's depth maps hold, distance or disparity. The others as in
    SyntheticDataModule. Scenes are drawn at many sizes already: the pipeline's own random scale belongs to pictures alone.
    """

    def __init__(
        self, degradation: Mapping[str, Any] | None = None, depth_kind: str = "distance", set: str = "ridcp_haze", **shared: Any
    ) -> None:
        super().__init__(set=set, **shared)
        self.degradation, self.depth_kind = degradation or {}, depth_kind

    def training_set(self) -> Samples:
        if self.clear is None:
            return super().training_set()
        pictures = clear_pictures(self.clear, self.depth, self.holdout)["train"]
        return DegradedTraining(pictures, self.crop_size, self._haze(), self.seed, self.depth_kind)

    def pairs(self, split: str) -> Samples:
        if self.clear is None or split not in ("train", "val", "test"):
            return super().pairs(split)
        pictures = clear_pictures(self.clear, self.depth, self.holdout)[split]
        return DegradedPairs(pictures, self._haze(), self.val_crop if split == "val" else None, self.depth_kind)

    def _haze(self) -> Degradation:
        drawn: dict[str, Any] = {name: tuple(value) if isinstance(value, Sequence) else value for name, value in self.degradation.items()}
        return Degradation(**drawn)


class ClearDataModule(SyntheticDataModule):
    """The user's clear pictures alone; see clear.py. Arguments as of SyntheticDataModule."""

    def training_set(self) -> Samples:
        return ClearTraining(self._files("train"), self.crop_size, Augment(**self.augment), self.seed)

    def pairs(self, split: str) -> Samples:
        return ClearPictures(self._files(split), self.val_crop if split == "val" else None)

    def _files(self, split: str) -> list[Path]:
        if self.clear is None:
            raise UsageError("data=clear needs data.clear=DIR, a folder of clear pictures.")
        if split not in ("train", "val", "test"):
            raise UsageError(f"split={split}: must be train, val or test.")
        return [path for path, _ in clear_pictures(self.clear, None, self.holdout)[split]]


class _Guarded(Dataset[Any]):
    """An ImageError as an item: raised in a worker, torch would turn it into a RuntimeError with a traceback for its text."""

    def __init__(self, dataset: Samples) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, token: Any) -> Sample | ImageError:
        try:
            return self.dataset[token]
        except ImageError as error:
            return error


def _collate(samples: list[Any]) -> Any:
    error = next((sample for sample in samples if isinstance(sample, ImageError)), None)
    return error or (collate_crops if "turn" in samples[0] else default_collate)(samples)
