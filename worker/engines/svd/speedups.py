"""What is changed in diffusers' models once they are loaded. Each change gives the same pictures but for rounding, and
each is measured alone by `scripts/bench svd` (docs/performance.md)."""

from collections.abc import Callable
from typing import Any

from worker.engines.svd.attention import pin_attention
from worker.engines.svd.compiling import compile_decoder, compile_unet, may_compile, use_channels_last
from worker.engines.svd.cross_attention import fold_cross_attention
from worker.engines.svd.group_norm import use_channels_last_norms
from worker.engines.svd.temporal_convolution import use_conv2d

SpeedUp = Callable[[Any], None]
"""Changes a StableVideoDiffusionPipeline in place."""

EVERYWHERE: tuple[SpeedUp, ...] = (fold_cross_attention,)
ON_GPU: tuple[SpeedUp, ...] = (*EVERYWHERE, use_conv2d, use_channels_last, use_channels_last_norms, pin_attention)
COMPILED: tuple[SpeedUp, ...] = (compile_unet, compile_decoder)


def worth_it(device: str) -> tuple[SpeedUp, ...]:
    """On a CPU the convolutions are faster as they are, and to compile takes longer than it will ever save."""
    if device != "cuda":
        return EVERYWHERE
    return ON_GPU + COMPILED if may_compile() else ON_GPU
