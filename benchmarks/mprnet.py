"""MPRNet as we run it against the plain formulation: quarters and halves one after another, 1x1 convolutions after the enlargements.

    python benchmarks/mprnet.py [--model mprnet_40] [--size 128] [--batch 1] [--rounds 9] [--threads N] [--device cpu]

Both have the same weights; their outputs are compared first. Times are medians [quartiles] in ms, ratios plain / ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dehaze_zoo.losses import CharbonnierLoss, EdgeLoss
from dehaze_zoo.networks.mprnet import CAB, Down, MPRNet, Up
from dehaze_zoo.networks.registry import build_model
from measure import Work, peak_bytes, ratio, seconds, spread, stamp


def plain_cab(self: CAB, features: Tensor) -> Tensor:
    residual: Tensor = self.body["2"](F.prelu(self.body["0"](features), self.shared[0].weight))
    attention: Tensor = self.CA.conv_du(F.adaptive_avg_pool2d(residual, 1))
    return residual * attention + features


def plain_up(self: Up, features: Tensor) -> Tensor:
    enlarged: Tensor = self.up[0](F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False))
    return enlarged


def plain_down(self: Down, features: Tensor) -> Tensor:
    reduced: Tensor = self.down[1](F.interpolate(features, scale_factor=0.5, mode="bilinear", align_corners=False))
    return reduced


def make_plain(net: nn.Module) -> None:
    """Gives the blocks the arithmetic as published; modules and weights stay."""
    for module in net.modules():
        for kind, forward in ((CAB, plain_cab), (Up, plain_up), (Down, plain_down)):
            if isinstance(module, kind):
                module.forward = forward.__get__(module)  # type: ignore[method-assign]


def plain_stages(net: MPRNet, image: Tensor) -> list[Tensor]:
    """All three outputs of (B, 3, H, W), sides multiples of 8."""
    halves = image.chunk(2, 2)
    sides = [[net.stage1_encoder(net.shallow_feat1(quarter)) for quarter in half.chunk(2, 3)] for half in halves]
    encoded = [[torch.cat(levels, 3) for levels in zip(*pair, strict=True)] for pair in sides]
    decoded = [net.stage1_decoder(levels) for levels in encoded]
    restored = [net.sam12.image(levels[0], half) for levels, half in zip(decoded, halves, strict=True)]
    first = torch.cat(restored, 2)
    second_levels = []
    for half, out, enc, dec in zip(halves, restored, encoded, decoded, strict=True):
        start = net.concat12(torch.cat((net.shallow_feat2(half), net.sam12.features(dec[0], out)), 1))
        second_levels.append(net.stage2_encoder(start, (enc, dec)))
    joined = [torch.cat(levels, 2) for levels in zip(*second_levels, strict=True)]
    whole = net.stage2_decoder(joined)
    second = net.sam23.image(whole[0], image)
    start = net.concat23(torch.cat((net.shallow_feat3(image), net.sam23.features(whole[0], second)), 1))
    return [first, second, net.tail(net.stage3_orsnet(start, joined, whole)) + image]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mprnet_40")
    parser.add_argument("--size", type=int, default=128, help="pixels, a multiple of 8")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.manual_seed(0)
    ours = build_model(options.model).to(device)
    assert isinstance(ours, MPRNet)
    plain = build_model(options.model).to(device)
    assert isinstance(plain, MPRNet)
    plain.load_state_dict(ours.state_dict())
    make_plain(plain)
    hazy = torch.rand(options.batch, 3, options.size, options.size, device=device)
    clear = torch.rand_like(hazy)
    charbonnier, edge = CharbonnierLoss(), EdgeLoss()

    def inference(run: Callable[[], list[Tensor]]) -> list[Tensor]:
        with torch.no_grad():
            return run()

    def step(optimizer: torch.optim.Optimizer, run: Callable[[], list[Tensor]]) -> None:
        loss = torch.stack([charbonnier(out, clear) + 0.05 * edge(out, clear) for out in run()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    runs: dict[str, tuple[MPRNet, Callable[[], list[Tensor]]]] = {
        "plain": (plain, lambda: plain_stages(plain, hazy)),
        "ours": (ours, lambda: ours.stages(hazy)),
    }
    gap = max(float((a - b).abs().max()) for a, b in zip(*(inference(run) for _, run in runs.values()), strict=True))
    print(f"{options.model}, {options.batch} x 3 x {options.size} x {options.size}, {stamp(device, hazy.dtype)}, {options.rounds} rounds")
    print(f"largest difference of the outputs: {gap:.1e}")
    adam = {name: torch.optim.Adam(net.parameters(), lr=0.0) for name, (net, _) in runs.items()}
    inferences: dict[str, Work] = {name: partial(inference, run) for name, (_, run) in runs.items()}
    steps: dict[str, Work] = {name: partial(step, adam[name], run) for name, (_, run) in runs.items()}
    for what, works in (("inference", inferences), ("training step", steps)):
        taken = seconds(works, options.rounds, device)
        memory = {name: peak_bytes(work, device) for name, work in works.items()}
        print(f"{what}: plain {spread(taken['plain'])} ms, ours {spread(taken['ours'])} ms, ratio {ratio(taken['plain'], taken['ours'])}")
        print(f"{what}: memory of tensors, ours / plain {memory['ours'] / memory['plain']:.2f} (plain {memory['plain'] / 2**20:.0f} MiB)")


if __name__ == "__main__":
    main()
