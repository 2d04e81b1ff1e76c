"""What an attempt shows, and what that may never cost it."""

import threading
from collections.abc import Callable, Iterator

import pytest

from core.config.settings import Settings
from core.live_previews import LivePreviews
from core.queue import StepQueue
from harness.proxy import proxy_to
from harness.servers import RedisServer, wait_until
from worker.attempt import Attempt
from worker.run import preview_publisher
from worker.run.preview_publisher import PreviewPublisher


@pytest.fixture
def previews(settings: Settings) -> Iterator[LivePreviews]:
    queue = StepQueue(settings)
    yield LivePreviews(queue.redis)
    queue.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_publisher, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(preview_publisher, "PAUSE_SECONDS", 0.02)


def number_of(previews: LivePreviews) -> int:
    return previews.numbers_of(["t"]).get("t", 0)


def ended(publisher: PreviewPublisher) -> Callable[[], bool]:
    return lambda: not publisher._thread.is_alive()


def test_what_is_offered_can_be_had_while_the_attempt_runs_and_not_after(
    previews: LivePreviews, redis_server: RedisServer
) -> None:
    attempt = Attempt()
    with PreviewPublisher(previews, "t", attempt) as running:
        attempt.offer_preview(lambda: b"first")
        wait_until(lambda: number_of(previews) == 1)
        attempt.offer_preview(lambda: b"second")
        wait_until(lambda: number_of(previews) == 2)
        assert previews.get("t") == (2, b"second")
    wait_until(ended(running))
    assert redis_server.client.keys("kinora:preview*") == []


def test_of_several_only_the_newest_is_made(previews: LivePreviews) -> None:
    attempt, made = Attempt(), []

    def make(name: bytes) -> bytes:
        made.append(name)
        return name

    for name in (b"old", b"older", b"new"):
        attempt.offer_preview(lambda name=name: make(name))
    with PreviewPublisher(previews, "t", attempt):
        wait_until(lambda: number_of(previews) == 1)
    assert made == [b"new"]


def test_making_happens_elsewhere_than_rendering(previews: LivePreviews) -> None:
    attempt, makers = Attempt(), []
    with PreviewPublisher(previews, "t", attempt):
        attempt.offer_preview(lambda: makers.append(threading.current_thread()) or b"x")
        wait_until(lambda: number_of(previews) == 1)
    assert makers
    assert threading.current_thread() not in makers


def test_a_stopped_attempt_shows_nothing_more(previews: LivePreviews) -> None:
    attempt = Attempt()
    with PreviewPublisher(previews, "t", attempt) as running:
        attempt.stop()
        wait_until(ended(running))
        attempt.offer_preview(lambda: b"late")
    assert attempt.pop_preview() is not None
    assert number_of(previews) == 0


def test_a_preview_that_cannot_be_made_costs_only_itself(previews: LivePreviews) -> None:
    attempt = Attempt()
    with PreviewPublisher(previews, "t", attempt):
        attempt.offer_preview(lambda: bytes(1 // 0))
        wait_until(lambda: not attempt._offered)
        attempt.offer_preview(lambda: b"good")
        wait_until(lambda: number_of(previews) == 1)
        shown = previews.get("t")
    assert shown is not None
    assert shown.webp == b"good"


def test_a_frozen_redis_holds_up_nobody_who_renders(settings: Settings, redis_server: RedisServer) -> None:
    with proxy_to(redis_server.port) as proxy:
        queue = StepQueue(settings.model_copy(update={"redis_port": proxy.port}))
        attempt = Attempt()
        proxy.hang = True
        with PreviewPublisher(LivePreviews(queue.redis), "t", attempt) as running:
            attempt.offer_preview(lambda: b"x")
            wait_until(lambda: proxy.connections > 0)
            attempt.offer_preview(lambda: b"y")
        assert not ended(running)()  # it still waits, and nobody for it
        proxy.hang = False
        wait_until(ended(running))
        queue.close()
