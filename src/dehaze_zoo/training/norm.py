"""Batch norms in training: frozen at an epoch, and alike on every rank. (SyncBN itself is the Trainer's; see build.py.)"""

from __future__ import annotations

from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm  # the base of BatchNorm1d..3d and SyncBatchNorm, not of instance norms


def set_norm_mode(network: nn.Module, frozen: bool, whole_network: bool = False) -> None:
    """Puts ``network`` into training mode; where ``frozen``, its batch norms (or all of it) into eval mode.

    A batch norm in eval mode normalises by its running statistics and leaves them; its affine weights still get gradients.
    """
    network.train()
    if frozen and whole_network:
        network.eval()
    elif frozen:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def share_statistics(network: nn.Module) -> None:
    """Gives every rank the running statistics of rank 0; nothing to do in a single process.

    DDP would do it before each forward, validation's too, and hang where ranks hold unequal numbers of validation images.
    """
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        for buffer in network.buffers():
            distributed.broadcast(buffer, src=0)
