"""AnimateLCM-SVD: Stable Video Diffusion XT with a UNet that was distilled for a few steps without guidance."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from core.engines.base import UnetFile
from core.errors import EngineUnavailable
from worker.engines.svd.svd import Svd
from worker.engines.svd.weights import advice, fetch

if TYPE_CHECKING:
    import torch


class Turbo(Svd):
    # Reckoned from Svd's figures: 4 of its 50 passes through the UNet are 1.5 s, beside the decoder's 3.4.
    phases: ClassVar = {"encode_image": 0.02, "denoise": 0.3, "decode": 0.68}

    def fetch(self, dtype: "torch.dtype") -> Any:
        from worker.engines.svd.consistency import ConsistencyScheduler
        from worker.engines.svd.unet_file import read_unet

        pipeline = fetch(str(self.engine.model), self.engine.revision, dtype, unet=None)
        pipeline.unet = read_unet(self._unet_file(), self.engine, dtype)
        pipeline.scheduler = ConsistencyScheduler()
        return pipeline

    def _unet_file(self) -> str:
        """Where it lies, in the cache of the hub. Raises EngineUnavailable."""
        from huggingface_hub import hf_hub_download

        file = cast(UnetFile, self.engine.unet)
        try:
            return hf_hub_download(file.model, file.name, revision=file.revision)
        except Exception as exc:  # as in load, but of another repository than the model's
            its_own = replace(self.engine, model=file.model, revision=file.revision)
            raise EngineUnavailable(advice(exc, its_own, self.settings)) from exc
