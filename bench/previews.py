"""What it costs to show what emerges while a clip is rendered."""

import time
from statistics import mean
from typing import Any
from unittest.mock import patch

from PIL import Image

from core.requests.clip import Clip
from worker.attempt import Attempt
from worker.engines.svd.latents import show_emerging
from worker.engines.svd.svd import Svd
from worker.run.preview_publisher import PreviewPublisher


class Kept:
    """Stands in for Redis: counts what it is given, and what the thread that gives it has used of a core."""

    def __init__(self) -> None:
        self.count, self.core_seconds = 0, 0.0

    def put(self, _task_id: str, _webp: bytes) -> None:
        self.count, self.core_seconds = self.count + 1, time.thread_time()

    def forget(self, _task_id: str) -> None:
        pass


class Watching:
    """Renders clips while somebody looks on, and adds up what that costs."""

    def __init__(self) -> None:
        self.paid: list[float] = []
        """Seconds of whoever denoises, for each step."""
        self.denoising: list[float] = []
        self.previews, self.core_seconds = 0, 0.0

    def render(self, engine: Svd, picture: Image.Image, clip: Clip) -> None:
        attempt, kept = Attempt(engine.phases), Kept()

        def timed(*given: Any) -> None:
            begun = time.perf_counter()
            show_emerging(*given)
            self.paid.append(time.perf_counter() - begun)

        with patch("worker.engines.svd.denoising.show_emerging", timed), PreviewPublisher(kept, "bench", attempt):
            engine.render(picture, clip, attempt)
        self.denoising.append(attempt.seconds["denoise"] / (clip.num_inference_steps or 1))
        self.previews, self.core_seconds = self.previews + kept.count, self.core_seconds + kept.core_seconds

    def figures(self) -> dict[str, float]:
        return {
            "previews": self.previews,
            "core_ms_each": 1000 * self.core_seconds / max(1, self.previews),
            "us_of_a_step": 1e6 * mean(self.paid),
            "worst_us_of_a_step": 1e6 * max(self.paid),
            "percent_of_a_step": 100 * mean(self.paid) / mean(self.denoising),
        }
