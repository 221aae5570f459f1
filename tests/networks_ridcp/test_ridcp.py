"""RIDCP's two stages against the published program, and what the published program leaves open."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import parity
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference import tiling
from dehaze_zoo.networks import ridcp
from dehaze_zoo.networks.blocks import alignment
from dehaze_zoo.networks.blocks.alignment import NonFiniteOffsets
from dehaze_zoo.networks.blocks.padding import extend_mirror
from dehaze_zoo.networks.blocks.quantiser import code_loss, codebook_loss, gram_loss
from dehaze_zoo.networks.blocks.swin import DeployedGroup, ResidualGroup, WindowAttention
from dehaze_zoo.networks.registry import build_model, model_info
from dehaze_zoo.networks.ridcp import PUBLISHED_ALPHA, RIDCP, VQGAN

OFFICIAL_ALPHAS = (0.0, -21.25, 7.5)


def matching_vector() -> Tensor:
    """As the authors' file holds it: in their sign."""
    facts = parity.read("ridcp_meta.json")["ridcp"]["matching_weight"]
    return torch.from_numpy((np.random.RandomState(facts["seed"]).standard_normal(1024) * facts["scale"]).astype(np.float32))


@cache
def stage1() -> VQGAN:
    net = build_model("ridcp_vqgan")
    assert isinstance(net, VQGAN)
    net.load_state_dict(net.import_state_dict(parity.state("ridcp", "ridcp_hq")))
    return net.eval()


@cache
def stage2(matching: bool = True) -> RIDCP:
    net = build_model("ridcp")
    assert isinstance(net, RIDCP)
    state = parity.state("ridcp", "ridcp")
    del state["quantize_group.0.weight"]
    net.load_state_dict(net.import_state_dict({**state, "quantize_group.0.weight": matching_vector()} if matching else state))
    return net.eval()


def equal_share(codes: Tensor, name: str) -> float:
    return float((codes == parity.reference("ridcp", name)[:, 0]).double().mean())


def test_counts_and_keys() -> None:
    facts = parity.read("ridcp_meta.json")
    assert model_info("ridcp").parameters == facts["ridcp"]["parameters"] - 1024  # the matching vector is no parameter of ours
    assert model_info("ridcp_vqgan").parameters == facts["ridcp_hq"]["parameters"]
    keys = parity.read("ridcp_keys.json")
    shapes = {key: list(value.shape) for key, value in stage1().state_dict().items()}
    assert shapes == keys["ridcp_hq"]
    shapes = {key: list(value.shape) for key, value in stage2().state_dict().items()}
    at = "quantize_group.0."
    assert shapes.pop(at + "alpha") == []
    shapes[at + "weight"] = shapes.pop(at + "frequency_gap")
    assert shapes == keys["ridcp"]


@pytest.mark.parametrize("official", OFFICIAL_ALPHAS)
@torch.no_grad()
def test_the_public_call_equals_the_published_program(official: float) -> None:
    hazy = parity.reference("ridcp", "ridcp/x")
    assert parity.error(stage2()(hazy, alpha=-official), parity.reference("ridcp", f"ridcp/y_alpha{official}")) < 5e-5
    codes = stage2().codes(hazy, alpha=-official)
    assert codes.shape == (1, 24, 24)  # 64 and 80 both extended to 96
    assert equal_share(codes, f"ridcp/codes_alpha{official}") == 1


@torch.no_grad()
def test_both_branches_codes_and_terms_equal_the_published_ones() -> None:
    image = parity.reference("ridcp", "ridcp_stage2/x")
    branches = stage2().branches(image, alpha=0)
    assert parity.error(branches.reconstruction, parity.reference("ridcp", "ridcp_stage2/vq_branch")) < 5e-5
    assert parity.error(branches.restored, parity.reference("ridcp", "ridcp_stage2/residual_branch")) < 5e-5
    assert equal_share(branches.codes, "ridcp_stage2/codes") == 1
    target = stage1().quantised(parity.reference("ridcp", "ridcp_hq/x"))
    wanted = parity.read("ridcp_meta.json")["ridcp_stage2"]["code_and_gram_loss"]
    both = code_loss(branches.features, target) + gram_loss(branches.features, target)
    assert both.item() == pytest.approx(wanted, rel=1e-5)


@torch.no_grad()
def test_stage_1_equals_the_published_one() -> None:
    image, wanted = parity.reference("ridcp", "ridcp_hq/x"), parity.reference("ridcp", "ridcp_hq/reconstruction")
    made = stage1().reconstruct(image)
    assert parity.error(made.image, wanted) < 5e-5
    assert parity.error(stage1()(image), wanted) < 5e-5  # 64 x 64 is not extended
    codes = stage1().encode(image)
    assert equal_share(codes, "ridcp_hq/codes") == 1
    assert torch.equal(codes, made.codes)
    assert parity.error(stage1().decode_codes(codes), wanted) < 5e-5
    wanted_loss = parity.read("ridcp_meta.json")["ridcp_hq"]["codebook_loss"]
    assert codebook_loss(made.features, made.vectors).item() == pytest.approx(wanted_loss, rel=1e-5)


