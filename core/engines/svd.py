"""The entries of Stable Video Diffusion: both of its models, and what was distilled from one."""

from typing import Any

from core.engines.base import (
    COMMON_DEFAULTS,
    COMMON_LIMITS,
    SMOOTH_FPS,
    Approximation,
    Choice,
    Engine,
    Limit,
    Range,
    UnetFile,
)

PROFILE = Choice(("exact", "fast"))

# The UNet halves its latents three times (8 × 8 = 64 pixels), as the VAE's factor of 8 stands before it.
SVD_LIMITS: dict[str, Limit] = COMMON_LIMITS | {
    "width": Range(64, 1024, 64),
    "height": Range(64, 1024, 64),
    "num_frames": Range(2, 601),  # 20 s at 30 a second, and the one that an extended video shares
    "fps": Range(1, 30),
    "smooth_fps": SMOOTH_FPS,
    "num_inference_steps": Range(1, 50),
    "motion_bucket_id": Range(1, 255),
    "noise_aug_strength": Range(0, 1),
    "min_guidance_scale": Range(1, 10),
    "max_guidance_scale": Range(1, 10),
    "decode_chunk_size": Range(1, 25),
    "profile": PROFILE,
}
SVD_DEFAULTS: dict[str, Any] = COMMON_DEFAULTS | {
    "width": 1024,
    "height": 576,
    "num_frames": 25,
    "fps": 7,
    "num_inference_steps": 25,
    "motion_bucket_id": 127,
    "noise_aug_strength": 0.02,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 3.0,
    "profile": "exact",
}

# 256 channels of 15 frames of 1024×576 are more than 2³¹ numbers, which torch's nearest upsampling counts in 32 bits in
# some versions: zeros or an error come out (pytorch#141831, #81665). No GPU has shown yet that this version is right.
SVD_DECODED = 14 * 1024 * 576

SVD_FAST = Approximation(full_every=3, fresh_layers=1, guided_part=1.0)

NOT_TURBOS = ("min_guidance_scale", "max_guidance_scale", "profile")
TURBO_LIMITS = {name: limit for name, limit in SVD_LIMITS.items() if name not in NOT_TURBOS}
TURBO_DEFAULTS = {name: value for name, value in SVD_DEFAULTS.items() if name not in NOT_TURBOS}

SVD_XT = Engine(
    name="svd-xt",
    summary="Stable Video Diffusion XT, 25 frames at 1024×576",
    class_path="worker.engines.svd.svd:Svd",
    queue="gpu",
    licence="Stability AI Community License",
    gpu_memory_gb=8,
    needs_cuda=True,
    limits=SVD_LIMITS,
    defaults=SVD_DEFAULTS,
    approximation=SVD_FAST,
    frames_at_once=25,
    fits_pictures=True,
    max_decoded_pixels=SVD_DECODED,
)
"""`MODEL_ID` and `MODEL_REVISION` say of which model."""

SVD = Engine(
    name="svd",
    summary="Stable Video Diffusion, trained for 14 frames at 1024×576",
    class_path="worker.engines.svd.svd:Svd",
    queue="gpu",
    licence="Stability AI Community License",
    model="stabilityai/stable-video-diffusion-img2vid",
    revision="9cf024d5bfa8f56622af86c884f26a52f6676f2e",
    gpu_memory_gb=8,
    needs_cuda=True,
    limits=SVD_LIMITS,
    defaults=SVD_DEFAULTS | {"num_frames": 14},
    approximation=SVD_FAST,
    frames_at_once=25,
    fits_pictures=True,
    max_decoded_pixels=SVD_DECODED,
)

TURBO = Engine(
    name="turbo",
    summary="Stable Video Diffusion XT distilled for 4 to 8 steps by AnimateLCM: sooner, and other clips",
    class_path="worker.engines.svd.turbo:Turbo",
    queue="gpu",
    licence="Stability AI Community License; for AnimateLCM's UNet see its page as well",
    unet=UnetFile(
        model="wangfuyun/AnimateLCM-SVD-xt",
        name="AnimateLCM-SVD-xt.safetensors",
        revision="ceaa884185c3ed436e1bb1193e119ee4df4d29af",
    ),
    gpu_memory_gb=8,
    needs_cuda=True,
    frames_at_once=25,
    fits_pictures=True,
    max_decoded_pixels=SVD_DECODED,
    limits=TURBO_LIMITS | {"num_inference_steps": Range(4, 8)},
    defaults=TURBO_DEFAULTS | {"num_inference_steps": 4},
)
"""Beside its own UNet it has all of `svd-xt`'s model."""
