"""Cross-attention over one token, worked out once a clip.

SVD's UNet attends to the picture's embedding, and that is a single token: the softmax over it is 1, so what each pixel
gets is `to_out(to_v(embedding))`, the same for all of them and in every step. diffusers works out norm, query, scores
and projection for each pixel: 3.75 % of the model's arithmetic, for nothing. Exact but for rounding.
"""

from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from torch import nn


class FoldedCrossAttention(nn.Module):
    """Stands where a block had its Attention, and gives what that would have given for the embedding last folded in."""

    vector: torch.Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.to_v, self.to_out = attention.to_v, attention.to_out
        self.register_buffer("vector", torch.empty(0), persistent=False)

    def fold_in(self, embedding: torch.Tensor) -> None:
        """`embedding` is (batch, 1, cross_attention_dim)."""
        vector = self.to_v(embedding)
        for layer in self.to_out:
            vector = layer(vector)
        self.vector = vector

    def forward(self, hidden_states: torch.Tensor, **_: object) -> torch.Tensor:
        """(rows, 1, channels), to be added to hidden_states (rows, tokens, channels): as many rows for each clip of the
        batch as it has frames, or in the temporal blocks pixels."""
        rows = hidden_states.shape[0]
        return self.vector.repeat_interleave(rows // self.vector.shape[0], dim=0, output_size=rows)


def fold_cross_attention(pipeline: Any) -> None:
    """In every transformer block of the UNet."""
    for block in pipeline.unet.modules():
        if isinstance(block, BasicTransformerBlock | TemporalBasicTransformerBlock):
            block.attn2, block.norm2 = FoldedCrossAttention(block.attn2), nn.Identity()


def fold_in(unet: nn.Module, embedding: torch.Tensor) -> None:
    """Before the first step of each clip. `embedding` is (batch, 1, cross_attention_dim)."""
    for module in unet.modules():
        if isinstance(module, FoldedCrossAttention):
            module.fold_in(embedding)