@torch.no_grad()
def test_a_batch_of_different_images_gives_each_its_own_result() -> None:
    hazy = parity.reference("ridcp", "ridcp/x")
    batch = torch.cat([hazy, hazy.flip(3) * 0.5, 1 - hazy])
    together = stage2()(batch, alpha=PUBLISHED_ALPHA)
    for index, image in enumerate(batch):
        assert parity.error(together[index], stage2()(image[None], alpha=PUBLISHED_ALPHA)[0]) < 1e-4


@pytest.mark.parametrize(("name", "size"), [("ridcp", (2, 3, 250, 261)), ("ridcp_nat", (1, 3, 40, 70))])
@torch.no_grad()
def test_the_form_for_evaluation_picks_the_same_codes(name: str, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = build_model(name, codebook_size=64, width=32, depth=2)
    assert isinstance(net, RIDCP)
    for part in net.modules():  # as training leaves them: norms and warps that do something
        if isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
        elif isinstance(part, alignment.DeformableConv):
            nn.init.normal_(part.conv_offset.weight, std=0.01)
        elif isinstance(part, WindowAttention):
            nn.init.normal_(part.relative_position_bias_table)
    before = {key: value.clone() for key, value in net.eval().state_dict().items()}
    deployed, hazy = net.deployed(), torch.rand(size)
    image = ridcp.extend(hazy, always=True)  # of 5184 tokens: more than one piece
    assert torch.equal(deployed.codes(hazy, alpha=0), net.codes(hazy, alpha=0))
    torch.testing.assert_close(deployed.unquantised(image), net.unquantised(image), rtol=1e-6, atol=1e-6)
    group = next(part for part in net.modules() if isinstance(part, ResidualGroup))
    tokens = torch.rand(1, group.conv.in_channels, 8, 16)
    assert DeployedGroup(group)(tokens).stride() == group(tokens).stride()  # in another layout the next convolution sums otherwise
    plain = net(hazy)
    torch.testing.assert_close(deployed(hazy), plain, rtol=0, atol=2e-5 * float(plain.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@torch.no_grad()
def test_the_blocks_of_the_form_for_evaluation_run_in_half_precision() -> None:
    torch.manual_seed(0)
    block, x = ridcp.ResBlock(32), 5 + torch.randn(1, 32, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        made, wanted = ridcp.DeployedResBlock(block)(x.bfloat16()), block(x.bfloat16())
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, wanted.float(), rtol=0.01, atol=0.02)


@pytest.mark.parametrize("strip", [64, 640, 2**18])
@torch.no_grad()
def test_norms_keep_their_digits_in_channels_last(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(ridcp, "STRIP", strip)
    norm, x = ridcp.Norm(64), 5 + 0.1 * torch.randn(2, 64, 24, 31)
    nn.init.normal_(norm.norm.bias)
    exact = norm.norm.double()(x.double()).float()
    norm.norm.float()
    x = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(norm(x), exact, rtol=1e-4, atol=1e-4)
    apart = x.clone(memory_format=torch.preserve_format)
    assert ridcp._normed_silu(norm.norm, apart, apart) is apart
    torch.testing.assert_close(apart, torch.nn.functional.silu(exact), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_alpha_is_told_and_refused() -> None:
    hazy = parity.image(5, 40, 33)
    assert torch.equal(stage2().codes(hazy), stage2().codes(hazy, alpha=PUBLISHED_ALPHA))
    assert not torch.equal(stage2().codes(hazy), stage2().codes(hazy, alpha=0))
    plain = stage2(matching=False)
    assert torch.equal(plain.codes(hazy), plain.codes(hazy, alpha=0))
    with pytest.raises(UsageError, match="matching weights"):
        plain.codes(hazy, alpha=7)
    with pytest.raises(UsageError, match="finite"):
        stage2().codes(hazy, alpha=float("nan"))
    with pytest.raises(UsageError, match=r"alpha=1e.07 is too large"):
        stage2().codes(hazy, alpha=1e7)


@torch.no_grad()
def test_matching_weights_are_set_in_the_papers_sign() -> None:
    net = build_model("ridcp")
    assert isinstance(net, RIDCP)
    net.set_matching(-matching_vector(), alpha=14.0)
    assert torch.equal(net.quantiser.frequency_gap, stage2().quantiser.frequency_gap)
    assert net.quantiser.alpha == 14
    with pytest.raises(UsageError, match="1024 codes"):
        net.set_matching(torch.zeros(512), alpha=1.0)
    for gap, alpha in ((matching_vector() / 0, 1.0), (matching_vector(), float("nan"))):
        with pytest.raises(UsageError, match="not finite"):
            net.set_matching(gap, alpha)


def test_importing_drops_the_dead_and_leaves_ours_alone() -> None:
    dead = ["conv_semantic.0.weight", "vgg_feat_extractor.mean"]
    block = "multiscale_encoder.blocks.2.swin_blks.0.residual_group.blocks.1."
    dead += [block + "attn_mask", block + "attn.relative_position_index"]
    state = parity.state("ridcp", "ridcp")
    ours = RIDCP.import_state_dict({**state, **dict.fromkeys(dead, torch.zeros(1))})
    assert ours.keys() == stage2().state_dict().keys()
    assert torch.equal(ours["quantize_group.0.frequency_gap"], -state["quantize_group.0.weight"])
    again = RIDCP.import_state_dict(ours)
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[key], value) for key, value in ours.items())
    assert VQGAN.import_state_dict({"out_conv.bias": torch.zeros(3), **dict.fromkeys(dead, torch.zeros(1))}).keys() == {"out_conv.bias"}


def test_stage_2_starts_from_stage_1() -> None:
    net = build_model("ridcp")
    assert isinstance(net, RIDCP)
    net.start_from(stage1())
    theirs, mine = stage1().state_dict(), net.state_dict()
    assert all(torch.equal(mine[key], value) for key, value in theirs.items())
    with pytest.raises(UsageError, match="codebook of 64 codes"):
        net.start_from(VQGAN(codebook_size=64))


def test_frozen_parts_and_detachment(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build_model("ridcp")
    assert isinstance(net, RIDCP)
    image = parity.image(6, 32, 32)
    net.branches(image).restored.square().sum().backward()
    frozen = {key.split(".")[0] for key, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"quantize_group", "after_quant_group", "decoder_group", "out_conv"}
    encoder = net.multiscale_encoder.in_conv.weight
    assert encoder.grad is not None
    assert encoder.grad.any()  # through the codes
    encoder.grad = None
    plain = net.quantiser.forward
    monkeypatch.setattr(net.quantiser, "forward", lambda *args: tuple(part.detach() for part in plain(*args)))
    net.branches(image).restored.square().sum().backward()
    assert encoder.grad is None  # and no other way


def test_the_codebook_learns_by_its_own_loss_alone() -> None:
    net = VQGAN()
    made = net.reconstruct(parity.image(6, 32, 32))
    made.image.sum().backward(retain_graph=True)
    assert net.quantiser.embedding.weight.grad is None
    codebook_loss(made.features, made.vectors).backward()
    used = net.quantiser.embedding.weight.grad
    assert used is not None
    assert set(used.any(1).nonzero().flatten().tolist()) == set(made.codes.flatten().tolist())


@torch.no_grad()
def test_each_stage_extends_by_its_own_rule() -> None:
    hazy = parity.image(7, 32, 20)
    mirrored = extend_mirror(hazy, 64, 32)  # always at least one more
    assert torch.equal(mirrored[:, :, 32:], mirrored[:, :, :32].flip(2))
    assert torch.equal(stage2()(hazy), stage2().branches(mirrored).restored[:, :, :, :20][:, :, :32])
    assert stage1().encode(hazy).shape == (1, 8, 8)
    assert torch.equal(stage1()(hazy), stage1().reconstruct(extend_mirror(hazy, 32, 32)).image[..., :20])


@torch.no_grad()
def test_what_is_not_finite_ends_in_a_named_error() -> None:
    hazy = parity.image(8, 20, 20)
    hazy[0, 1, 3, 4] = float("nan")
    with pytest.raises(NonFiniteOffsets, match="not finite"):
        stage2()(hazy)


@torch.no_grad()
def test_codes_outside_the_codebook_are_refused() -> None:
    with pytest.raises(UsageError, match="0 to 1023"):
        stage1().decode_codes(torch.full((1, 2, 2), 1024))


@pytest.mark.parametrize("name", ["ridcp", "ridcp_nat", "ridcp_vqgan"])
def test_tiles_are_refused_and_large_pictures_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "pixels_that_fit", lambda *_: 600 * 600)
    net = build_model(name)
    assert tiling.tile_side(net, (4000, 6000)) is None
    assert tiling.tile_side(net, (4000, 6000), None) is None
    with pytest.raises(UsageError, match=r"tile=1024: .*over the whole picture") as error:
        tiling.tile_side(net, (4000, 6000), 1024)
    assert "tile=auto" in str(error.value)


def test_half_precision_trains() -> None:
    net = build_model("ridcp")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        restored = net(parity.image(9, 32, 32))
    restored.float().square().mean().backward()
    grads = [p.grad for p in net.parameters() if p.requires_grad]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)
