"""Neighbourhood attention: each token attends to the kernel x kernel tokens around it (Hassani et al., CVPR 2023, arXiv:2204.07143).

At a border the window is moved inside, so that every token sees as many; natten does the same. There is no relative position
bias: natten dropped it in 0.20.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def neighbourhood_attention(q: Tensor, k: Tensor, v: Tensor, kernel: int, tile: int = 8) -> Tensor:
    """Plain PyTorch: q, k, v (B, H, W, heads, d) to (B, H, W, heads, d), queries scaled by d ** -0.5; H and W at least ``kernel``.

    A tile of queries shares one gathered block of keys and values, where a mask leaves each query its own window: 3 times the
    keys' memory at tile 8 and kernel 7, instead of the 49 times of gathering each window.
    """
    b, h, w, heads, d = q.shape
    queries_y, keys_y, near_y = _tiles(h, kernel, tile, q.device)
    queries_x, keys_x, near_x = _tiles(w, kernel, tile, q.device)

    def gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(B * tiles_y * tiles_x, heads, tokens in a tile, d)."""
        x = x.index_select(1, rows.flatten()).index_select(2, columns.flatten())
        x = x.view(b, *rows.shape, *columns.shape, heads, d)
        return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(0, 2)

    # near_*: (tiles, queries, keys) along one side; a key belongs to a window when it does along both.
    near = (near_y[:, None, :, None, :, None] & near_x[None, :, None, :, None, :]).flatten(4, 5).flatten(2, 3).flatten(0, 1)
    near = near[None, :, None].expand(b, -1, 1, -1, -1).flatten(0, 1)
    q, k, v = gather(q, queries_y, queries_x), gather(k, keys_y, keys_x), gather(v, keys_y, keys_x)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=near)
    ny, nx = queries_y.shape[0], queries_x.shape[0]
    out = out.view(b, ny, nx, heads, tile, tile, d).permute(0, 1, 4, 2, 5, 3, 6).reshape(b, ny * tile, nx * tile, heads, d)
    return out[:, :h, :w]


def _tiles(side: int, kernel: int, tile: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Along one side: positions of queries (tiles, tile) and of the keys they need (tiles, reach), and which belong together."""
    start = torch.arange(0, side, tile, device=device)
    queries = (start[:, None] + torch.arange(tile, device=device)).clamp(max=side - 1)  # beyond the border: computed, then cut off
    reach = tile + kernel - 1  # on a shorter side some lie beyond it, in nobody's window: an export's sizes stay free
    keys = (start - kernel // 2).clamp(max=side - reach).clamp(min=0)[:, None] + torch.arange(reach, device=device)
    first = (queries - kernel // 2).clamp(0, side - kernel)[:, :, None]
    near = (keys[:, None] >= first) & (keys[:, None] < first + kernel)
    return queries, keys.clamp(max=side - 1), near


@cache
def natten_kernel() -> Callable[..., Tensor] | None:
    """natten's operator where it is installed (dehaze_zoo[nat]) with its compiled kernels, which run on CUDA alone.

    Not its flex path, which works without them: uncompiled it holds all (H W) x (H W) scores (on a CPU, 64 x 64 tokens take it
    200 times as long as the plain form and 1.7 GB more), it has no backward there, and the compiled one natten calls unverified.
    """
    try:
        import natten
    except ImportError:
        return None
    return natten.na2d if natten.HAS_LIBNATTEN else None  # type: ignore[no-any-return]


class NeighbourhoodAttention(nn.Module):
    """Neighbourhood attention on tokens (B, H, W, C) to the same, by natten where its kernels can run, else in plain PyTorch.

    ``kernel`` is odd; H and W at least ``kernel``.
    """

    def __init__(self, width: int, heads: int, kernel: int = 7) -> None:
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv: Tensor = self.qkv(x)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(3)
        attend = (natten_kernel() if x.is_cuda else None) or neighbourhood_attention
        out = attend(q, k, v, self.kernel)
        return self.proj(out.flatten(3))  # type: ignore[no-any-return]
