"""RIDCP's parts, each against its plain formulation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import deform_conv2d

from dehaze_zoo.networks.blocks import alignment, quantiser
from dehaze_zoo.networks.blocks.discriminator import UNetDiscriminator
from dehaze_zoo.networks.blocks.neighbourhood import NeighbourhoodAttention, neighbourhood_attention


def brute_force(q: Tensor, k: Tensor, v: Tensor, kernel: int) -> Tensor:
    b, h, w, heads, d = q.shape
    rows = []
    for y in range(h):
        for x in range(w):
            top, left = (min(max(at - kernel // 2, 0), side - kernel) for at, side in ((y, h), (x, w)))
            keys, values = (t[:, top : top + kernel, left : left + kernel].flatten(1, 2) for t in (k, v))
            share = (torch.einsum("bnd,bknd->bnk", q[:, y, x], keys) * d**-0.5).softmax(-1)
            rows.append(torch.einsum("bnk,bknd->bnd", share, values))
    return torch.stack(rows, 1).view(b, h, w, heads, d)


@pytest.mark.parametrize("size", [(7, 7), (8, 19), (17, 9)])
def test_neighbourhood_attention_and_its_gradient(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, *size, 2, 4, dtype=torch.double, requires_grad=True) for _ in range(3))
    tiled, plain = neighbourhood_attention(q, k, v, 7), brute_force(q, k, v, 7)
    torch.testing.assert_close(tiled, plain)
    for one, other in zip(*(torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (tiled, plain)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore")  # natten's uncompiled path warns that it is slow
@pytest.mark.parametrize("size", [(8, 8), (13, 20)])
@torch.no_grad()
def test_neighbourhood_attention_equals_nattens(size: tuple[int, int]) -> None:
    natten = pytest.importorskip("natten", reason="natten is an extra: pip install dehaze_zoo[nat]")
    torch.manual_seed(0)
    ours, theirs = NeighbourhoodAttention(32, 4, kernel=7), natten.NeighborhoodAttention2D(32, 4, kernel_size=7)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, *size, 32)
    assert (ours(tokens) - theirs(tokens)).abs().max() < 1e-5


def plain_codes(features: Tensor, book: Tensor, factor: Tensor | None) -> Tensor:
    distance = (features.double().permute(0, 2, 3, 1)[..., None, :] - book.double()).square().sum(-1)
    return (distance if factor is None else distance * factor.double()).argmin(-1)


@pytest.mark.parametrize("matched", [False, True])
def test_codes_in_pieces_equal_the_whole_matrix(matched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantiser, "PIECE", 7)  # does not divide the 5 x 6 positions
    torch.manual_seed(0)
    book = quantiser.VectorQuantiser(16, 8)
    nn.init.normal_(book.embedding.weight)
    features = torch.randn(3, 8, 5, 6, requires_grad=True)
    factor = torch.rand(16) + 0.5 if matched else None
    vectors, codes = book(features, factor)
    assert torch.equal(codes, plain_codes(features, book.embedding.weight, factor))
    torch.testing.assert_close(vectors, book.lookup(codes))
    vectors.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, torch.ones_like(features))
    assert book.embedding.weight.grad is None


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@torch.no_grad()
def test_neither_one_hot_nor_all_distances_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantiser, "PIECE", 64)
    book, features = quantiser.VectorQuantiser(1024, 8), torch.randn(1, 8, 32, 32)
    with Largest() as largest:
        book(features)
    assert largest.elements <= 64 * 1024  # of 1024 x 1024


def deformable(width: int = 16) -> alignment.DeformableConv:
    torch.manual_seed(0)
    conv = alignment.DeformableConv(width)
    nn.init.normal_(conv.bias)
    return conv


@pytest.mark.parametrize("calls", [4, 8])
def test_the_operator_in_parts_equals_one_call(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    conv, f, moves = deformable(), torch.randn(2, 16, 9, 11, requires_grad=True), 3 * torch.randn(2, 108, 9, 11)
    moves.requires_grad_()
    seen = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(args[0].shape[1])
        return deform_conv2d(*args, **kwargs)

    monkeypatch.setattr(alignment, "deform_conv2d", counted)
    results = []
    for workspace in (2**40, 9 * f.numel() * 4 / calls):
        monkeypatch.setattr(alignment, "WORKSPACE", workspace)
        out = conv(f, moves)
        results.append((out, *torch.autograd.grad(out.square().sum(), [f, moves, *list(conv.parameters())[:2]])))
    assert seen == [16, *[16 // calls] * calls]
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5 * float(whole.detach().std()))


@pytest.mark.parametrize("held", [1, 40, 10**6])
@torch.no_grad()
def test_weighted_bags_equal_the_operator(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    conv, f, moves = deformable(), torch.randn(2, 16, 9, 11), torch.randn(2, 108, 9, 11)
    moves[:, :72] *= torch.tensor([0.5, 20.0]).view(2, 1, 1, 1)  # in the second image most samples lie beyond the border
    moves[0, :4, 0, 0] = torch.tensor([-1.0, 1e9, -1e9, 9.0])
    monkeypatch.setattr(alignment, "PLACES", held)
    sampled = alignment.DeployedDeformableConv(conv)
    monkeypatch.setattr(alignment, "deform_conv2d", None)
    made = sampled(f, moves)
    monkeypatch.undo()
    torch.testing.assert_close(made, conv(f, moves), rtol=1e-5, atol=1e-6)
    moves[0, 3, 2, 2] = float("nan")
    with pytest.raises(alignment.NonFiniteOffsets, match="not finite"):
        sampled(f, moves)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_offsets_that_are_not_finite_are_named(bad: float) -> None:
    conv, moves = deformable(), torch.zeros(1, 108, 8, 8)
    moves[0, 71, 7, 7] = bad
    with pytest.raises(alignment.NonFiniteOffsets, match="not finite"):
        conv(torch.randn(1, 16, 8, 8), moves)


def test_an_exported_operator_outlives_what_is_not_finite() -> None:
    conv, f, moves = deformable(), torch.randn(1, 16, 8, 8), torch.zeros(1, 108, 8, 8)
    program = torch.export.export(conv, (f, moves))
    assert any("nan_to_num" in str(node.target) for node in program.graph.nodes)  # without, the next call would end the process
    torch.testing.assert_close(program.module()(f, moves), conv(f, moves))
    moves[0, 3, 2, 2] = float("nan")
    assert program.module()(f, moves).shape == f.shape


def test_the_alignment_keeps_each_samples_mean_and_survives_a_mean_of_zero() -> None:
    align = alignment.Alignment(16)
    x, warped = torch.rand(3, 16, 5, 5), torch.rand(3, 16, 5, 5) - 0.2
    out = align.add(x, warped)
    for index in range(3):
        published = x[index] + warped[index] * x[index].mean() / warped[index].mean()
        torch.testing.assert_close(out[index], published)
    warped[1] = 0
    warped[2] = torch.tensor([1.0, -1.0]).repeat(200).view(16, 5, 5)  # a mean of exactly zero
    warped.requires_grad_()
    survived = align.add(x, warped)
    survived.square().mean().backward()
    assert torch.isfinite(survived).all()
    assert warped.grad is not None
    assert torch.isfinite(warped.grad).all()
    torch.testing.assert_close(survived[0], out[0])
    assert torch.equal(survived[1], x[1])
    assert torch.isfinite(align.add(x[:2].half(), warped[:2].half())).all()  # the ratio, 5e5, is more than a half can hold


@pytest.mark.parametrize(("channels", "size"), [(3, (32, 40)), (512, (8, 8)), (3, (19, 27))])
def test_the_discriminator_judges_every_position(channels: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    judge = UNetDiscriminator(channels)
    verdict = judge(torch.randn(2, channels, *size))
    assert verdict.shape == (2, 1, *size)
    (verdict * torch.randn_like(verdict)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in judge.parameters())


def test_the_discriminators_normalisation() -> None:
    torch.manual_seed(0)
    judge = UNetDiscriminator()
    for _ in range(30):
        judge(torch.randn(1, 3, 16, 16))
    convs = [module for module in judge.modules() if isinstance(module, nn.Conv2d)]
    normalised = [conv for conv in convs if parametrize.is_parametrized(conv)]
    assert len(convs) == 10
    assert len(normalised) == 8
    assert all((conv.bias is None) == (conv in normalised) for conv in convs)
    for conv in normalised:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)
