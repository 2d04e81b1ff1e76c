"""Feed-forwards of the UNet, part by part: what they hold in between is eight times as wide as what they take.

Exact but for rounding, since each row is worked out by itself. diffusers' own `enable_forward_chunking` wants parts of
one size, along one dimension.
"""

from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from torch import nn

ROWS = 8192
"""At once. With fewer the UNet's peak, which is elsewhere then, would be no lower."""


class PartedFeedForward(nn.Module):
    """Stands where a block had its feed-forward, which gives as many channels as it takes."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole, self.in_parts = whole, False

    def forward(self, hidden_states: torch.Tensor) -> Any:
        if not self.in_parts:
            return self.whole(hidden_states)
        rows = hidden_states.flatten(0, -2)
        output = torch.empty_like(rows)
        for part, place in zip(rows.split(ROWS), output.split(ROWS), strict=True):
            place.copy_(self.whole(part))
        return output.view(hidden_states.shape)


def part_feed_forwards(pipeline: Any) -> None:
    """Make the UNet ready for `work_in_parts`."""
    for block in pipeline.unet.modules():
        if isinstance(block, BasicTransformerBlock | TemporalBasicTransformerBlock):
            for name in ("ff", "ff_in"):
                if hasattr(block, name):
                    setattr(block, name, PartedFeedForward(getattr(block, name)))


def work_in_parts(unet: nn.Module, in_parts: bool) -> None:
    for module in unet.modules():
        if isinstance(module, PartedFeedForward):
            module.in_parts = in_parts
