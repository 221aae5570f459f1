"""From a config to a training: data module, module, trainer; where to start, and what is left behind."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dehaze_zoo.checkpoints.reading import load_into
from dehaze_zoo.errors import UsageError
from dehaze_zoo.lock import held
from dehaze_zoo.made import made
from dehaze_zoo.networks.registry import build_model
from dehaze_zoo.outcome import Outcome
from dehaze_zoo.training.finite import replay
from dehaze_zoo.training.loggers import MetricsTable
from dehaze_zoo.training.module import DehazingModule, Term
from dehaze_zoo.training.placement import Placement, place
from dehaze_zoo.training.plan import check_trainable, scale_rates
from dehaze_zoo.training.runs import Run, check_folder, differences, find_run, read_run, run_of
from dehaze_zoo.training.saving import PlainCheckpointIO, sound_checkpoint

if TYPE_CHECKING:
    from omegaconf import DictConfig


def train(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Trains as configured, from scratch, from weights (init) or from where a run stopped (resume).

    Leaves run.json, metrics.csv, images/ and checkpoints/ in ``run_dir``, or under resume=auto in the folder of the run that goes on.
    The figures are the last validation's: psnr (dB) and ssim. Raises UsageError for wrong settings and a loss that is not finite.
    """
    check_trainable(cfg)
    placement = place(cfg.trainer)
    placement.batch_per_device(cfg.data.batch_size)
    run = run_of(cfg)
    scale_rates(cfg)
    run_dir, checkpoint = _start(cfg, run, run_dir)
    there = read_run(run_dir)
    if cfg.resume == "auto" and there is not None and there.finished:
        print(f"{run_dir}: this run is finished; nothing to do")
        return Outcome(figures=there.figures)
    os.environ["DEHAZE_ZOO_RUN_DIR"] = str(run_dir)  # the other processes of a DDP run go where this one goes
    with held(run_dir) if _first() else nullcontext():
        return _train(cfg, run, run_dir, checkpoint, placement)


def _train(cfg: DictConfig, run: Run, run_dir: Path, checkpoint: Path | None, placement: Placement) -> Outcome:
    """The training itself, in a folder that this process has."""
    _quieten()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    module = build_module(cfg)
    if cfg.init is not None:
        load_into(module.network, cfg.init)
    module.before = {key: str(cfg[key]) for key in cfg.get("before") or {}}
    data = made(cfg.data)
    if placement.ranks > 1 and len(data.val_dataloader()) < placement.ranks:
        raise UsageError(f"fewer validation pictures than the {placement.ranks} ranks: each must judge one. Lower trainer.devices.")
    trainer = build_trainer(cfg, run_dir, placement)
    if _first():
        run.write(run_dir)
        print(f"{'going on' if checkpoint else 'training'} in {run_dir}", flush=True)
    try:
        with _threads(placement):
            trainer.fit(module, datamodule=data, ckpt_path=None if checkpoint is None else str(checkpoint))
    except SIGTERMException as end:  # Lightning's, before Checkpoints listens; it would leave as if the work were done
        raise SystemExit(128 + signal.SIGTERM) from end
    if trainer.is_global_zero:
        Run(run.recipe, finished=_at_its_end(trainer), figures=module.figures).write(run_dir)
    return Outcome(figures=module.figures)


def _at_its_end(trainer: pl.Trainer) -> bool:
    """Whether all epochs or steps were taken: max_time and callbacks end a fit before."""
    whole = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch  # an epoch that was cut counts as one
    epochs = whole and trainer.current_epoch >= (trainer.max_epochs or 0)
    return epochs or 0 <= trainer.max_steps <= trainer.global_step


