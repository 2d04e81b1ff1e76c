"""Callbacks from the ledger to a real receiver, which verifies each with the `standardwebhooks` library."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from structlog.testing import capture_logs

from core.callbacks.deliveries import RETRY_SECONDS, Delivery, DeliveryStatus
from core.callbacks.endpoints import FINAL_EVENTS, CallbackEvent
from core.config.settings import Settings
from core.db.tables import tasks
from core.ledger.moves import Ledger
from core.links import opens
from core.status import Status
from core.task import Callback, Dialect, ErrorInfo
from harness.hostile import PRIVATE, PUBLIC, Host, Resolver, answered, hosting, pretend_public, tls_pair
from harness.receiver import Receiver, receiving
from harness.servers import free_port, wait_until
from keeper.deliverer import AT_ONCE_PER, Deliverer
from tests.conftest import new_task


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keeper.deliverer.LOOK_SECONDS", 0.02)


SETTINGS = Settings(_env_file=None, public_url="https://video.example.com/")


def allow(deliverer: Deliverer, *places: str) -> None:
    """Have FETCH_ALLOW name them too."""
    allowed = ",".join([deliverer.settings.fetch_allow, *places])
    deliverer.settings = deliverer.settings.model_copy(update={"fetch_allow": allowed})


@pytest.fixture
def deliverer(ledger: Ledger) -> Iterator[Deliverer]:
    ended = threading.Event()
    thread = (deliverer := Deliverer(ledger, SETTINGS)).start(ended)
    yield deliverer
    ended.set()
    thread.join(10)
    assert not thread.is_alive()


@contextmanager
def allowed(deliverer: Deliverer, **answers: Any) -> Iterator[Receiver]:
    """A receiver on this machine that FETCH_ALLOW names."""
    with receiving(deliverer.endpoints.secret(""), **answers) as receiver:
        allow(deliverer, urlsplit(receiver.url).netloc)
        yield receiver


def canceled_task(ledger: Ledger, url: str, events: list[str] | None = None) -> str:
    ledger.create(new := new_task(callback=Callback(url, events or list(FINAL_EVENTS))))
    ledger.cancel(new.task_id)
    return new.task_id


def deliveries_of(ledger: Ledger, task_id: str) -> list[Delivery]:
    return ledger.deliveries.page("", status=None, task_id=task_id, after=None, limit=100)


def wait_for_status(ledger: Ledger, task_id: str, status: DeliveryStatus) -> Delivery:
    wait_until(lambda: deliveries_of(ledger, task_id)[0].status == status, what=f"a delivery that is {status}")
    return deliveries_of(ledger, task_id)[0]


def test_a_callback_says_how_the_task_ended(ledger: Ledger, deliverer: Deliverer) -> None:
    with allowed(deliverer) as receiver, capture_logs() as logs:
        ((step_id, _),) = ledger.create(new := new_task(callback=Callback(receiver.url, list(FINAL_EVENTS))))
        claim = ledger.claim(step_id, "w", 60)
        assert claim is not None
        ledger.fail(claim, ErrorInfo("engine_failed", "it broke"))
        delivery = wait_for_status(ledger, new.task_id, DeliveryStatus.DELIVERED)
        (received,) = receiver.received
        wait_until(lambda: bool(logs), what="a line in the log")
    assert logs[0]["event"] == "callback_tried"
    assert received.delivery_id == delivery.delivery_id
    assert received.body["type"] == "task.failed"
    data = received.body["data"]
    assert data["task_id"] == new.task_id
    assert data["status"] == "failed"
    assert data["error"] == {"code": "engine_failed", "message": "it broke"}
    assert data["result_url"] == f"https://video.example.com/results/{new.task_id}"
    assert (delivery.tries, delivery.http_status, delivery.error) == (1, 200, None)


def test_openais_dialect_is_told_of_the_end_in_its_own_words(ledger: Ledger, deliverer: Deliverer) -> None:
    with allowed(deliverer) as receiver:
        ledger.endpoints.register("", receiver.url, list(CallbackEvent))
        new = replace(new_task(), dialect=Dialect.OPENAI)
        ((step_id, _),) = ledger.create(new)
        claim = ledger.claim(step_id, "w", 60)
        assert claim is not None
        ledger.renew(claim, 60, 50, "render")  # which it has no event for
        ledger.finish(claim, {}, {}, {})
        delivery = wait_for_status(ledger, new.task_id, DeliveryStatus.DELIVERED)
        (received,) = receiver.received
    assert received.body == {
        "id": f"evt_{delivery.delivery_id}",
        "object": "event",
        "created_at": int(delivery.created_at),
        "type": "video.completed",
        "data": {"id": new.task_id},
    }


def test_replicates_dialect_is_told_the_prompt_that_only_the_task_keeps(ledger: Ledger, deliverer: Deliverer) -> None:
    with allowed(deliverer) as receiver:
        callback = Callback(receiver.url, list(FINAL_EVENTS))
        new = replace(new_task(callback=callback), dialect=Dialect.REPLICATE, params={"prompt": "a cat", "seed": 7})
        ledger.create(new)
        ledger.cancel(new.task_id)
        delivery = wait_for_status(ledger, new.task_id, DeliveryStatus.DELIVERED)
        (received,) = receiver.received
    assert received.body["input"] == {"prompt": "a cat", "seed": 7}
    assert delivery.data["prediction"]["input"] == {"seed": 7}


@pytest.mark.parametrize("how", ["failed", "canceled"])
def test_openais_dialect_calls_a_task_without_a_video_failed(ledger: Ledger, how: str) -> None:
    ledger.endpoints.register("", "https://example.com/", list(FINAL_EVENTS))
    new = replace(new_task(), dialect=Dialect.OPENAI)
    ((step_id, _),) = ledger.create(new)
    claim = ledger.claim(step_id, "w", 60)
    assert claim is not None
    if how == "failed":
        ledger.fail(claim, ErrorInfo("engine_failed", "it broke"))
    else:
        ledger.cancel(new.task_id)
    assert [delivery.event for delivery in deliveries_of(ledger, new.task_id)] == ["video.failed"]


def test_where_keys_are_asked_for_a_callback_links_to_the_video(ledger: Ledger, deliverer: Deliverer) -> None:
    owner = ledger.keys.create("ann")[0].key_id
    with receiving(deliverer.endpoints.secret(owner)) as receiver:
        allow(deliverer, urlsplit(receiver.url).netloc)
        ledger.create(new := replace(new_task(callback=Callback(receiver.url, list(FINAL_EVENTS))), owner=owner))
        ledger.cancel(new.task_id)
        told = {"status": DeliveryStatus.DELIVERED, "task_id": None, "after": None, "limit": 1}
        wait_until(lambda: bool(ledger.deliveries.page(owner, **told)), what="the callback")
    link = urlsplit(receiver.received[0].body["data"]["result_url"])
    query = dict(parse_qsl(link.query))
    assert (link.netloc, link.path) == ("video.example.com", f"/results/{new.task_id}")
    assert opens(link.path, query["expires"], query["signature"], ledger.keys.link_secret)


def test_a_dialect_of_a_newer_version_is_told_as_any_other(ledger: Ledger) -> None:
    task = replace(new_task(), callback=Callback("https://told.example/", [CallbackEvent.CANCELED]))
    ledger.create(task)
    with ledger.database.begin() as tx:
        tx.execute(tasks.update().values(dialect="newer"))
    ledger.cancel(task.task_id)
    (delivery,) = ledger.deliveries.due(10)
    assert (delivery.event, delivery.data["task_id"]) == ("task.canceled", task.task_id)


def test_start_and_progress_are_told_on_request(ledger: Ledger) -> None:
    ledger.create(quiet := new_task(callback=Callback("http://a/", list(FINAL_EVENTS))))
    ((step_id, _),) = ledger.create(new := new_task(callback=Callback("http://a/", list(CallbackEvent))))
    claim = ledger.claim(step_id, "w", 60)
    assert claim is not None
    for progress in (5, 12, 15, 31, 31):
        ledger.renew(claim, 60, progress, "denoise")
    ledger.finish(claim, {}, {}, {})
    told = [(found.event, found.data["progress"]) for found in reversed(deliveries_of(ledger, new.task_id))]
    assert told == [("task.started", 0), ("task.progress", 12), ("task.progress", 31), ("task.finished", 100)]
    assert deliveries_of(ledger, quiet.task_id) == []


def test_a_registered_endpoint_is_told_of_every_task_of_its_owner(ledger: Ledger) -> None:
    endpoint = ledger.endpoints.register("", "http://mine/", ["task.canceled"])
    ledger.endpoints.register("another", "http://theirs/", ["task.canceled"])
    ledger.endpoints.register("", "http://mine/failures", ["task.failed"])
    (delivery,) = deliveries_of(ledger, canceled_task(ledger, "http://own/", ["task.failed"]))
    assert (delivery.url, delivery.endpoint_id) == ("http://mine/", endpoint.endpoint_id)


def test_a_url_named_twice_is_told_once(ledger: Ledger) -> None:
    ledger.endpoints.register("", "http://mine/", list(FINAL_EVENTS))
    assert len(deliveries_of(ledger, canceled_task(ledger, "http://mine/"))) == 1


@pytest.mark.parametrize("status", [301, 302, 404, 500])
def test_what_is_no_success_is_tried_again_with_the_same_id(
    ledger: Ledger, deliverer: Deliverer, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.callbacks.deliveries.RETRY_SECONDS", (1.1, 1.1))
    with allowed(deliverer, status=status) as receiver:
        task_id = canceled_task(ledger, receiver.url)
        wait_until(lambda: deliveries_of(ledger, task_id)[0].tries == 1, what="the first try")
        receiver.status = 204
        delivery = wait_for_status(ledger, task_id, DeliveryStatus.DELIVERED)
    first, second = receiver.received
    assert first.delivery_id == second.delivery_id == delivery.delivery_id
    assert first.body == second.body
    assert first.timestamp < second.timestamp, "a fresh timestamp at each try"
    assert (delivery.tries, delivery.http_status) == (2, 204)


def test_after_its_last_try_a_delivery_is_dead_and_can_be_redelivered(
    ledger: Ledger, deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.callbacks.deliveries.RETRY_SECONDS", (0.05, 0.05))
    with allowed(deliverer, status=500) as receiver:
        task_id = canceled_task(ledger, receiver.url)
        dead = wait_for_status(ledger, task_id, DeliveryStatus.DEAD)
        assert (dead.tries, dead.http_status, dead.error) == (3, 500, "it answered 500")
        assert ledger.deliveries.waiting() == {DeliveryStatus.PENDING: 0, DeliveryStatus.DEAD: 1}
        receiver.status = 200
        ledger.deliveries.redeliver("", dead.delivery_id)
        assert wait_for_status(ledger, task_id, DeliveryStatus.DELIVERED).tries == 1
        assert len({received.delivery_id for received in receiver.received}) == 1


def test_the_pauses_are_those_of_standard_webhooks_and_end_after_three_days(ledger: Ledger) -> None:
    assert [round(pause / 60, 2) for pause in RETRY_SECONDS] == [0.08, 5, 30, 120, 300, 600, 840, 1200, 1440]
    task_id = canceled_task(ledger, "http://a/")
    for number, pause in enumerate(RETRY_SECONDS, start=1):
        (delivery,) = deliveries_of(ledger, task_id)
        ledger.deliveries.missed(delivery, None, "no answer", jitter=1)
        (delivery,) = deliveries_of(ledger, task_id)
        assert delivery.tries == number
        assert delivery.next_try_at is not None
        assert delivery.next_try_at - time.time() == pytest.approx(1.1 * pause, abs=2)
    ledger.deliveries.missed(delivery, None, "no answer", jitter=0)
    assert deliveries_of(ledger, task_id)[0].status == DeliveryStatus.DEAD


def test_an_endpoint_that_is_gone_is_switched_off(ledger: Ledger, deliverer: Deliverer) -> None:
    with allowed(deliverer, status=410) as receiver:
        ledger.endpoints.register("", receiver.url, list(FINAL_EVENTS))
        ledger.create(first := new_task())
        ledger.cancel(first.task_id)
        wait_for_status(ledger, first.task_id, DeliveryStatus.DEAD)
        wait_until(lambda: ledger.endpoints.all("")[0].disabled_at is not None, what="the endpoint switched off")
        ledger.create(second := new_task())
        ledger.cancel(second.task_id)
        assert deliveries_of(ledger, second.task_id) == []
        ledger.endpoints.register("", receiver.url, list(FINAL_EVENTS))
        assert ledger.endpoints.all("")[0].disabled_at is None, "registering it again switches it on"


def test_a_slow_endpoint_holds_up_no_other(ledger: Ledger, deliverer: Deliverer) -> None:
    with allowed(deliverer, delay=30) as slow, allowed(deliverer) as quick:
        for _ in range(50):
            canceled_task(ledger, slow.url)
        last = canceled_task(ledger, quick.url)
        wait_for_status(ledger, last, DeliveryStatus.DELIVERED)
        assert len(slow.received) <= 4


@pytest.mark.parametrize("path", ["/slow", "/slow?task={}", "/slow/{}"])
def test_a_slow_path_holds_up_no_other_of_its_host(ledger: Ledger, deliverer: Deliverer, path: str) -> None:
    with allowed(deliverer, delay=30, slow="/slow") as receiver:
        for number in range(12):
            canceled_task(ledger, receiver.url + path.format(number))
        for number in range(6):
            wait_for_status(ledger, canceled_task(ledger, f"{receiver.url}/quick/{number}"), DeliveryStatus.DELIVERED)
        slow = ledger.deliveries.page("", status=DeliveryStatus.PENDING, task_id=None, after=None, limit=100)
        assert [(each.tries, each.http_status) for each in slow] == [(0, None)] * 12, "none of them is over"


def test_a_host_of_many_slow_urls_holds_up_no_other_host(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, deliverer: Deliverer
) -> None:
    monkeypatch.setitem(AT_ONCE_PER, "host", 5)
    monkeypatch.setitem(AT_ONCE_PER, "owner", 6)
    with allowed(deliverer, delay=30) as slow, allowed(deliverer) as quick:
        for number in range(20):
            canceled_task(ledger, f"{slow.url}/{number}")
        wait_for_status(ledger, canceled_task(ledger, quick.url), DeliveryStatus.DELIVERED)
        assert len(slow.received) == 5


def test_a_place_that_falls_free_is_taken_without_another_look(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keeper.deliverer.LOOK_SECONDS", 3)  # five looks would take too long
    ended = threading.Event()
    with receiving(ledger.endpoints.secret("")) as receiver:
        tasks = [canceled_task(ledger, receiver.url) for _ in range(20)]
        settings = SETTINGS.model_copy(update={"fetch_allow": urlsplit(receiver.url).netloc})
        thread = Deliverer(ledger, settings).start(ended)
        wait_until(lambda: len(receiver.received) == len(tasks), 9, "all of them, four at a time")
        ended.set()
        thread.join(10)
    assert not thread.is_alive()


def test_a_host_that_does_not_answer_is_a_failed_try(ledger: Ledger, deliverer: Deliverer) -> None:
    allow(deliverer, place := f"127.0.0.1:{free_port()}")
    task_id = canceled_task(ledger, f"http://{place}/")
    wait_until(lambda: deliveries_of(ledger, task_id)[0].tries == 1, what="a failed try")
    (delivery,) = deliveries_of(ledger, task_id)
    assert delivery.http_status is None
    assert delivery.error


def test_an_answer_that_takes_too_long_is_a_failed_try(
    ledger: Ledger, deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keeper.deliverer.TRY_TIMEOUT_SECONDS", 0.3)
    with allowed(deliverer, delay=5) as receiver:
        task_id = canceled_task(ledger, receiver.url)
        wait_until(lambda: deliveries_of(ledger, task_id)[0].tries == 1, what="a failed try")
    assert deliveries_of(ledger, task_id)[0].error == "no answer within 0.3 s"


def test_of_two_keepers_one_takes_a_delivery_and_a_lost_try_is_made_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    canceled_task(ledger, "http://a/")
    (delivery,) = ledger.deliveries.due(10)
    first, second = [ledger.deliveries.take(delivery.delivery_id) for _ in range(2)]
    assert first is not None
    assert second is None
    assert ledger.deliveries.due(10) == []
    ledger.deliveries.redeliver("", delivery.delivery_id)
    monkeypatch.setattr("core.callbacks.deliveries.TRY_SECONDS", -1.0)  # the keeper died in its try
    ledger.deliveries.take(delivery.delivery_id)
    assert [found.delivery_id for found in ledger.deliveries.due(10)] == [delivery.delivery_id]


def test_an_answer_to_a_try_from_before_a_redelivery_changes_nothing(ledger: Ledger) -> None:
    task_id = canceled_task(ledger, "http://a/")
    old = ledger.deliveries.take(deliveries_of(ledger, task_id)[0].delivery_id)
    assert old is not None
    ledger.deliveries.redeliver("", old.delivery_id)
    ledger.deliveries.missed(old, 500, "it answered 500", jitter=0)
    (delivery,) = ledger.deliveries.due(10)
    assert (delivery.tries, delivery.error) == (0, None)


def test_a_resolver_that_hangs_holds_up_no_other_host(
    ledger: Ledger, deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, released = socket.getaddrinfo, threading.Event()

    def hangs(host: Any, *given: Any, **named: Any) -> Any:
        if b"slow" in (host if isinstance(host, bytes) else str(host).encode()):
            released.wait(30)
            raise socket.gaierror("nobody answers")
        return resolve(host, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    with allowed(deliverer) as receiver:
        for number in range(12):
            canceled_task(ledger, f"https://slow{number}.example/")
        last = canceled_task(ledger, receiver.url)
        wait_for_status(ledger, last, DeliveryStatus.DELIVERED)
        assert not released.is_set()
        released.set()


def test_an_endpoint_may_be_removed_while_something_is_told_there(ledger: Ledger) -> None:
    for _ in range(20):
        endpoint = ledger.endpoints.register("", "http://mine/", list(FINAL_EVENTS))
        ((step_id, _),) = ledger.create(new := new_task())
        claim = ledger.claim(step_id, "w", 60)
        assert claim is not None
        moves = [
            lambda c=claim: ledger.finish(c, {}, {}, {}),
            lambda e=endpoint: ledger.endpoints.remove("", e.endpoint_id),
        ]
        with ThreadPoolExecutor() as pool:
            for move in [pool.submit(move) for move in moves]:
                move.result()
        assert ledger.task(new.task_id).status == Status.FINISHED


def test_renewing_with_progress_and_canceling_at_once_is_no_deadlock(ledger: Ledger) -> None:
    for _ in range(20):
        ((step_id, _),) = ledger.create(new := new_task(callback=Callback("http://a/", list(CallbackEvent))))
        claim = ledger.claim(step_id, "w", 60)
        assert claim is not None
        moves = [lambda c=claim: ledger.renew(c, 60, 50, "denoise"), lambda t=new.task_id: ledger.cancel(t)]
        with ThreadPoolExecutor() as pool:
            for move in [pool.submit(move) for move in moves]:
                move.result()
        assert ledger.task(new.task_id).status == Status.CANCELED


def test_old_deliveries_are_forgotten_and_pending_ones_never(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, pending = canceled_task(ledger, "http://a/"), canceled_task(ledger, "http://b/")
    ledger.deliveries.arrived(deliveries_of(ledger, ended)[0], 200)
    monkeypatch.setattr("core.callbacks.deliveries.FORGOTTEN_SECONDS", -1.0)
    ledger.deliveries.forget_old()
    assert deliveries_of(ledger, ended) == []
    assert len(deliveries_of(ledger, pending)) == 1


def test_canceling_and_finishing_at_once_tells_one_end(ledger: Ledger) -> None:
    for _ in range(10):
        ((step_id, _),) = ledger.create(new := new_task(callback=Callback("http://a/", list(FINAL_EVENTS))))
        claim = ledger.claim(step_id, "w", 60)
        assert claim is not None
        moves = [lambda c=claim: ledger.finish(c, {}, {}, {}), lambda t=new.task_id: ledger.cancel(t)]
        threads = [threading.Thread(target=move) for move in moves]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (delivery,) = deliveries_of(ledger, new.task_id)
        assert delivery.event == f"task.{ledger.task(new.task_id).status}"


def secure_hosts(deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch, folder: Path, stack: ExitStack) -> list[Host]:
    """One that counts as public and one within, on one port, both with a certificate for hooks.example."""
    shown, deliverer._tls = tls_pair(folder, "hooks.example")
    outer = stack.enter_context(hosting(answered(b"", "500 Later"), PUBLIC, tls=shown))
    inner = stack.enter_context(hosting(answered(b""), PRIVATE, outer.port, tls=shown))
    pretend_public(monkeypatch, outer.port)
    return [outer, inner]


def test_a_name_is_judged_anew_at_each_try(
    ledger: Ledger, deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("core.callbacks.deliveries.RETRY_SECONDS", (0.05,))
    with ExitStack() as stack:
        outer, inner = secure_hosts(deliverer, monkeypatch, tmp_path, stack)
        resolver = Resolver(monkeypatch, [PUBLIC], [PRIVATE])
        task_id = canceled_task(ledger, f"https://hooks.example:{outer.port}/")
        delivery = wait_for_status(ledger, task_id, DeliveryStatus.DEAD)
        assert resolver.asked == ["hooks.example"] * 2, "once for each try"
        assert (len(outer.requests), inner.requests) == (1, [])
    assert f"host: hooks.example:{outer.port}\r\n" in outer.requests[0].lower()
    assert (delivery.tries, delivery.http_status) == (2, None)
    assert delivery.error == (
        "the URL must not lead to hooks.example: only public addresses are allowed, and what FETCH_ALLOW names"
    )


def test_a_connection_made_for_one_name_carries_nothing_for_another(
    ledger: Ledger, deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        outer, _ = secure_hosts(deliverer, monkeypatch, tmp_path, stack)
        Resolver(monkeypatch, [PUBLIC])
        for name, status in (("hooks.example", 500), ("other.example", None)):
            task_id = canceled_task(ledger, f"https://{name}:{outer.port}/")
            wait_until(lambda task_id=task_id: deliveries_of(ledger, task_id)[0].tries == 1, what="a failed try")
            assert deliveries_of(ledger, task_id)[0].http_status == status
        assert len(outer.requests) == 1, "its certificate is not one for the other name"


@pytest.mark.parametrize("answer", [[], ["no address"]])
def test_a_name_without_an_address_is_a_failed_try(
    ledger: Ledger, deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch, answer: list[str]
) -> None:
    Resolver(monkeypatch, answer)
    task_id = canceled_task(ledger, "https://empty.example/")
    wait_until(lambda: deliveries_of(ledger, task_id)[0].tries == 1, what="a failed try")
    assert deliveries_of(ledger, task_id)[0].error == "its host has no address"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("https://127.0.0.1/", "the URL must not lead to 127.0.0.1"),
        ("https://①②⑦.1/", "the URL must not lead to 127.0.0.1"),
        ("https://[64:ff9b::a00:1]/", "the URL must not lead to 64:ff9b::a00:1"),
        ("https://10.0.0.1/", "the URL must not lead to 10.0.0.1"),
        ("https://1.1.1.1:6379/", "the URL must have the port 80 or 443, or be in FETCH_ALLOW; got 6379"),
        ("http://1.1.1.1/", "the URL must begin with https://"),
        ("gopher://1.1.1.1/", "the URL must be a URL that begins with http:// or https://"),
    ],
)
def test_a_place_where_no_callback_may_go_is_a_failed_try(
    ledger: Ledger, deliverer: Deliverer, url: str, error: str
) -> None:
    task_id = canceled_task(ledger, url)
    wait_until(lambda: deliveries_of(ledger, task_id)[0].tries == 1, what="a failed try")
    (delivery,) = deliveries_of(ledger, task_id)
    assert (delivery.status, delivery.http_status) == (DeliveryStatus.PENDING, None)
    assert str(delivery.error).startswith(error)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_redirect_of_a_callback_is_not_followed(ledger: Ledger, deliverer: Deliverer, address: str) -> None:
    with ExitStack() as stack:
        inner = stack.enter_context(hosting(answered(b""), address))
        outer = stack.enter_context(hosting(answered(b"", "307 Temporary", location=inner.url), address))
        allow(deliverer, outer.netloc, inner.netloc)
        task_id = canceled_task(ledger, outer.url)
        wait_until(lambda: deliveries_of(ledger, task_id)[0].tries == 1, what="a failed try")
        assert deliveries_of(ledger, task_id)[0].error == "it answered 307"
        assert (len(outer.requests), inner.requests) == (1, [])


def test_an_owner_of_many_slow_hosts_holds_up_no_other(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, deliverer: Deliverer
) -> None:
    monkeypatch.setattr("keeper.deliverer.AT_ONCE", 8)
    monkeypatch.setitem(AT_ONCE_PER, "owner", 6)
    with ExitStack() as stack:
        slow = [stack.enter_context(hosting(lambda connection: time.sleep(30))) for _ in range(20)]
        quick = stack.enter_context(hosting(answered(b"")))
        allow(deliverer, *(host.netloc for host in (*slow, quick)))
        for host in slow:
            canceled_task(ledger, host.url)
        wait_until(lambda: sum(len(host.requests) for host in slow) == 6, what="six tries under way")
        theirs = replace(new_task(callback=Callback(quick.url, list(FINAL_EVENTS))), owner="another")
        ledger.create(theirs)
        ledger.cancel(theirs.task_id)
        wait_until(lambda: bool(quick.requests), what="the other owner's callback")
        assert sum(len(host.requests) for host in slow) == 6


def test_more_is_told_than_may_be_at_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, deliverer: Deliverer
) -> None:
    monkeypatch.setitem(AT_ONCE_PER, "owner", 2)
    with allowed(deliverer) as receiver:
        tasks = [canceled_task(ledger, receiver.url) for _ in range(9)]
        for task_id in tasks:
            wait_for_status(ledger, task_id, DeliveryStatus.DELIVERED)
        assert sorted(found.body["data"]["task_id"] for found in receiver.received) == sorted(tasks)


def test_what_waits_for_an_endpoint_that_is_gone_is_not_tried(ledger: Ledger) -> None:
    gone, other = (ledger.endpoints.register("", f"http://{name}/", list(FINAL_EVENTS)) for name in ("gone", "other"))
    tasks = [canceled_task(ledger, "http://own/") for _ in range(2)]
    first = next(told for told in deliveries_of(ledger, tasks[0]) if told.endpoint_id == gone.endpoint_id)
    ledger.deliveries.gone(first, 410, "it answered 410")
    waiting = {told.endpoint_id: told for told in deliveries_of(ledger, tasks[1])}
    assert (waiting[gone.endpoint_id].status, waiting[gone.endpoint_id].next_try_at) == (DeliveryStatus.DEAD, None)
    assert waiting[other.endpoint_id].status == waiting[None].status == DeliveryStatus.PENDING


def test_the_callbacks_of_a_revoked_key_have_no_link_that_opens(ledger: Ledger, deliverer: Deliverer) -> None:
    owner = ledger.keys.create("ann")[0].key_id
    ledger.keys.revoke("ann")
    with receiving(deliverer.endpoints.secret(owner)) as receiver:
        allow(deliverer, urlsplit(receiver.url).netloc)
        ledger.create(new := replace(new_task(callback=Callback(receiver.url, list(FINAL_EVENTS))), owner=owner))
        ledger.cancel(new.task_id)
        wait_until(lambda: bool(receiver.received), what="the callback")
    assert receiver.received[0].body["data"]["result_url"] == f"https://video.example.com/results/{new.task_id}"


def test_what_has_been_due_for_longest_is_told_first(ledger: Ledger) -> None:
    tasks = [canceled_task(ledger, f"http://{name}/") for name in "abc"]
    with ledger.database.begin() as tx:
        for late, task_id in enumerate(reversed(tasks)):
            tx.exec_driver_sql(f"UPDATE deliveries SET next_try_at = next_try_at - {late} WHERE task_id = '{task_id}'")
    assert [delivery.task_id for delivery in ledger.deliveries.due(2)] == tasks[:2]
