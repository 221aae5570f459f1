"""RIDCP's two trainings (Wu et al., CVPR 2023): a codebook of clear images, then dehazing by it.

Of the first its authors published the network alone; the recipe is FeMaSR's (Chen et al., ACM Multimedia 2022), from which RIDCP descends.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.reading import read_state_dict
from dehaze_zoo.errors import UsageError
from dehaze_zoo.metrics.lpips import downloaded
from dehaze_zoo.networks.blocks.quantiser import code_loss, codebook_loss, gram_loss
from dehaze_zoo.networks.blocks.swin import ResidualGroup
from dehaze_zoo.networks.ridcp import MULTIPLE, VQGAN, WIDTH, design_of
from dehaze_zoo.training.adversarial import AdversarialModule

GIVE_IT = "model.semantic.weights=FILE, or train without: model.semantic.weight=0"
UNCOMPILED = "RIDCP's trainings call parts of their network in turn, which torch.compile would not reach"


class SemanticTerm(nn.Module):
    """mse between relu(1x1 convolution) of the quantised features and VGG19's relu4_4 of the image (FeMaSR, equation 4).

    Quantised features (B, ``channels``, h, w) are averaged to VGG's grid, an eighth of the image. ``weights``: torchvision's file of
    vgg19; null downloads it. Raises UsageError where it cannot be had or is another network's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, weights: str | Path | None = None) -> None:
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        vgg = make_layers(cfgs["E"])[:27]
        state = read_state_dict(weights) if weights is not None else downloaded("vgg19", "the semantic term", GIVE_IT)
        wanted = {key: state.get(f"features.{key}") for key in vgg.state_dict()}
        if any(value is None or value.shape != vgg.state_dict()[key].shape for key, value in wanted.items()):
            raise UsageError(f"model.semantic.weights={weights}: not weights of torchvision's vgg19.")
        vgg.load_state_dict(wanted)
        self.conv = nn.Conv2d(channels, 512, 1)
        self._vgg = [vgg.requires_grad_(False).eval()]  # in a list: neither a submodule nor in the state dict
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, quantised: Tensor, image: Tensor) -> Tensor:
        with torch.no_grad():
            target = self._vgg[0].to(image.device)((image - self.mean) / self.std)
        return F.mse_loss(F.relu(self.conv(F.adaptive_avg_pool2d(quantised, target.shape[-2:]))), target)


class CodebookModule(AdversarialModule):
    """Stage 1: clear images reconstructed from codes. A VQGAN, or without a discriminator a plain VQ-VAE.

    Terms: the configured losses on the image, ``codebook`` times the codebook loss, ``semantic.weight`` times the semantic term (0: none,
    as published), the adversarial ones on images. Validation judges reconstructions. ``revive``: codes that an epoch never used start
    anew at features of its last batch (not after the last epoch).
    """

    UNCOMPILED = UNCOMPILED

    def __init__(self, codebook: float = 1.0, semantic: Mapping[str, Any] | None = None, revive: bool = False, **shared: Any) -> None:
        super().__init__(**shared)
        self.codebook, self.revive = codebook, revive
        self._features = torch.zeros(0)  # of the last batch
        self.semantic_weight = float((semantic or {}).get("weight", 0))
        self.semantic: SemanticTerm | None = None
        if self.semantic_weight > 0:
            channels = self.network.quantiser.embedding.embedding_dim  # type: ignore[union-attr]
            self.semantic = SemanticTerm(channels, (semantic or {}).get("weights"))  # type: ignore[arg-type]

    def generator_parameters(self) -> list[nn.Parameter]:
        return super().generator_parameters() + ([] if self.semantic is None else list(self.semantic.parameters()))

    def losses_of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        clear = batch["clear"].contiguous(memory_format=self.layout)
        _check_sides(clear)
        made = self.network.reconstruct(clear)  # type: ignore[operator]
        self.count(made.codes)
        self._features = made.features.detach()
        terms = self.compare(made.image, clear)
        terms["codebook"] = self.codebook * codebook_loss(made.features, made.vectors)
        if self.semantic is not None:
            straight = made.features + (made.vectors - made.features).detach()
            terms["semantic"] = self.semantic_weight * self.semantic(straight, clear)
        return terms | self.adversarial_terms(clear, made.image)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.revive and self.trainer.is_last_batch and self.current_epoch + 1 < (self.trainer.max_epochs or 0):
            self._revive()

    @torch.no_grad()
    def _revive(self) -> None:
        book: Tensor = self.network.quantiser.embedding.weight  # type: ignore[assignment,union-attr]
        assert self.code_use is not None  # by now of all ranks
        dead = (self.code_use == 0).nonzero().flatten()
        seen = self._features.transpose(0, 1).flatten(1).t().to(book.dtype)
        self.draw_as(int(self.trainer.num_training_batches), 0)
        book[dead] = seen[torch.randint(len(seen), (len(dead),)).to(seen.device)]
        book.copy_(self.trainer.strategy.broadcast(book))  # the ranks have seen different features

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        return super().validation_step({**batch, "hazy": batch["clear"]}, batch_idx)