def replayed(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Repeats the batch that a training dumped (cfg.replay) and prints what is not finite first."""
    check_trainable(cfg)
    module = build_module(cfg)
    module.trainer = build_trainer(cfg, run_dir, place(cfg.trainer))
    print(f"{cfg.replay}: first {replay(module, Path(cfg.replay))}")
    return Outcome()


def build_module(cfg: DictConfig) -> DehazingModule:
    """The LightningModule of cfg.model with a freshly initialised network, its losses, schedule and norms."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    recipe: type[DehazingModule] = made({"_target_": settings["_target_"], "_partial_": True}).func
    settings = recipe.settled(settings)
    design = settings.pop("network")
    network = build_model(**design)
    settings.pop("recipe")
    losses = {}
    for name, loss in OmegaConf.to_container(cfg.loss, resolve=True).items():  # type: ignore[union-attr]
        weight = loss.pop("weight")  # type: ignore[union-attr]
        losses[str(name)] = Term(made(loss), weight)
    schedule, norm = made(cfg.schedule), made(cfg.norm)
    optimizer = made(settings.pop("optimizer"))
    module: DehazingModule = made(
        settings,
        network=network,
        losses=losses,
        optimizer=optimizer,
        schedule=schedule,
        norm=norm,
        seed=cfg.seed,
        on_nan=cfg.on_nan,
        compiled=cfg.compile,
    )
    # Numbers alone: files, such as pretrained weights, are not there elsewhere.
    module.design = {"model": design["name"], "overrides": {key: value for key, value in design.items() if isinstance(value, (int, float))}}
    return module


def build_trainer(cfg: DictConfig, run_dir: Path, placement: Placement) -> pl.Trainer:
    """Lightning's Trainer with our callbacks, loggers and checkpoints; see configs/trainer."""
    precision = cfg.trainer.precision
    if precision == "auto":
        precision = cfg.model.recipe.precision if placement.accelerator == "gpu" else "32-true"
    if cfg.trainer.gradient_clip_val and precision == "16-mixed" and cfg.model.optimizer.get("fused"):
        raise UsageError(
            "trainer.gradient_clip_val with trainer.precision=16-mixed needs model.optimizer.fused=null: the fused kernel scales\n"
            "gradients by itself, after they would be clipped. Or use trainer.precision=bf16-mixed."
        )
    norm = made(cfg.norm)
    loggers: list[Logger] = [made(node, save_dir=str(run_dir)) for node in cfg.logger.values()] if cfg.logger else []
    if not any(isinstance(logger, MetricsTable) for logger in loggers):
        loggers.insert(0, MetricsTable(run_dir))
    trainer: pl.Trainer = made(
        cfg.trainer,
        accelerator=placement.accelerator,
        devices=cfg.trainer.devices if placement.accelerator == "gpu" else placement.devices,
        precision=precision,
        check_val_every_n_epoch=max(1, min(cfg.trainer.check_val_every_n_epoch, cfg.trainer.max_epochs)),
        sync_batchnorm=norm.synchronised(placement.batch_per_device(cfg.data.batch_size), placement.gpus),
        callbacks=[made(node) for node in cfg.callbacks.values() if node is not None],
        logger=loggers,
        plugins=[PlainCheckpointIO()],
        default_root_dir=str(run_dir),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # Lightning's would replace ours, and the epoch's sample count with it
        enable_model_summary=False,
    )
    return trainer


def _start(cfg: DictConfig, run: Run, run_dir: Path) -> tuple[Path, Path | None]:
    """The folder to train in and the checkpoint to go on from. Raises UsageError rather than overwrite a run."""
    if cfg.resume == "auto":
        found = find_run(run, run_dir, say=_first())
        if found != run_dir and _first():
            _discard(run_dir)
        return found, sound_checkpoint(found)
    if _first():
        check_folder(cfg, run_dir)
    if cfg.resume is None:
        return run_dir, None
    source = read_run(Path(cfg.resume).absolute().parent.parent)
    apart = [] if source is None else differences(source, run)
    if apart and _first():
        more = f" and {len(apart) - 4} more" if len(apart) > 4 else ""
        print(f"resume: settings differ from that run's: {'; '.join(apart[:4])}{more}", flush=True)
    return run_dir, Path(cfg.resume)


def _discard(run_dir: Path) -> None:
    """Takes away the folder that was made for this start, when the run goes on in another."""
    for name in ("config.yaml", "environment.json"):
        (run_dir / name).unlink(missing_ok=True)
    try:
        run_dir.rmdir()
    except OSError:
        return  # something else is in it: it stays


@contextmanager
def _threads(placement: Placement) -> Iterator[None]:
    """On a CPU, leaves half of the cores to the loading of data, unless OMP_NUM_THREADS says otherwise.

    Threads that share a core with a busy process wait for it at every operation: on 2 cores a step of gunet_t (4x64x64) takes 107 ms with
    2 threads alone, but 400 to 3700 ms beside a loader; with 1 thread 152 and 161. Not by num_workers, which must not change a sum.
    """
    before = torch.get_num_threads()
    if placement.accelerator == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, before // (2 * placement.devices)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first() -> bool:
    """Whether this is rank 0, also before the ranks know each other: Lightning reads it from what launchers leave in the environment."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _quieten() -> None:
    """Takes away Lightning's advice that does not hold here; its other warnings stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*`broadcast_buffers` is deprecated.*",
        ".*LeafSpec.*",
        ".*your dataloader is not resumable.*",  # the sampler starts at its position by itself
    ):
        warnings.filterwarnings("ignore", message)
