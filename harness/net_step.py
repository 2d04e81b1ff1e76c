"""A kind of step that harness/provider.py does. `python -m harness.net_step URL AT_ONCE --queue net`: a worker that
does so many of them at a time."""

import sys
from typing import Any, ClassVar

import httpx2

from core.errors import EngineFailed, NotTaken, Unavailable
from worker.main import main
from worker.run.net_lane import NET_KINDS
from worker.steps.base import Made
from worker.steps.net import NetStep
from worker.steps.store import store


class Hosted(NetStep):
    provider = "harness"
    poll_seconds = 0.1
    url: ClassVar[str]

    def submit(self) -> dict[str, Any]:
        return self._ask("POST", "/jobs", json={"step_id": self.claim.step.step_id, "attempt": self.claim.step.attempt})

    def poll(self, handle: dict[str, Any]) -> float | None:
        done = self._ask("GET", f"/jobs/{handle['job']}")["done"]
        return None if done >= 1 else float(done)

    def fetch(self, handle: dict[str, Any]) -> Made:
        video = self.context.folder / "video.mp4"
        video.write_text(handle["job"])
        return Made(store([video], self.context), {"job": handle["job"]})

    def cost(self, handle: dict[str, Any]) -> dict[str, Any] | None:
        return dict(self._ask("GET", f"/jobs/{handle['job']}")["price"])

    def _ask(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        try:
            answer = httpx2.request(method, self.url + path, timeout=3600, **given)
        except httpx2.HTTPError as error:
            raise Unavailable(f"the provider does not answer: {type(error).__name__}") from error
        if answer.status_code == 503:
            raise NotTaken("the provider refuses")
        if answer.status_code >= 500:
            raise Unavailable(f"the provider answered {answer.status_code}")
        if answer.status_code != 200:
            raise EngineFailed(f"the provider answered {answer.status_code}")
        return dict(answer.json())


if __name__ == "__main__":
    Hosted.url, Hosted.at_once = sys.argv.pop(1), int(sys.argv.pop(1))
    Hosted.poll_seconds = 2.0  # a hundred that ask ten times a second would take all cores
    NET_KINDS["hosted"] = Hosted
    main()
