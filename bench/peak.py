"""How much memory a phase of Stable Video Diffusion holds at most: counted, on tensors that have shapes and no numbers.

What lives beside the weights is added up as it comes and goes, in Kinora's own loop at full size. Attention counts as
the flash kernels have it, by its output alone. What a count cannot see: the libraries' workspaces, and the holes that
an allocator leaves.
"""

import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.allocator import Event
from core.engines.svd import SVD_FAST
from core.requests.clip import Clip
from harness.random_svd import build_pipeline
from worker.attempt import Attempt
from worker.engines.svd.conditioning import Conditions, keep_encoder_in_float32, read_conditions
from worker.engines.svd.decoding import to_bytes
from worker.engines.svd.deep_cache import keep_deep_features
from worker.engines.svd.denoising import denoise
from worker.engines.svd.feed_forward import part_feed_forwards, work_in_parts
from worker.engines.svd.memory import at_once, plan_of
from worker.engines.svd.placing import MODELS, models_of, tensors_of
from worker.engines.svd.speedups import ON_GPU

META = torch.device("meta")


class Peak(TorchDispatchMode):
    """The bytes of tensors on META that live at once, but those that were there before."""

    def __init__(self, there: list[torch.Tensor]) -> None:
        super().__init__()
        self.there = [tensor.untyped_storage() for tensor in there]
        self.taken = 0
        self.sizes: dict[int, int] = {storage._cdata: 0 for storage in self.there}
        self.now = self.most = 0
        self.events: list[Event] = []
        """What was taken and given back, for bench/allocator.py."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device == META:
                self.count(leaf.untyped_storage())
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            self.taken += 1
            self.events.append((self.taken, storage.nbytes()))
            weakref.finalize(storage, self.forget, key, self.taken)

    def forget(self, key: int, taken: int) -> None:
        self.now -= self.sizes.pop(key, 0)
        self.events.append((taken, -1))


def build() -> Any:
    """Full-size models as the engine holds them on a GPU, without memory."""
    pipeline = build_pipeline("meta", reduced=False)
    pipeline.to(torch.float16)
    for change in (keep_encoder_in_float32, part_feed_forwards, *ON_GPU):
        change(pipeline)
    keep_deep_features(pipeline.unet, SVD_FAST.fresh_layers)
    return pipeline


def count(pipeline: Any, clip: Clip) -> dict[str, int]:
    """Bytes of each phase of `clip`, settled."""
    return {phase: found.most for phase, found in follow(pipeline, clip).items()}


def follow(pipeline: Any, clip: Clip) -> dict[str, Peak]:
    """What lives in each phase of `clip`, settled."""
    given: list[Conditions] = []
    return {
        "encode_image": watched(pipeline, lambda: given.append(encode(pipeline, clip))),
        "denoise": watched(pipeline, lambda: go_through(pipeline, given[0], clip)),
        "decode": watched(pipeline, lambda: decode_twice(pipeline, clip)),
    }


def encode(pipeline: Any, clip: Clip) -> Conditions:
    return read_conditions(pipeline, Image.new("RGB", (clip.width, clip.height)), clip)


def go_through(pipeline: Any, known: Conditions, clip: Clip) -> None:
    """Two steps: what the first keeps for the profile `fast` is there in the second, whoever asks for it."""
    plan = plan_of(clip)
    work_in_parts(pipeline.unet, plan.in_parts)
    few = clip.model_copy(update={"num_inference_steps": 2})
    denoise(pipeline, known, few, Attempt(), None, plan.apart)


def decode_twice(pipeline: Any, clip: Clip) -> None:
    """Since one chunk's frames are still there while the next is decoded."""
    frames = at_once(clip)
    latents = torch.empty(frames, 4, clip.height // 8, clip.width // 8, dtype=torch.float16, device=META)
    for _ in range(2):
        video = pipeline.vae.decode(latents, num_frames=frames).sample
        pixels = to_bytes(video)  # noqa: F841 - kept until the next


def watched(pipeline: Any, work: Callable[[], object]) -> Peak:
    there = [tensor for phase in MODELS for model in models_of(pipeline, phase) for tensor in tensors_of(model)]
    attention = "torch.nn.functional.scaled_dot_product_attention"
    with torch.no_grad(), patch(attention, lambda query, *_, **__: torch.empty_like(query)), Peak(there) as found:
        work()
    return found
