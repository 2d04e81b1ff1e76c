"""GroupNorm that leaves the channels of a pixel side by side in memory, in compiled programs.

torch's own wants the pixels of a channel side by side, in compiled programs too, while the convolutions before and
after it want the opposite: its result is transposed, and for norms along the frames inductor walks over pixels in steps
of hundreds of elements, each channel anew. Written as sums over (pixels, channels of the group) of that layout, all of
it is read once, in order.
"""

from typing import Any

import torch
from torch import nn


class ChannelsLastGroupNorm(nn.Module):
    """Takes and gives (batch, channels, ...), as the GroupNorm that it is made from."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():  # each line below would be a pass over memory
            return nn.functional.group_norm(hidden_states, self.num_groups, self.weight, self.bias, self.eps)
        last = hidden_states.movedim(1, -1)
        groups = last.reshape(last.shape[0], -1, self.num_groups, last.shape[-1] // self.num_groups).float()
        variance, mean = torch.var_mean(groups, dim=(1, 3), correction=0, keepdim=True)
        normal = ((groups - mean) * torch.rsqrt(variance + self.eps)).reshape(last.shape)
        scaled = normal * self.weight.float() + self.bias.float()
        return scaled.to(hidden_states.dtype).movedim(-1, 1)


def use_channels_last_norms(pipeline: Any) -> None:
    """In the place of every GroupNorm of the UNet and of the decoder."""
    for model in (pipeline.unet, pipeline.vae.decoder):
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.GroupNorm):
                    setattr(parent, name, ChannelsLastGroupNorm(child))
