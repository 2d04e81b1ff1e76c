"""Deep features of the UNet kept from one step to the next: less work, and not the same picture.

From step to step the UNet's lower resolutions change little (Ma, Fang and Wang, "DeepCache", CVPR 2024). In a shallow
step only the last layers of the highest resolution are worked out anew, from what the others gave in a full step
before.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

LAYERS = 3
"""Of the last up block. The first down block has two; the last of the three takes what conv_in gave."""


class Kept(nn.Module):
    """Stands where a module was, and gives in a shallow step what that gave in the full step before."""

    def __init__(self, module: Any, looked_at: bool) -> None:
        super().__init__()
        self.module, self.looked_at = module, looked_at
        self.has_cross_attention = getattr(module, "has_cross_attention", False)  # asked of blocks
        self.shallow = False
        self.output: Any = None
        self.other: Any = None
        """Of the other sample, if each has a pass of its own."""

    @property
    def resnets(self) -> Any:
        """Counted for each block."""
        return self.module.resnets

    def forward(self, *given: Any, **named: Any) -> Any:
        if self.shallow:
            return self.output
        output = self.module(*given, **named)
        # In each full step, whether anybody will look: a compiled program that does not would be another one.
        self.output = output if self.looked_at else shape_of(output)
        return output


def shape_of(output: Any) -> Any:
    """Of the same shapes, without memory: the layers that take it are not looked at either."""
    if isinstance(output, tuple):
        return tuple(shape_of(part) for part in output)
    return torch.zeros((), dtype=output.dtype, device=output.device).expand(output.shape)


def keep_deep_features(unet: Any, fresh_layers: int) -> None:
    """Make `unet` ready for `set_shallow`. In a shallow step the last `fresh_layers` (1 to 3) of the highest resolution
    are worked out."""
    first, last = unet.down_blocks[0], unet.up_blocks[-1]
    kept_up = LAYERS - fresh_layers
    keep(unet.down_blocks, range(1, len(unet.down_blocks)))
    unet.mid_block = Kept(unet.mid_block, False)
    keep(unet.up_blocks, range(len(unet.up_blocks) - 1), looked_at=None if kept_up else len(unet.up_blocks) - 2)
    for layers in (first.resnets, first.attentions):
        keep(layers, range(fresh_layers - 1, len(layers)))
    keep(first.downsamplers, range(1))
    keep(last.resnets, range(kept_up))
    keep(last.attentions, range(kept_up), looked_at=kept_up - 1 if kept_up else None)


def keep(modules: nn.ModuleList, places: range, looked_at: int | None = None) -> None:
    for place in places:
        modules[place] = Kept(modules[place], place == looked_at)


def set_shallow(unet: nn.Module, shallow: bool) -> None:
    for module in kept_in(unet):
        module.shallow = shallow


def exchange_features(unet: nn.Module) -> None:
    """Between the passes of two samples."""
    for module in kept_in(unet):
        module.output, module.other = module.other, module.output


def forget_features(unet: nn.Module) -> None:
    """At the end of each clip."""
    for module in kept_in(unet):
        module.shallow, module.output, module.other = False, None, None


def kept_in(unet: nn.Module) -> Iterator[Kept]:
    return (module for module in unet.modules() if isinstance(module, Kept))
