"""Residual groups of transformer blocks on maps (B, C, H, W), and their shifted-window attention (Swin; Liu et al., ICCV 2021).

The groups are SwinIR's (Liang et al. 2021). Attribute names follow RIDCP's checkpoints. An attention here is any module from tokens
(B, H, W, C) to tokens (B, H, W, C); neighbourhood.py has another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE = 4096
"""Tokens, a multiple of a window's, that the form for evaluation takes at a time."""


class WindowAttention(nn.Module):
    """Attention within windows of ``window`` x ``window`` tokens, displaced by ``shift``, with a learned bias per relative position.

    (B, H, W, C) to the same; H and W multiples of ``window``.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int = 8, shift: int = 0) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        span = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(span**2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"))
        index = (y[:, None] - y + window - 1) * span + (x[:, None] - x + window - 1)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        s, shift = self.window, self.shift
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        x = x.view(b, h // s, s, w // s, s, c).transpose(2, 3).reshape(-1, s * s, c)
        qkv: Tensor = self.qkv(x)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.bias()[None]
        if shift:
            apart = self._apart(h, w, x.device)
            bias = (bias - 100.0 * apart[:, None]).repeat(b, 1, 1, 1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)).transpose(1, 2).flatten(2)
        x = self.proj(x)
        x = x.view(b, h // s, w // s, s, s, c).transpose(2, 3).reshape(b, h, w, c)
        return x.roll((shift, shift), (1, 2)) if shift else x

    def bias(self) -> Tensor:
        """(heads, s*s, s*s)."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)

    def _apart(self, h: int, w: int, device: torch.device) -> Tensor:
        """(windows, s*s, s*s), true where the roll brought two tokens into one window from opposite borders."""
        s = self.window
        row, column = ((torch.arange(side, device=device) >= side - self.shift) for side in (h, w))
        region = 2 * row[:, None].int() + column.int()
        region = region.view(h // s, s, w // s, s).transpose(1, 2).reshape(-1, s * s)
        return region[:, :, None] != region[:, None]


class MLP(nn.Module):
    """Linear to 4 times the width, GELU, linear back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), on tokens (B, H, W, C)."""

    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ResidualGroup(nn.Module):
    """``depth`` transformer blocks and a 3x3 convolution, around them a residual; (B, C, H, W) to the same.

    ``attention(i)`` builds the attention of block i.
    """

    def __init__(self, width: int, depth: int, attention: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.residual_group = nn.Module()  # the level that the checkpoints' names have here
        self.residual_group.blocks = nn.Sequential(*(TransformerBlock(width, attention(i)) for i in range(depth)))
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.residual_group.blocks(x.permute(0, 2, 3, 1).contiguous())  # type: ignore[operator]
        return x + self.conv(tokens.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


class DeployedGroup(nn.Module):
    """A group for evaluation, (B, C, H, W) to the same: its blocks in pieces that stay in the cache and reuse their memory.

    Sums are the same in the same order. Tokens move once a block, and only windows that the shift tears get masks of their own.
    """

    def __init__(self, group: ResidualGroup) -> None:
        super().__init__()
        self.blocks: Any = group.residual_group.blocks
        self.conv = group.conv

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1).contiguous()
        hidden = x.new_empty(tokens.shape[:-1].numel(), 4 * tokens.shape[-1])
        for block in self.blocks:
            windowed = isinstance(block.attn, WindowAttention)
            tokens = _attended(block, block.attn, tokens) if windowed else tokens + block.attn(block.norm1(tokens))
            for piece, room in zip(tokens.view(-1, tokens.shape[-1]).split(PIECE), hidden.split(PIECE), strict=True):
                room.copy_(torch.ops.aten.gelu_(block.mlp.fc1(block.norm2(piece))))
            tokens = block.mlp.fc2(hidden).view(tokens.shape).add_(tokens)
        moved: Tensor = self.conv(tokens.permute(0, 3, 1, 2))
        return x + moved  # not in place: the sum is to lie in memory as the group's own does


def _attended(block: TransformerBlock, attention: WindowAttention, x: Tensor) -> Tensor:
    """x + attention(norm(x)) for tokens (B, H, W, C), some windows at a time."""
    h, w, c = x.shape[1:]
    s, shift = attention.window, attention.shift
    order = torch.arange(h * w, device=x.device).view(h, w).roll((-shift, -shift), (0, 1))
    order = order.view(h // s, s, w // s, s).transpose(1, 2).flatten()
    apart = attention._apart(h, w, x.device) if shift else order.new_zeros((len(order) // s**2, 1, 1), dtype=torch.bool)
    bias = attention.bias()[None]
    out = torch.empty_like(x)
    for image, new in zip(x.flatten(1, 2), out.flatten(1, 2), strict=True):
        for places, torn in zip(order.split(PIECE), apart.split(PIECE // s**2), strict=True):
            tokens = image[places]
            qkv: Tensor = attention.qkv(block.norm1(tokens).view(-1, s * s, c))
            q, k, v = qkv.unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
            at = torn.flatten(1).any(1).nonzero()[:, 0]
            if len(at):
                masks = (bias - 100.0 * torn[at][:, None]).to(q.dtype)
                seen[at] = F.scaled_dot_product_attention(q[at], k[at], v[at], attn_mask=masks)
            moved: Tensor = attention.proj(seen.transpose(1, 2).flatten(2))
            new[places] = tokens.add_(moved.view(-1, c))
    return out
