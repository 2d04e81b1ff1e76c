"""OpenAI's Videos API, and what the video servers that speak it have besides."""

from app.dialects.base import HttpDialect
from app.dialects.openai import content, models, videos

DIALECT = HttpDialect(
    routers=(videos.router, content.router, models.router),
    uploads="/v1/videos(/sync|/edits|/extensions)?",
    headers=("openai-poll-after-ms", "X-Inference-Time-S"),
)
