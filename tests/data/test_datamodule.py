from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import data_minis as minis
from dehaze_zoo.data.datamodule import DehazingData, PairDataModule, SyntheticDataModule
from dehaze_zoo.data.pairs import TrainingPairs
from dehaze_zoo.data.sets import LAYOUTS
from dehaze_zoo.errors import ImageError, UsageError
from support import ROOT

SHARED: dict[str, Any] = {"batch_size": 4, "samples_per_epoch": 10, "crop_size": 16, "num_workers": 0}


def configured(*overrides: str) -> DehazingData:
    recipe = [f"data.{key}={value}" for key, value in SHARED.items()]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        data: DehazingData = instantiate(compose("evaluate", overrides=["verb=evaluate", *recipe, *overrides]).data)
    return data


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "configs" / "data").glob("*.yaml"))])
def test_every_config_is_built_without_data(name: str) -> None:
    data = configured(f"data={name}")
    assert data.batch_size == 4
    if name in LAYOUTS:
        with pytest.raises(UsageError, match=name):
            data.training_set()


def test_published_settings() -> None:
    augments = {name: configured(f"data={name}") for name in ("reside_indoor", "reside_outdoor", "haze4k", "rs_haze")}
    assert all(isinstance(data, PairDataModule) for data in augments.values())
    assert {name: data.val_crop for name, data in augments.items() if isinstance(data, PairDataModule)} == {
        "reside_indoor": None,
        "reside_outdoor": 256,
        "haze4k": 400,
        "rs_haze": None,
    }
    turns = {name: data.augment["turns"] for name, data in augments.items() if isinstance(data, PairDataModule)}
    assert turns == {"reside_indoor": "gunet", "reside_outdoor": "none", "haze4k": "gunet", "rs_haze": "gunet"}


@pytest.mark.parametrize("name", [name for name, (_, _, splits) in minis.MINIS.items() if "train" in splits and "test" in splits])
def test_every_layout_trains_validates_and_tests(tmp_path: Path, name: str) -> None:
    make, set_name, expected = minis.MINIS[name]
    make(tmp_path)
    data = configured(f"data={set_name}", f"data.root='{tmp_path}'")
    batches = list(data.train_dataloader())
    assert [len(batch["name"]) for batch in batches] == [4, 4]  # 10 samples: the incomplete third batch is left out
    for batch in batches:
        assert batch["hazy"].shape == batch["clear"].shape == (4, 3, 16, 16)
        assert 0 <= batch["hazy"].min() <= batch["hazy"].max() <= 1
    tests = list(data.test_dataloader())
    assert len(tests) == expected["test"]
    assert tests[0]["hazy"].shape == (1, 3, 24, 32)
    held_out = len(list(data.val_dataloader()))
    assert held_out == (1 if set_name == "folder" else expected.get("val", expected["test"]))


def test_the_users_two_folders_and_held_out_scenes(tmp_path: Path) -> None:
    minis.own(tmp_path)
    own: dict[str, Any] = {"set": "folder", "hazy": str(tmp_path / "hazy"), "clear": str(tmp_path / "GT")}
    data = PairDataModule(**own, holdout=["pier", "lake"], **SHARED)
    assert {pair.scene for pair in data.training_set().pairs} == {"old_town", "wood"}
    assert {sample["name"] for sample in data.pairs("val")} == {"pier_hazy.jpg", "lake_hazy.jpg"}  # type: ignore[attr-defined]
    assert len(data.pairs("train")) == 2
    assert len(data.pairs("test")) == 4
    with pytest.raises(UsageError, match="go together"):
        PairDataModule(set="folder", hazy=str(tmp_path), **SHARED).pairs("test")
    with pytest.raises(UsageError, match="no scene 'peir'"):
        PairDataModule(**own, holdout=["peir"], **SHARED).training_set()
    with pytest.raises(UsageError, match="split=tset"):
        data.pairs("tset")


def test_training_and_test_are_never_the_same_pairs(tmp_path: Path) -> None:
    minis.folders(tmp_path / "hazy", tmp_path / "gt", minis.SAME)
    with pytest.raises(UsageError, match="would be the same"):
        PairDataModule(set="rs_haze", root=str(tmp_path), **SHARED).training_set()


