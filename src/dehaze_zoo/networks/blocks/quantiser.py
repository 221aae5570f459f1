"""Vector quantisation by nearest code, and the terms that train it (van den Oord et al. 2017; Esser et al., "VQGAN", CVPR 2021).

Codes are found by index and in pieces: neither the one-hot matrix nor the whole matrix of distances ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehaze_zoo.errors import UsageError

PIECE = 4096
"""Features whose distances to all codes are held at a time."""


class VectorQuantiser(nn.Module):
    """A codebook of ``size`` codes of ``width`` channels."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, width)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    @torch.no_grad()
    def codes(self, features: Tensor, factor: Tensor | None = None) -> Tensor:
        """Index of the nearest code for features (B, C, h, w): int64 (B, h, w).

        ``factor`` (codes,) multiplies the squared distance to each code (RIDCP's matching, equation 5).
        """
        b, _, h, w = features.shape
        found = [(distance if factor is None else distance.mul_(factor)).argmin(1) for distance in self.distances(features)]
        return torch.cat(found).view(b, h, w)

    def distances(self, features: Tensor) -> Iterator[Tensor]:
        """Squared distances to all codes, float32 (positions, codes), of ``PIECE`` positions at a time: image by image, row by row."""
        book = self.embedding.weight.float()
        book_norm = book.square().sum(1)
        for image in features.flatten(2):
            # An exported graph of free sizes cannot repeat itself: there all positions are one piece.
            for part in (image,) if torch.compiler.is_exporting() else image.split(PIECE, 1):
                with torch.autocast(features.device.type, enabled=False):  # half precision would pick other codes
                    piece = part.float().t()
                    distance = torch.addmm(book_norm, piece, book.t(), alpha=-2).add_(piece.square().sum(1, keepdim=True))
                yield distance

    def lookup(self, codes: Tensor) -> Tensor:
        """The codes' vectors: (B, h, w) to (B, C, h, w)."""
        return F.embedding(codes, self.embedding.weight).permute(0, 3, 1, 2).contiguous()

    def forward(self, features: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(vectors of the nearest codes (B, C, h, w), codes (B, h, w)); the gradient goes straight through to the features."""
        codes = self.codes(features, factor)
        vectors = self.lookup(codes)
        return (features + (vectors - features).detach() if features.requires_grad else vectors), codes


class MatchingQuantiser(VectorQuantiser):
    """A codebook with matching weights: distances are multiplied by exp(alpha f) (RIDCP, section 3.3).

    ``frequency_gap`` is f = P_haze - P_clear, the difference of how often each code is used on hazy and on clear images, in the
    paper's sign: a positive alpha shuns the codes of haze. All zero means that there are none. ``alpha`` is the default.
    """

    frequency_gap: Tensor
    alpha: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__(size, width)
        self.register_buffer("frequency_gap", torch.zeros(size))
        self.register_buffer("alpha", torch.zeros(()))

    def factor(self, alpha: float | None) -> Tensor | None:
        """exp(alpha f), (codes,), or None where it is 1 throughout. Raises UsageError for an alpha that cannot be followed."""
        if alpha is None:
            return (self.alpha * self.frequency_gap).exp()
        if not math.isfinite(alpha):
            raise UsageError(f"alpha is {alpha}: give a finite number (0 is plain nearest code, 21.25 the published strength)")
        if alpha == 0:
            return None
        if not self.frequency_gap.any():
            raise UsageError(
                f"alpha={alpha:g} was asked of RIDCP weights that hold no matching weights\n"
                "leave alpha out (or 0), or acquire them: python -m dehaze_zoo.ridcp_matching checkpoint=FILE clear=DIR hazy=DIR"
            )
        factor = (alpha * self.frequency_gap).exp()
        if not factor.isfinite().all():
            raise UsageError(f"alpha={alpha:g} is too large for these matching weights: e to the power of it times them is no number")
        return factor


@torch.no_grad()
def code_use(quantiser: VectorQuantiser, features: Tensor, factors: Tensor | None = None) -> Tensor:
    """How often each code is the nearest to features (B, C, h, w): int64 (codes,), or (n, codes) for ``factors`` (n, codes)."""
    rows = torch.ones(1, 1, device=features.device) if factors is None else factors
    use = torch.zeros(len(rows), quantiser.embedding.num_embeddings, dtype=torch.int64, device=features.device)
    for distance in quantiser.distances(features):
        for row, factor in zip(use, rows, strict=True):
            row += torch.bincount((distance * factor).argmin(1), minlength=len(row))
    return use[0] if factors is None else use


def codebook_loss(features: Tensor, vectors: Tensor) -> Tensor:
    """Stage 1: mean((sg(z) - e)^2) + 0.25 mean((z - sg(e))^2) for features z and their codes' vectors e (B, C, h, w), ``lookup``'s."""
    return F.mse_loss(vectors, features.detach()) + 0.25 * F.mse_loss(features, vectors.detach())


def gram(features: Tensor) -> Tensor:
    """Channel correlations F^T F / (h w): (B, C, h, w) to (B, C, C)."""
    with torch.autocast(features.device.type, enabled=False):  # sums over all positions leave half precision's range
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / flat.shape[2]


def code_loss(features: Tensor, target: Tensor) -> Tensor:
    """Stage 2: 0.25 mean((z - z_gt)^2); z before quantisation, z_gt the clear image's vectors, both (B, C, h, w)."""
    return 0.25 * F.mse_loss(features, target.detach())


def gram_loss(features: Tensor, target: Tensor) -> Tensor:
    """Stage 2: mean((gram(z) - gram(z_gt))^2)."""
    return F.mse_loss(gram(features), gram(target.detach()))
