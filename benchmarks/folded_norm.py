"""Cost of the backbone with and without folding frozen batch norms into its convolutions."""

from __future__ import annotations

import argparse
import contextlib
import copy

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, compared, in_turn
from dct_seg.models.backbone import Backbone
from dct_seg.models.folded_norm import FOLDED

BACKBONE = "tf_efficientnet_lite0"


def folded_step_row(args: argparse.Namespace) -> Row:
    """Measure forward and backward of a training batch with folded norms."""
    return _row(
        args,
        "folded-step",
        "forward and backward of a backbone with frozen norms, EfficientNet-Lite0, 6 x 320 x 320",
        torch.rand(6, 3, 320, 320),
        learns=True,
    )


def folded_image_row(args: argparse.Namespace) -> Row:
    """Measure the forward pass of one image with folded norms."""
    what = "forward of the same backbone, one image, 384 x 384"
    return _row(args, "folded-image", what, torch.rand(1, 3, 384, 384), learns=False)


def unfolded(net: nn.Module) -> nn.Module:
    """Return a copy of ``net`` whose norms are separate again."""
    blocks = {folded: block for block, folded in FOLDED.items()}
    net = copy.deepcopy(net)
    for module in net.modules():
        module.__class__ = blocks.get(type(module), type(module))
    return net


def _row(args: argparse.Namespace, name: str, what: str, image: Tensor, *, learns: bool) -> Row:
    image = image.to(memory_format=torch.channels_last)
    ours = Backbone(BACKBONE, weights="none").eval().to(memory_format=torch.channels_last)
    theirs = unfolded(ours)
    is_bfloat16 = args.precision.startswith("bf16")

    def run(net: nn.Module) -> None:
        autocast = torch.autocast("cpu", torch.bfloat16) if is_bfloat16 else contextlib.nullcontext()
        with autocast, torch.set_grad_enabled(learns):
            last = net(image)[-1]
        if learns:
            last.float().square().mean().backward()
            net.zero_grad()

    seconds = in_turn(lambda: run(ours), lambda: run(theirs), args.repeats)
    note = f"channels_last, {args.precision}"
    return Row(name, what, "separate norms", "ms", **compared(*seconds), at_least=1, note=note)
