"""predict's alpha: how strongly RIDCP shuns codes of haze, one value for all pictures, or several in a strip to choose from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from dehaze_zoo.data.grid import picture_grid, shrunk
from dehaze_zoo.data.images import Array, Picture
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.tiling import restore_picture
from dehaze_zoo.networks.blocks.quantiser import MatchingQuantiser

WIDEST = 640
"""Pixels of a picture in a strip; larger ones are reduced."""


def use_alpha(network: nn.Module, alpha: Any) -> list[float]:
    """Makes a number the network's alpha; returns the values of a list, which ``alpha_strip`` shows (None: neither).

    Raises UsageError for a network without alpha, one without matching weights, and for what is no number.
    """
    if alpha is None:
        return []
    several = isinstance(alpha, Sequence) and not isinstance(alpha, str)
    values = list(alpha) if several else [alpha]
    if not values or not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        raise UsageError(
            f"alpha={alpha}: must be a number, as in alpha=21.25, or a list of them for a strip, as in 'alpha=[0,7,14,21,28]'."
        )
    quantiser = _quantiser(network)
    for value in values:
        quantiser.factor(value)
    if several:
        return [float(value) for value in values]
    quantiser.alpha.fill_(values[0])
    return []


def alpha_strip(network: nn.Module, hazy: Array, alphas: Sequence[float], restore: Callable[[], Array]) -> npt.NDArray[np.uint8]:
    """Hazy and what ``restore`` makes of it at each alpha side by side, labelled: (H, W, 3). Pictures as ``picture_grid`` takes them."""
    quantiser = _quantiser(network)
    own = float(quantiser.alpha)
    row = [("hazy", shrunk(hazy, WIDEST))]
    try:
        for alpha in alphas:
            quantiser.alpha.fill_(alpha)
            row.append((f"alpha {alpha:g}", shrunk(restore(), WIDEST)))
    finally:
        quantiser.alpha.fill_(own)
    return picture_grid([row], widest=WIDEST)


def picture_strip(network: nn.Module, picture: Picture, alphas: Sequence[float], side: int | None = None) -> npt.NDArray[np.uint8]:
    """``alpha_strip`` of a stored picture, in tiles of ``side`` pixels (None: whole)."""
    return alpha_strip(network, picture.colours, alphas, lambda: restore_picture(network, picture, side))


def _quantiser(network: nn.Module) -> MatchingQuantiser:
    found = getattr(network, "quantiser", None)
    if not isinstance(found, MatchingQuantiser):
        raise UsageError("alpha= is RIDCP's: use it with model=ridcp or ridcp_nat, or leave it out.")
    return found