def test_training_is_strict_and_judging_goes_on(tmp_path: Path) -> None:
    minis.reside_indoor(tmp_path)
    for clear in (tmp_path / "ITS" / "clear" / "2.png", tmp_path / "SOTS" / "indoor" / "gt" / "1401.png"):
        clear.unlink()
    data = PairDataModule(set="reside_indoor", root=str(tmp_path), **SHARED)
    with pytest.raises(UsageError, match="2 of 6 hazy pictures"):
        data.training_set()
    judged = data.pairs("test")
    failed = []
    for index in range(len(judged)):
        try:
            judged[index]
        except ImageError as error:
            failed.append(Path(error.file).name)
    assert (len(judged), sorted(failed)) == (6, ["1401_1.png", "1401_10.png", "1401_2.png"])


def test_the_only_batch_may_be_incomplete() -> None:
    data = SyntheticDataModule(**{**SHARED, "samples_per_epoch": 3})
    assert [len(batch["name"]) for batch in data.train_dataloader()] == [3]


@pytest.mark.parametrize(("ranks", "samples"), [(2, 16), (4, 16), (4, 18), (2, 3)])
def test_ranks_share_every_batch(monkeypatch: pytest.MonkeyPatch, ranks: int, samples: int) -> None:
    def batches(rank: int, world: int) -> list[list[str]]:
        data = SyntheticDataModule(**{**SHARED, "samples_per_epoch": samples, "crop_size": 8})
        monkeypatch.setattr(data, "_ranks", lambda: (rank, world))
        return [list(batch["name"]) for batch in data.train_dataloader()]

    one = batches(0, 1)
    shares = [batches(rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1  # no rank waits for another in vain
    assert [sorted(name for share in shares for name in share[k]) for k in range(len(one))] == [sorted(batch) for batch in one]


def test_impossible_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    data = SyntheticDataModule(**{**SHARED, "batch_size": 3})
    monkeypatch.setattr(data, "_ranks", lambda: (0, 2))
    with pytest.raises(UsageError, match="multiple of 2"):
        data.train_dataloader()
    with pytest.raises(UsageError, match="batch_size=0"):
        SyntheticDataModule(**{**SHARED, "batch_size": 0}).train_dataloader()


def test_a_mix_trains_by_weight_and_judges_all(tmp_path: Path) -> None:
    minis.reside_outdoor(tmp_path)
    roots = [f"data.sets.{name}.root='{tmp_path}'" for name in ("reside_indoor", "reside_outdoor")]
    data = configured("data=mixed", "data.samples_per_epoch=16", "data.weights.reside_outdoor=3", *roots)
    names = [name for batch in data.train_dataloader() for name in batch["name"]]
    assert sum(name.startswith("part") for name in names) == 12
    judged = [batch["name"][0] for batch in data.test_dataloader()]
    assert len(judged) == 8
    assert {name.split("/")[0] for name in judged} == {"reside_indoor", "reside_outdoor"}
    added = configured(
        "data=mixed", "+data@data.sets.synthetic=synthetic", "+data.weights.synthetic=1", "data.weights.reside_outdoor=0", *roots
    )
    assert {sample["hazy"].shape for sample in added.train_dataloader()} == {(4, 3, 16, 16)}
    with pytest.raises(UsageError, match="one at least is above 0"):
        configured("data=mixed", "data.weights.reside_indoor=0", "data.weights.reside_outdoor=0").training_set()


class Looks(pl.LightningModule):
    """Trains nothing; keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, str, float]] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen += [(self.current_epoch, name, float(h.sum())) for name, h in zip(batch["name"], batch["hazy"], strict=True)]
        return self.weight.sum()

    def validation_step(self, batch: Any, _: int) -> None:
        assert batch["hazy"].shape[0] == 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def seen_by_a_trainer(tmp_path: Path, workers: int, **more: Any) -> list[tuple[int, str, float]]:
    minis.reside_indoor(tmp_path) if not (tmp_path / "ITS").exists() else None
    module = Looks()
    data = PairDataModule(set="reside_indoor", root=str(tmp_path), **{**SHARED, "num_workers": workers, **more})
    pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    ).fit(module, datamodule=data)  # fmt: skip
    return module.seen


def test_samples_do_not_depend_on_the_workers_and_change_with_the_epoch(tmp_path: Path) -> None:
    alone = seen_by_a_trainer(tmp_path, 0)
    assert len(alone) == 16
    assert {epoch for epoch, _, _ in alone} == {0, 1}
    assert [s[1:] for s in alone[:8]] != [s[1:] for s in alone[8:]]
    assert seen_by_a_trainer(tmp_path, 2) == alone
    assert seen_by_a_trainer(tmp_path, 0, seed=1) != alone


def test_a_trainer_is_shown_what_the_loader_alone_gives(tmp_path: Path) -> None:
    """Crops travel as bytes and are finished where the network is; the cache changes nothing either."""
    shown = seen_by_a_trainer(tmp_path, 0)[:8]
    alone = PairDataModule(set="reside_indoor", root=str(tmp_path), **SHARED).train_dataloader()
    assert [(name, sum_) for _, name, sum_ in shown] == [
        (n, float(h.sum())) for b in alone for n, h in zip(b["name"], b["hazy"], strict=True)
    ]
    assert seen_by_a_trainer(tmp_path, 1, cache=True)[:8] == shown


class Keeps(Looks):
    """Keeps the batches themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Any] = []

    def on_train_batch_start(self, batch: Any, _: int) -> None:
        self.batches.append({key: batch[key] for key in ("name", "hazy", "clear")})


@pytest.mark.parametrize("with_synthetic", [False, True])
def test_a_mix_of_pairs_alone_travels_as_bytes_and_arrives_the_same(tmp_path: Path, with_synthetic: bool) -> None:
    minis.reside_outdoor(tmp_path)
    more = ["+data@data.sets.synthetic=synthetic", "+data.weights.synthetic=1"] if with_synthetic else []
    words = ["data=mixed", *(f"data.sets.{name}.root='{tmp_path}'" for name in ("reside_indoor", "reside_outdoor")), *more]
    alone, data, module = list(configured(*words).train_dataloader()), configured(*words), Keeps()
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert len(module.batches) == len(alone) == 2
    for shown, batch in zip(module.batches, alone, strict=True):
        assert shown["name"] == batch["name"]
        assert all(torch.equal(shown[key], batch[key]) for key in ("hazy", "clear"))
    sets = trainer.train_dataloader.dataset.dataset.sets  # type: ignore[union-attr]
    assert {part.raw for part in sets if isinstance(part, TrainingPairs)} == {not with_synthetic}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_ends_training_by_its_name(tmp_path: Path, workers: int) -> None:
    minis.reside_indoor(tmp_path)
    bad = tmp_path / "ITS" / "hazy" / "11_1_0.91179.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(ImageError, match="is damaged") as caught:
        seen_by_a_trainer(tmp_path, workers)
    assert caught.value.file == str(bad)


def test_synthetic_splits_and_own_clear_pictures(tmp_path: Path) -> None:
    data = configured("data=synthetic", "data.test_pairs=2", "data.val_pairs=1", "data.picture_size=[32,40]")
    assert [batch["hazy"].shape for batch in data.test_dataloader()] == [(1, 3, 32, 40)] * 2
    assert len(data.pairs("val")) == 1  # type: ignore[arg-type]
    assert next(iter(data.train_dataloader()))["clear"].shape == (4, 3, 16, 16)
    for number in range(6):
        minis.picture(tmp_path / f"{number}.png", number)
    own = configured("data=synthetic", f"data.clear='{tmp_path}'")
    assert next(iter(own.train_dataloader()))["hazy"].shape == (4, 3, 16, 16)
    assert [len(own.pairs(split)) for split in ("train", "val", "test")] == [4, 1, 1]  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"data.haze.airlight=\(1.0, 2.0\)"):
        configured("data=synthetic", "data.haze.airlight=[1.0,2.0]").training_set()
