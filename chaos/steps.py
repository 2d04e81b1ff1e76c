"""Kinds of step that the service does not have, for workers of chaos:

    python -m chaos.steps URL MODULE ARGUMENTS

runs `python -m MODULE ARGUMENTS` with them. URL is the provider's (harness/provider.py).
"""

import runpy
import sys
from typing import Any

import worker.run.net_lane
from chaos.graphs import HOSTED_SECONDS, hosted
from core.errors import EngineFailed
from harness.net_step import Hosted
from worker.run.net_lane import NET_KINDS
from worker.run.runner import STEP_KINDS
from worker.steps.base import Made, StepHandler
from worker.steps.store import fetch_made, store

PLAN_SECONDS = 0.3
GIVEN_UP_SECONDS = 2.0


class Plans(StepHandler):
    """Adds steps behind itself; their names say by which attempt."""

    def finish(self) -> Made:
        with self.attempt.phase("plan"):
            self.attempt.wait(PLAN_SECONDS)
        return Made([], {}, hosted(f"{self.claim.step.attempt} "))


class Fails(StepHandler):
    def finish(self) -> Made:
        raise EngineFailed("it fails each time")


class HostedClip(Hosted):
    """What the provider makes of a clip is that clip."""

    at_once = 4
    time_limit = HOSTED_SECONDS

    def fetch(self, handle: dict[str, Any]) -> Made:
        made = self.claim.needs[0]
        video = fetch_made(made, "video", self.context.folder / "video.mp4", self.context)
        return Made(store([video], self.context), made.receipt | handle)


def main() -> None:
    Hosted.url = sys.argv[1]
    NET_KINDS["hosted"] = HostedClip
    STEP_KINDS.update(plans=Plans, fails=Fails)
    worker.run.net_lane.CHECK_POINT_SECONDS = GIVEN_UP_SECONDS
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
