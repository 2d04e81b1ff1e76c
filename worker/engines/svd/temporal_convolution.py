"""Convolution along the frames, in three ways.

A kernel of 3 × 1 × 1 sees no neighbours within a frame. So all the pixels of a frame may lie in one row, for the
convolutions of two dimensions that libraries have tuned for longest; but the row of a large frame is wider than some of
them take. Or each frame is a product of matrices with the kernel's middle, to which the products of its neighbours are
added. worker/engines/svd/probes.py finds out which of them a GPU does best.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

KERNEL = (3, 1, 1)

Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Of (batch, channels, frames, height, width), weights (outputs, channels, 3, 1) and bias."""


def by_conv2d(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    rows = nn.functional.conv2d(hidden_states.flatten(3), weight, bias, padding=(1, 0))
    return torch.unflatten(rows, 3, hidden_states.shape[3:])


def by_conv3d(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return nn.functional.conv3d(hidden_states, weight.unsqueeze(-1), bias, padding=(1, 0, 0))


def by_products(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    frames = hidden_states.movedim(1, -1)
    before, same, after = weight[..., 0].unbind(2)
    summed = nn.functional.linear(frames, same, bias)
    summed[:, 1:] += nn.functional.linear(frames[:, :-1], before)
    summed[:, :-1] += nn.functional.linear(frames[:, 1:], after)
    return summed.movedim(-1, 1)


WAYS: dict[str, Way] = {"conv2d": by_conv2d, "conv3d": by_conv3d, "products": by_products}


class TemporalConvolution(nn.Module):
    """Takes and gives (batch, channels, frames, height, width), as the Conv3d that it is made from."""

    def __init__(self, conv3d: nn.Conv3d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv3d.weight.detach().squeeze(-1), requires_grad=False)
        self.bias = conv3d.bias
        self.way = "conv2d"

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return WAYS[self.way](hidden_states, self.weight, self.bias)


def use_conv2d(pipeline: Any) -> None:
    """For every such convolution of the UNet and of the decoder."""
    for model in (pipeline.unet, pipeline.vae.decoder):
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Conv3d) and child.kernel_size == KERNEL:
                    setattr(parent, name, TemporalConvolution(child))


def use_way(model: nn.Module, way: str) -> None:
    """Let every such convolution of `model` go by `way`, of WAYS."""
    for module in model.modules():
        if isinstance(module, TemporalConvolution):
            module.way = way
