"""torch.compile for the UNet and the decoder."""

from typing import Any

import torch


def use_channels_last(pipeline: Any) -> None:
    """Colours of a pixel side by side in memory: what a GPU's convolutions want, and what attention wants anyway."""
    for model in (pipeline.unet, pipeline.vae.decoder):
        for weights in model.parameters():
            if weights.ndim == 4:
                weights.data = weights.data.contiguous(memory_format=torch.channels_last)


def compile_unet(pipeline: Any) -> None:
    compile_next(pipeline.unet)


def compile_decoder(pipeline: Any) -> None:
    compile_next(pipeline.vae.decoder)


def may_compile() -> bool:
    """TORCH_COMPILE_DISABLE=1 is torch's own way to leave it out."""
    return not torch._dynamo.config.disable


def compile_next(model: torch.nn.Module) -> None:
    """For the shapes that it is called with from now on, until `compile_no_more`.

    For each of them alone: one program for all shapes took eight times as long to make (aot_eager, a tiny UNet), and
    was made anew for the second shape all the same.
    """
    torch.compiler.set_stance("default")
    # By these attention.py pins kernels. AOTAutograd would keep no program that has them, though what they are given
    # stands in the program.
    for name in ("_backend_from_string", "_sdpa_kernel"):
        torch._inductor.config.unsafe_marked_cacheable_functions[f"torch.nn.attention.{name}"] = name
    model.compile(fullgraph=True, dynamic=False)


def compile_no_more() -> None:
    """What comes in another shape runs as it is: no caller waits a minute because nobody asked for his size before."""
    torch.compiler.set_stance("eager_on_recompile")


def uncompile(pipeline: Any) -> None:
    """RunningAttempt the models of `pipeline` as they are again; those of other pipelines keep what was compiled for
    them."""
    for model in (pipeline.unet, pipeline.vae.decoder):
        model._compiled_call_impl = None
