"""Stable Video Diffusion XT with random weights, at full size or reduced: speed does not depend on what weights say."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

# The configurations of stabilityai/stable-video-diffusion-img2vid-xt.
UNET: dict[str, Any] = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",),
    "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "transformer_layers_per_block": 1,
    "num_attention_heads": (5, 10, 20, 20),
    "num_frames": 25,
}
VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
IMAGE_ENCODER: dict[str, Any] = {  # ViT-H/14
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1024,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
PARAMETERS = {"unet": 1524.6, "vae": 97.7}
"""Millions, of the public model's weights."""


# What two CPU cores do in about a minute: a fifth of the UNet's width, a quarter of the VAE's, a shallow image encoder.
REDUCED = "UNet 1/5 as wide, VAE 1/4, 4 of 32 layers in the image encoder"
REDUCED_UNET = UNET | {"block_out_channels": (64, 128, 256, 256), "num_attention_heads": (1, 2, 4, 4)}
REDUCED_VAE = VAE | {"block_out_channels": (32, 64, 128, 128)}
REDUCED_IMAGE_ENCODER = IMAGE_ENCODER | {"num_hidden_layers": 4}


@dataclass(frozen=True)
class Case:
    """The clip that is timed, in pixels and frames; guided, so each step runs the UNet on two samples."""

    width: int
    height: int
    num_frames: int
    num_inference_steps: int
    decode_chunk_size: int = 8


FULL_CASE = Case(width=1024, height=576, num_frames=25, num_inference_steps=25)
REDUCED_CASE = Case(width=256, height=192, num_frames=4, num_inference_steps=2)
REDUCED_QUALITY_CASE = Case(width=128, height=128, num_frames=6, num_inference_steps=25)


def build_pipeline(device: str, *, reduced: bool) -> Any:
    """SVD-XT's architecture with random weights: float16 on a GPU, as its weights are published, else float32."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNetSpatioTemporalConditionModel(**(REDUCED_UNET if reduced else UNET))
        vae = AutoencoderKLTemporalDecoder(**(REDUCED_VAE if reduced else VAE))
        vision = CLIPVisionConfig(**(REDUCED_IMAGE_ENCODER if reduced else IMAGE_ENCODER))
        image_encoder = CLIPVisionModelWithProjection(vision)
    pipeline = StableVideoDiffusionPipeline(
        unet=unet,
        vae=vae,
        image_encoder=image_encoder,
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(),
    )
    for model in (unet, vae, image_encoder):
        model.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, torch.float16 if device == "cuda" else torch.float32)


def parameters(pipeline: Any) -> dict[str, float]:
    """Millions."""
    models = {name: getattr(pipeline, name) for name in ("unet", "vae", "image_encoder")}
    return {name: round(sum(p.numel() for p in model.parameters()) / 1e6, 1) for name, model in models.items()}
