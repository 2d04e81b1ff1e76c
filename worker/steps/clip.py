"""The verb `clip`: one picture in, or the video to continue; one MP4 and what shows it out."""

from pathlib import Path
from typing import Any

from PIL import Image

from core.config import Settings
from core.errors import ArtifactNotFound, InputMissing, OutOfMemory
from core.picture import read_picture
from core.scratch import scratch_folder
from core.spec import Clip
from core.storage import Storage
from core.task import Claim
from worker.attempt import Attempt
from worker.engines.base import Frames, Renderer
from worker.media.mp4 import encode_mp4, first_frame_jpeg, spritesheet_jpeg, tile_indices
from worker.media.video import last_frame
from worker.receipt import write_receipt
from worker.renderers import Renderers
from worker.steps.store import store

# Shares of the whole, for the progress a user sees. Rendering and encoding divide the rest.
LOAD, STORE = 0.02, 0.02


def make_clip(
    claim: Claim, attempt: Attempt, settings: Settings, storage: Storage, renderers: Renderers
) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns the storage key of each artifact by name, and the receipt."""
    clip = Clip.model_validate(claim.step.params)
    attempt.shares = {"load": LOAD, "store": STORE}
    with attempt.phase("load"):
        renderer = renderers.get(clip.engine)
        attempt.shares |= {name: renderer.share * share for name, share in renderer.phases.items()}
        attempt.shares["encode_video"] = 1 - LOAD - STORE - renderer.share
        picture = _first_picture(clip, read_input(claim, attempt, storage), settings)
    frames, clip = _render(renderer, picture, clip, attempt)
    if clip.continues:
        frames = frames[1:]  # it is the last one of the video that goes on
    with attempt.phase("encode_video"), scratch_folder("clip") as folder:
        path = folder / "video.mp4"
        encode_mp4(frames, clip.fps, clip.quality, path, attempt.advance)
        video = path.read_bytes()
        thumbnail = first_frame_jpeg(frames)
        spritesheet = spritesheet_jpeg([frames[index] for index in tile_indices(len(frames))])
    with attempt.phase("store"):
        files = {"video.mp4": video, "thumbnail.jpg": thumbnail, "spritesheet.jpg": spritesheet}
        artifacts = store(files, claim, attempt, storage)
    return artifacts, write_receipt(renderer, clip, attempt, claim.task.input_sha256, video)


def _first_picture(clip: Clip, given: bytes, settings: Settings) -> Image.Image:
    if not clip.continues:
        return read_picture(given, settings.max_image_megapixels)
    with scratch_folder("continue") as folder:
        video = Path(folder / "before.mp4")
        video.write_bytes(given)
        return Image.fromarray(last_frame(video))


def _render(renderer: Renderer, picture: Image.Image, clip: Clip, attempt: Attempt) -> tuple[Frames, Clip]:
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


def read_input(claim: Claim, attempt: Attempt, storage: Storage) -> bytes:
    """Raises InputMissing."""
    try:
        return attempt.keep_trying(lambda: storage.read(claim.task.input_key))
    except ArtifactNotFound as error:
        raise InputMissing("what the task was made from is no longer in the storage") from error