class RIDCPModule(AdversarialModule):
    """Stage 2: hazy in, clear out, by the codebook and decoder of ``stage1``, a checkpoint of ridcp_vqgan, from whose weights it starts.

    Terms: the configured losses on the restored image, the code and gram terms between the features of hazy and the clear image's codes,
    the adversarial ones between the same two. Plain nearest codes throughout. ``quiet``: factor of the transformer groups' last
    convolutions at the start; below 1 the features begin near stage 1's, which few steps would not find again (1 puts them twice their
    own size off). Raises UsageError, where training starts, without stage 1.
    """

    UNCOMPILED = UNCOMPILED

    @classmethod
    def settled(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """The network has stage 1's design where no other is given; the discriminator as many channels as the features."""
        stage1, judge = settings["stage1"], settings["discriminator"]
        design = {} if stage1 is None else stage1_design(stage1)
        network = {**design, **settings["network"]}
        channels = 8 * network.get("width", WIDTH)
        if judge["channels"] not in (None, channels):
            raise UsageError(
                f"model.discriminator.channels={judge['channels']}: it judges features of {channels} channels, 8 times the width.\n"
                "Leave model.discriminator.channels=null."
            )
        return {**settings, "network": network, "discriminator": {**judge, "channels": channels}}

    def __init__(self, stage1: str | Path | None = None, quiet: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        for module in self.network.modules():
            if isinstance(module, ResidualGroup):
                for parameter in module.conv.parameters():
                    parameter.data.mul_(quiet)
        # In a list: neither a submodule nor in the state dict.
        self._stage1 = [] if stage1 is None else [load_stage1(stage1).requires_grad_(False)]
        for frozen in self._stage1:
            try:
                self.network.start_from(frozen)  # type: ignore[operator]
            except UsageError as error:
                raise UsageError(
                    f"stage1={stage1}: {error}.\nLeave +model.network.codebook_size and +model.network.width out: stage 1's are taken."
                ) from error

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if not self._stage1:
            raise UsageError(
                "model=ridcp needs stage 1: its codebook and the codes of clear images.\n"
                "Train one with model=ridcp_vqgan and give stage1=FILE (its best.ckpt); experiment=ridcp_small does both in turn."
            )

    def companions(self) -> list[nn.Module]:
        return [*super().companions(), *self._stage1]

    def losses_of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        _check_sides(batch["clear"])
        target = self._stage1[0].quantised(batch["clear"])
        made = self.network.branches(batch["hazy"].contiguous(memory_format=self.layout), alpha=0)  # type: ignore[operator]
        self.count(made.codes)
        terms = self.compare(made.restored, batch["clear"])
        terms |= {"code": code_loss(made.features, target), "gram": gram_loss(made.features, target)}
        return terms | self.adversarial_terms(target, made.features)


def load_stage1(path: str | Path) -> VQGAN:
    """Stage 1 from a checkpoint, of whatever codebook size and width it has. Raises UsageError for a file of another network."""
    network = create_model("ridcp_vqgan", path, **stage1_design(path))
    assert isinstance(network, VQGAN)
    return network


def stage1_design(path: str | Path) -> dict[str, int]:
    """codebook_size and width of the stage 1 in a checkpoint. Raises UsageError for a file of another network."""
    try:
        design = design_of(read_state_dict(path))
        if "depth" in design:
            raise UsageError("holds RIDCP's second stage")
        return design
    except UsageError as error:
        raise UsageError(f"stage1={path}: {error}. Give the checkpoint of a training with model=ridcp_vqgan.") from error


def _check_sides(image: Tensor) -> None:
    if image.shape[-2] % MULTIPLE or image.shape[-1] % MULTIPLE:
        raise UsageError(f"data.crop_size={image.shape[-1]}: RIDCP trains on crops that are multiples of {MULTIPLE} pixels.")
