"""Puts what an attempt shows where the API server finds it, in a thread of its own: neither the encoder nor a Redis
that is frozen holds up the rendering, and what goes wrong here costs the preview only."""

import threading
from collections.abc import Callable

import structlog

from core.live_previews import LivePreviews
from worker.attempt import Attempt

LOOK_SECONDS = 0.1
PAUSE_SECONDS = 1.0  # between two previews

log = structlog.get_logger(__name__)


class PreviewPublisher:
    """`with PreviewPublisher(...)`: publishes the newest preview offered, at most once a second. Deletes it at the
    end."""

    def __init__(self, previews: LivePreviews, task_id: str, attempt: Attempt) -> None:
        self.previews, self.task_id, self.attempt = previews, task_id, attempt
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"previews-{task_id}", daemon=True)

    def __enter__(self) -> "PreviewPublisher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # the next step does not wait for the last preview

    def _keep(self) -> None:
        seconds, has_put = LOOK_SECONDS, False
        while not (self._ended.wait(seconds) or self.attempt.is_stopped):
            make = self.attempt.pop_preview()
            if make:
                self._put(make)
                has_put = True
            seconds = PAUSE_SECONDS if make else LOOK_SECONDS
        if has_put:
            self.previews.delete(self.task_id)

    def _put(self, make: Callable[[], bytes]) -> None:
        try:
            self.previews.put(self.task_id, make())
        except Exception:
            log.exception("preview_not_made")
