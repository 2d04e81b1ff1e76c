"""What the UNet is told of a clip: the picture, once by CLIP and once by the VAE, three numbers, and the noise."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from core.requests.clip import ClipSettings

CLIP_SIDE = 224
"""Pixels; diffusers' pipeline has it fixed too, whatever the image encoder's configuration says."""


@dataclass(frozen=True)
class Conditions:
    """On the model's device. `batch` is 2 if the clip is guided, and the first of the two knows no picture."""

    embedding: torch.Tensor
    """(batch, 1, cross_attention_dim)"""
    image_latents: torch.Tensor
    """(batch, num_frames, 4, height / 8, width / 8)"""
    time_ids: torch.Tensor
    """(batch, 3)"""
    guidance_scale: torch.Tensor | None
    """(1, num_frames, 1, 1, 1), rising from the first frame to the last; None if nothing is guided."""
    noise: torch.Tensor
    """(1, num_frames, 4, height / 8, width / 8), of standard deviation 1."""
    seed: torch.Generator
    """On the CPU, for noise that comes later."""


def keep_encoder_in_float32(pipeline: Any) -> None:
    """Where float16 is too narrow for it. diffusers casts the whole VAE there and back for each clip; only the decoder
    is needed in float16."""
    vae = pipeline.vae
    if vae.dtype == torch.float16 and vae.config.force_upcast:
        for part in (vae.encoder, vae.quant_conv):
            part.to(torch.float32)


def read_conditions(pipeline: Any, picture: Image.Image, clip: ClipSettings) -> Conditions:
    """`picture` has the clip's size. Draws from the seed in diffusers' order, on the CPU: the same noise everywhere."""
    device, seed = pipeline.image_encoder.device, torch.Generator("cpu").manual_seed(clip.seed)
    guided = is_guided(clip)
    pixels = on_device(picture, device)
    embedding = embed(pipeline, pixels)
    noise = randn_tensor(pixels.shape, seed, device, pixels.dtype)
    latents = encode(pipeline.vae, pixels + (clip.noise_aug_strength or 0) * noise).to(embedding.dtype)
    shape = (1, clip.num_frames, *latents.shape[1:])
    fps = clip.fps - 1  # as in training: Stability-AI/generative-models, scripts/sampling/simple_video_sample.py
    time_ids = torch.tensor([[fps, clip.motion_bucket_id, clip.noise_aug_strength]], dtype=embedding.dtype)
    return Conditions(
        embedding=with_unguided(embedding, guided),
        image_latents=with_unguided(latents.expand(shape), guided),
        time_ids=time_ids.to(device).repeat(2 if guided else 1, 1),
        guidance_scale=rising(clip, embedding) if guided else None,
        noise=randn_tensor(shape, seed, device, embedding.dtype),
        seed=seed,
    )


def is_guided(clip: ClipSettings) -> bool:
    return (clip.max_guidance_scale or 0) > 1


def on_device(picture: Image.Image, device: torch.device) -> torch.Tensor:
    """(1, 3, height, width) in float32, from -1 to 1; it travels as bytes."""
    pixels = torch.from_numpy(np.array(picture)[None]).to(device)
    return pixels.permute(0, 3, 1, 2).float() / 255 * 2 - 1


def embed(pipeline: Any, pixels: torch.Tensor) -> torch.Tensor:
    """CLIP's embedding, (1, 1, cross_attention_dim). Blurred and reduced as diffusers does it, but on the device."""
    small = (_resize_with_antialiasing(pixels, (CLIP_SIDE, CLIP_SIDE)) + 1) / 2
    mean, std = (
        torch.tensor(values, device=pixels.device).view(3, 1, 1)
        for values in (pipeline.feature_extractor.image_mean, pipeline.feature_extractor.image_std)
    )
    encoder = pipeline.image_encoder
    embedding: torch.Tensor = encoder(((small - mean) / std).to(encoder.dtype)).image_embeds
    return embedding[:, None]


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """(1, 4, height / 8, width / 8): the middle of what the encoder thinks likely; not scaled, as SVD was trained."""
    latents: torch.Tensor = vae.encode(pixels.to(vae.encoder.conv_in.weight.dtype)).latent_dist.mode()
    return latents


def with_unguided(known: torch.Tensor, guided: bool) -> torch.Tensor:
    return torch.cat([torch.zeros_like(known), known]) if guided else known


def rising(clip: ClipSettings, like: torch.Tensor) -> torch.Tensor:
    low, high = clip.min_guidance_scale or 0, clip.max_guidance_scale or 0
    return torch.linspace(low, high, clip.num_frames).to(like).view(1, -1, 1, 1, 1)
