"""The verb `clip`: one picture in, one MP4 and its thumbnail out."""

from typing import Any

from PIL.Image import Image

from core.config import Settings
from core.errors import ArtifactNotFound, InputMissing, OutOfMemory
from core.picture import read_picture
from core.scratch import scratch_folder
from core.spec import Clip
from core.storage import Storage, artifact_key
from core.task import Claim
from worker.attempt import Attempt
from worker.engines.base import Frames, Renderer
from worker.media.mp4 import encode_mp4, first_frame_jpeg
from worker.receipt import write_receipt
from worker.renderers import Renderers

# Shares of the whole, for the progress a user sees. Rendering's own phases divide RENDER between them.
LOAD, RENDER, ENCODE_VIDEO, STORE = 0.02, 0.90, 0.06, 0.02


def make_clip(
    claim: Claim, attempt: Attempt, settings: Settings, storage: Storage, renderers: Renderers
) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns the storage key of each artifact by name, and the receipt."""
    clip = Clip.model_validate(claim.step.params)
    attempt.shares = {"load": LOAD, "encode_video": ENCODE_VIDEO, "store": STORE}
    with attempt.phase("load"):
        renderer = renderers.get(clip.engine)
        attempt.shares |= {name: RENDER * share for name, share in renderer.phases.items()}
        picture = read_picture(attempt.keep_trying(lambda: _read_input(storage, claim)), settings.max_image_megapixels)
    frames, clip = _render(renderer, picture, clip, attempt)
    with attempt.phase("encode_video"), scratch_folder("clip") as folder:
        path = folder / "video.mp4"
        encode_mp4(frames, clip.fps, clip.quality, path, attempt.advance)
        video = path.read_bytes()
        thumbnail = first_frame_jpeg(frames)

    def key(name: str) -> str:
        return artifact_key(claim.task.task_id, claim.step.step_id, claim.step.attempt, name)

    artifacts = {"video": key("video.mp4"), "thumbnail": key("thumbnail.jpg")}
    with attempt.phase("store"):
        attempt.stored_bytes += len(video) + len(thumbnail)
        attempt.keep_trying(lambda: storage.put(artifacts["video"], video))
        attempt.keep_trying(lambda: storage.put(artifacts["thumbnail"], thumbnail))
    return artifacts, write_receipt(renderer, clip, attempt, claim.task.input_sha256, video)


def _render(renderer: Renderer, picture: Image, clip: Clip, attempt: Attempt) -> tuple[Frames, Clip]:
    """The frames, and the clip as it was rendered: where memory runs out, once more with half the decode chunk."""
    try:
        return renderer.render(picture, clip, attempt), clip
    except OutOfMemory:
        if not clip.decode_chunk_size or clip.decode_chunk_size == 1:
            raise
    smaller = clip.model_copy(update={"decode_chunk_size": clip.decode_chunk_size // 2})
    attempt.warnings.append(
        f"the GPU's memory ran out with decode_chunk_size {clip.decode_chunk_size}; "
        f"this was made with {smaller.decode_chunk_size}"
    )
    return renderer.render(picture, smaller, attempt), smaller


def _read_input(storage: Storage, claim: Claim) -> bytes:
    try:
        return storage.read(claim.task.input_key)
    except ArtifactNotFound as error:
        raise InputMissing("the uploaded picture is no longer in the storage") from error
