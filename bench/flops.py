"""How much arithmetic a clip of Stable Video Diffusion is: counted, on tensors that have shapes and no numbers."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.random_svd import Case, build_pipeline
from worker.engines.svd.cross_attention import fold_cross_attention, fold_in
from worker.engines.svd.deep_cache import keep_deep_features, set_shallow
from worker.engines.svd.temporal_convolution import use_conv2d

Tera = dict[str, float]


def count(case: Case, *, reduced: bool, ours: bool) -> Tera:
    """TFLOP (a multiplication and an addition are two) of each part of a guided clip, and of the whole."""
    pipeline = build_pipeline("meta", reduced=reduced)
    if ours:
        fold_cross_attention(pipeline)
        use_conv2d(pipeline)
    parts = {
        "unet, one sample, one step": count_unet(pipeline, case),
        "decode": count_decoder(pipeline, case),
        "encode": count_encoders(pipeline, case),
    }
    denoise = 2 * case.num_inference_steps * parts["unet, one sample, one step"]
    return parts | {"denoise": denoise, "whole": denoise + parts["decode"] + parts["encode"]}


def share_of_shallow(case: Case, fresh_layers: int) -> float:
    """Of a full step's arithmetic, what a step takes that works only so many layers out anew."""
    pipeline = build_pipeline("meta", reduced=False)
    fold_cross_attention(pipeline)
    keep_deep_features(pipeline.unet, fresh_layers)
    full = count_unet(pipeline, case)
    set_shallow(pipeline.unet, True)
    return count_unet(pipeline, case) / full


def count_unet(pipeline: Any, case: Case) -> float:
    unet, (height, width) = pipeline.unet, (case.height // 8, case.width // 8)
    sample = torch.empty(1, case.num_frames, unet.config.in_channels, height, width, device="meta")
    embedding = torch.empty(1, 1, unet.config.cross_attention_dim, device="meta")
    time_ids = torch.empty(1, 3, device="meta")
    with torch.no_grad():
        fold_in(unet, embedding)
    return tera(lambda: unet(sample, torch.empty((), device="meta"), embedding, time_ids))


def count_decoder(pipeline: Any, case: Case) -> float:
    chunks = torch.empty(case.num_frames, 4, case.height // 8, case.width // 8, device="meta").split(
        case.decode_chunk_size
    )
    return sum(tera(lambda chunk=chunk: pipeline.vae.decode(chunk, num_frames=len(chunk))) for chunk in chunks)


def count_encoders(pipeline: Any, case: Case) -> float:
    picture = torch.empty(1, 3, case.height, case.width, device="meta")
    small = torch.empty(1, 3, 224, 224, device="meta")
    return tera(lambda: pipeline.vae.encoder(picture)) + tera(lambda: pipeline.image_encoder(small))


def tera(work: Callable[[], object]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12
