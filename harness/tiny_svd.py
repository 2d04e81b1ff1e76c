"""A tiny Stable Video Diffusion checkpoint: the real classes, a real folder, random weights, about 5 MB."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from huggingface_hub.file_download import repo_folder_name
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from core.config.settings import Settings
from core.engines.known import known_engines
from harness.random_svd import SCHEDULER


def build_tiny_svd(folder: Path, variant: str | None = None) -> Path:
    """Saves the same weights each time; `variant` ("fp16") goes into their files' names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableVideoDiffusionPipeline(
            unet=tiny_unet(),
            vae=tiny_vae(),
            image_encoder=tiny_image_encoder(),
            scheduler=EulerDiscreteScheduler(**SCHEDULER),
            feature_extractor=CLIPImageProcessor(),
        )
    pipeline.save_pretrained(folder, safe_serialization=True, variant=variant)
    return folder


def build_tiny_turbo(home: Path) -> Path:
    """Saves the one file that `turbo` needs beside a model, of a tiny UNet with other weights than the model's, where
    the hub's cache under HF_HOME keeps it."""
    file = known_engines(Settings(_env_file=None))["turbo"].unet
    assert file
    folder = home / "hub" / repo_folder_name(repo_id=file.model, repo_type="model") / "snapshots" / file.revision
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_file(tiny_unet().state_dict(), folder / file.name)
    return folder / file.name


def load_stock(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """diffusers' pipeline, loaded as its own documentation says."""
    pipeline = StableVideoDiffusionPipeline.from_pretrained(folder, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_unet() -> UNetSpatioTemporalConditionModel:
    return UNetSpatioTemporalConditionModel(
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 64),
        num_attention_heads=(2, 4),
        cross_attention_dim=32,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        sample_size=32,
    )


def tiny_vae() -> AutoencoderKLTemporalDecoder:
    return AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"), sample_size=32
    )


def tiny_image_encoder() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=37,
            image_size=224,
            patch_size=32,
        )
    )
