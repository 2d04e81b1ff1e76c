"""The verb `join`: the parts of a long clip, and the video that a task continues before them, into one MP4."""

from typing import Any

from core.scratch import scratch_folder
from core.spec import Clip
from core.storage import Storage
from core.task import Claim
from worker.attempt import Attempt
from worker.engines.host import EngineHost
from worker.media.mp4 import encoder
from worker.media.video import join_mp4
from worker.pictures import Pictures, read_input
from worker.receipt import extend_receipt
from worker.steps.clip import PASSED_ON
from worker.steps.store import files_of, read_made, store
from worker.steps.verb import Work


def join_clips(claim: Claim, attempt: Attempt, storage: Storage, engine_host: EngineHost, pictures: Pictures) -> Work:
    """Its receipt is that of the first clip, and what it is part of."""
    yield  # at once: no engine is needed for any of it
    clip = Clip.model_validate(claim.step.params)
    attempt.shares = {"load": 0.1, "join": 0.8, "store": 0.1}
    with attempt.phase("load"):
        videos = [read_input(claim.task, attempt, storage)] if clip.continues is not None else []
        videos += [read_made(made, "video", attempt, storage) for made in claim.needs]
    with attempt.phase("join"), scratch_folder("join") as folder:
        paths, joined = [folder / f"{number}.mp4" for number in range(len(videos))], folder / "video.mp4"
        for path, data in zip(paths, videos, strict=True):
            path.write_bytes(data)
        passed_on = clip.smooth_fps is not None and claim.needs[0].verb == "clip"
        quality = min(clip.quality, PASSED_ON) if passed_on else clip.quality
        count, anew = join_mp4(paths, joined, quality, attempt.check)
        files = {"video.mp4": joined.read_bytes()} if passed_on else files_of(joined, count)
    with attempt.phase("store"):
        artifacts = store(files, claim, attempt, storage)
    receipt = extend_receipt(claim.needs[0], claim, attempt, files["video.mp4"]) | part_receipts(claim)
    receipt.pop("colours", None)  # was for the part that came next
    if anew:
        receipt["encoder"] = encoder()
    return artifacts, receipt


def part_receipts(claim: Claim) -> dict[str, Any]:
    """What to say of a clip that was made in several parts."""
    if len(claim.needs) == 1:
        return {}
    receipts = [made.receipt or {} for made in claim.needs]
    known = ("seed", "device", "threads", "memory_plan", "seconds", "output_sha256")
    each = [
        {name: receipt.get(name) for name in known}
        | {"decode_chunk_size": receipt.get("parameters", {}).get("decode_chunk_size")}
        for receipt in receipts
    ]
    whole = Clip.model_validate(claim.task.params)  # the step's own may be of what is smoothed and joined later
    return {"parameters": whole.model_dump(exclude_none=True, exclude={"engine"}), "seed": whole.seed, "parts": each}
