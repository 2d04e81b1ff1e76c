"""A short run of scripts/fuzz. docs/security.md has the figures of a long one; tests/long goes without keys too."""

import os
from pathlib import Path

from core.ledger.moves import Ledger
from core.task import ErrorInfo
from fuzz.__main__ import failed_tasks, fuzz_routes, row
from tests.conftest import new_task

# Without `coverage`, whose thousands of cases take most of the time: they are for tests/long.
QUICK = ("examples", "fuzzing", "stateful")
SEED = int(os.environ.get("FUZZ_SEED", "1"))  # .ci/run draws one


def test_no_request_breaks_the_service_or_is_answered_as_the_document_does_not_say(tmp_path: Path) -> None:
    found = row("", fuzz_routes(tmp_path / "stack", examples=6, seed=SEED, with_keys=True, phases=QUICK))
    assert found["cases"] > 300
    assert found["operations"] == 42, "all that the document has but the stream of events"
    assert found["finished tasks"] >= 3, "hardly a request came as far as a worker"
    assert found["all failures"] == 0, f"what failed is printed above; FUZZ_SEED={SEED} repeats it"


def test_a_failed_task_is_seen_also_where_a_request_deleted_it(ledger: Ledger) -> None:
    assert failed_tasks(ledger) == []
    task = new_task()
    ((step_id, _),) = ledger.create(task)
    claim = ledger.claim(step_id, "w", 60)
    assert claim is not None
    ledger.fail(claim, ErrorInfo("internal_error", "it crashed"))
    (told,) = failed_tasks(ledger)
    assert task.task_id in told
    ledger.mark_deleted(task.task_id)
    assert failed_tasks(ledger) == ["tasks that failed and were deleted since: 1"]
