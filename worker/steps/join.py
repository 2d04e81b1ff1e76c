"""The step kind `join`: the clips of earlier steps, and the task's video before them, into one MP4."""

from typing import Any

from core.plan.steps import JoinClips
from core.task import Claim
from worker.media.mp4 import encoder
from worker.media.video import join_mp4
from worker.steps.base import Made, StepHandler
from worker.steps.receipt import extend_receipt
from worker.steps.store import fetch_input, fetch_made, store, thumbnails


class JoinStep(StepHandler):
    """Its receipt is that of the first clip, and what it is part of."""

    def finish(self) -> Made:
        context, claim, attempt = self.context, self.claim, self.attempt
        params = JoinClips.model_validate(claim.step.params)
        attempt.shares = {"load": 0.1, "join": 0.8, "store": 0.1}
        joined = context.folder / "video.mp4"
        with attempt.phase("load"):
            videos = [fetch_input("video", context.folder / "before.mp4", context)] if params.after_input else []
            for number, made in enumerate(claim.needs):
                videos.append(fetch_made(made, "video", context.folder / f"{number}.mp4", context))
        with attempt.phase("join"):
            count, anew = join_mp4(videos, joined, params.crf, attempt.check)
            shown = thumbnails(joined, count) if params.shows else []
        with attempt.phase("store"):
            artifacts = store([joined, *shown], context)
        receipt = extend_receipt(claim.needs[0], claim, attempt, artifacts[0], params.parameters)
        receipt |= part_receipts(claim, receipt["parameters"])
        receipt.pop("colours", None)  # was for the part that came next
        if anew:
            receipt["encoder"] = encoder()
        return Made(artifacts, receipt)


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
