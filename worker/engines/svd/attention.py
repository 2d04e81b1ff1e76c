"""Which kernel attention runs by, pinned for each shape: torch's own order is its release's, not this GPU's."""

from contextlib import nullcontext
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch.nn.attention import SDPBackend, sdpa_kernel

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}

Shape = tuple[int, int, int, int]
"""(sequences, heads, tokens, channels of a head)"""


class PinnedAttention(AttnProcessor2_0):  # type: ignore[misc] # diffusers has no types for it
    """diffusers' attention, by the kernel `first` if that takes the shape, else by whichever does."""

    def __init__(self, along_frames: bool) -> None:
        super().__init__()
        self.along_frames = along_frames
        self.first: str | None = None
        """Of KERNELS; None: as torch chooses."""
        self.seen: Shape | None = None
        """What it was asked for last, uncompiled."""

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            sequences, tokens, channels = hidden_states.shape
            self.seen = sequences, attn.heads, tokens, channels // attn.heads
        first = [KERNELS[self.first]] if self.first else []
        others = [kernel for kernel in (*KERNELS.values(), SDPBackend.MATH) if kernel not in first]
        with sdpa_kernel([*first, *others], set_priority=True) if first else nullcontext():
            attended: torch.Tensor = super().__call__(attn, hidden_states, *given, **named)
        return attended


def pin_attention(pipeline: Any) -> None:
    """For every self-attention of the UNet; which kernel is first is for worker/engines/svd/probes.py to say."""
    for block in pipeline.unet.modules():
        if isinstance(block, BasicTransformerBlock | TemporalBasicTransformerBlock):
            block.attn1.set_processor(PinnedAttention(isinstance(block, TemporalBasicTransformerBlock)))


def pinned_in(unet: torch.nn.Module) -> list[PinnedAttention]:
    processors = (module.processor for module in unet.modules() if isinstance(module, Attention))
    return [processor for processor in processors if isinstance(processor, PinnedAttention)]
