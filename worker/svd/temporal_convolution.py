"""Convolution along the frames as one of two dimensions instead of three.

A kernel of 3 × 1 × 1 sees no neighbours within a frame, so all the pixels of a frame may lie in one row: the same sums,
by the convolutions that libraries have tuned for longest.
"""

from typing import Any

import torch
from torch import nn

KERNEL = (3, 1, 1)


class TemporalConvolution(nn.Module):
    """Takes and gives (batch, channels, frames, height, width), as the Conv3d that it is made from."""

    def __init__(self, conv3d: nn.Conv3d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv3d.weight.detach().squeeze(-1), requires_grad=False)
        self.bias = conv3d.bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        rows = nn.functional.conv2d(hidden_states.flatten(3), self.weight, self.bias, padding=(1, 0))
        return torch.unflatten(rows, 3, hidden_states.shape[3:])


def use_conv2d(pipeline: Any) -> None:
    """For every such convolution of the UNet and of the decoder."""
    for model in (pipeline.unet, pipeline.vae.decoder):
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Conv3d) and child.kernel_size == KERNEL:
                    setattr(parent, name, TemporalConvolution(child))
