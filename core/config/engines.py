"""Settings: engines, and what a clip is when a request does not say."""

from pathlib import Path

from pydantic import BaseModel, Field

SVD_XT = "stabilityai/stable-video-diffusion-img2vid-xt"
SVD_XT_REVISION = "9e43909513c6714f1bc78bcb44d96e733cd242aa"


class EngineSettings(BaseModel):
    engine: str = "auto"
    model_id: str = SVD_XT
    model_revision: str = Field(default=SVD_XT_REVISION, pattern=r"^[0-9a-f]{40}$")
    rife_weights: Path | None = None
    video_width: int | None = None
    video_height: int | None = None
    video_frames: int | None = None
    video_fps: int | None = None
