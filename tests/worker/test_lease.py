import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from core.errors import LedgerUnavailable
from core.ledger.moves import Ledger
from core.task import Claim
from harness.servers import wait_until
from tests.conftest import expire_leases, new_task
from worker.attempt import Attempt, Stopped
from worker.run.lease import Lease


@pytest.fixture
def claim(ledger: Ledger) -> Claim:
    ((step_id, _),) = ledger.create(new_task())
    claim = ledger.claim(step_id, "w1", 1.0)
    assert claim is not None
    return claim


def wait_for_stop(attempt: Attempt) -> None:
    def stopped() -> bool:
        try:
            attempt.check()
        except Stopped:
            return True
        return False

    wait_until(stopped, what="the stop")


def test_a_lease_is_kept_for_longer_than_its_length(ledger: Ledger, claim: Claim) -> None:
    attempt = Attempt()
    with Lease(ledger, claim, attempt, 1.0):
        time.sleep(1.6)
        assert expire_leases(ledger, 3) == []
        attempt.check()


def test_the_lease_carries_progress_and_phase(ledger: Ledger, claim: Claim) -> None:
    attempt = Attempt({"denoise": 1.0})

    def written() -> bool:
        _, (step,) = ledger.task_with_steps(claim.task.task_id)
        return (step.progress, step.phase) == (50, "denoise")

    with Lease(ledger, claim, attempt, 10.0), attempt.phase("denoise"):
        attempt.advance(1, 2)
        wait_until(written, what="the progress")
    assert written()


def test_canceling_the_task_stops_the_attempt(ledger: Ledger, claim: Claim) -> None:
    attempt = Attempt()
    with Lease(ledger, claim, attempt, 10.0):
        ledger.cancel(claim.task.task_id)
        wait_for_stop(attempt)
    assert attempt.is_stopped


def test_an_attempt_stops_by_itself_when_the_ledger_is_away_for_longer_than_the_lease(
    ledger: Ledger, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def away(*_: object) -> bool:
        tried.set()
        raise LedgerUnavailable("away")

    monkeypatch.setattr(ledger, "renew", away)
    attempt = Attempt()
    with Lease(ledger, claim, attempt, 1.2):
        assert tried.wait(5)
        attempt.check()  # the first failure is forgiven
        wait_for_stop(attempt)


def test_a_renewal_that_fails_as_nobody_expected_stops_the_attempt(
    ledger: Ledger, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(ledger, "renew", broken)
    attempt = Attempt()
    with Lease(ledger, claim, attempt, 60.0):
        wait_for_stop(attempt)
    assert attempt.is_stopped


def test_a_lease_lasts_from_when_its_renewal_was_asked_for(
    ledger: Ledger, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("worker.run.lease.time", SimpleNamespace(monotonic=lambda: clock.now))
    lease, renew = Lease(ledger, claim, Attempt(), 10.0), ledger.renew

    def slowly(*given: Any) -> bool:
        clock.now += 8
        return renew(*given)

    def away(*_: object) -> bool:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(ledger, "renew", slowly)
    assert lease._renew()
    monkeypatch.setattr(ledger, "renew", away)
    clock.now = 109.0
    assert lease._renew(), "it is held still"
    clock.now = 111.0
    assert not lease._renew()
