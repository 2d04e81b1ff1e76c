"""The step kind `join`: the clips of earlier steps, and the task's video before them, into one MP4."""

from typing import Any

from core.plan.steps import JoinClips
from core.scratch import scratch_folder
from core.task import Claim
from worker.media.mp4 import encoder
from worker.media.video import join_mp4
from worker.pictures import read_input
from worker.receipt import extend_receipt
from worker.steps.base import Made, StepHandler
from worker.steps.store import files_of, read_made, store


class JoinStep(StepHandler):
    """Its receipt is that of the first clip, and what it is part of."""

    def finish(self) -> Made:
        claim, attempt, storage = self.claim, self.attempt, self.storage
        params = JoinClips.model_validate(claim.step.params)
        attempt.shares = {"load": 0.1, "join": 0.8, "store": 0.1}
        with attempt.phase("load"):
            videos = [read_input(claim.inputs["video"], attempt, storage)] if params.after_input else []
            videos += [read_made(made, "video", attempt, storage) for made in claim.needs]
        with attempt.phase("join"), scratch_folder("join") as folder:
            paths, joined = [folder / f"{number}.mp4" for number in range(len(videos))], folder / "video.mp4"
            for path, data in zip(paths, videos, strict=True):
                path.write_bytes(data)
            count, anew = join_mp4(paths, joined, params.crf, attempt.check)
            files = files_of(joined, count) if params.shows else {"video.mp4": joined.read_bytes()}
        with attempt.phase("store"):
            artifacts = store(files, claim, attempt, storage)
        receipt = extend_receipt(claim.needs[0], claim, attempt, files["video.mp4"], params.parameters)
        receipt |= part_receipts(claim, receipt["parameters"])
        receipt.pop("colours", None)  # was for the part that came next
        if anew:
            receipt["encoder"] = encoder()
        return artifacts, receipt


def part_receipts(claim: Claim, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what a receipt says of a clip that was made in several parts."""
    if len(claim.needs) == 1:
        return {}
    receipts = [made.receipt for made in claim.needs]
    known = ("seed", "device", "threads", "memory_plan", "seconds", "output_sha256")
    each = [
        {name: receipt.get(name) for name in known}
        | {"decode_chunk_size": receipt.get("parameters", {}).get("decode_chunk_size")}
        for receipt in receipts
    ]
    return {"seed": parameters["seed"], "parts": each}
