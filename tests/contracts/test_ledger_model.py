"""Random moves of two workers, a keeper and a caller, against a model of what a task may be. On both databases."""

import shutil
import tempfile
import uuid
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.db.tables import events
from core.ledger.moves import Ledger
from core.status import FINAL, Status
from core.task import Claim, ErrorInfo
from tests.conftest import artifacts_at, empty_tables, expire_leases, new_task

MAX_ATTEMPTS = 4
MOST_TASKS = 4  # few, so that many moves meet on one
LEASE = 3600.0  # no step that another example left runs out meanwhile
BROKEN = ErrorInfo("engine_failed", "it broke")


@dataclass
class Model:
    """What the ledger should say of a task of one step."""

    task_id: str
    step_id: str
    status: Status = Status.QUEUED
    step: Status = Status.QUEUED
    attempt: int = 0
    lost: int = 0
    finals: list[Status] = field(default_factory=list)

    def may_write(self, claim: Claim) -> bool:
        return self.step == Status.STARTED and claim.step.attempt == self.attempt

    def end(self, status: Status) -> None:
        self.status = self.step = status
        self.finals.append(status)

    def lose(self) -> None:
        self.lost += 1
        if self.lost >= MAX_ATTEMPTS:
            self.end(Status.FAILED)
        else:
            self.step = Status.QUEUED


class LedgerMoves(RuleBasedStateMachine):
    tasks = Bundle("tasks")
    claims = Bundle("claims")
    url: str

    @initialize()
    def open(self) -> None:
        self.ledger = Ledger(self.url)
        self.ledger.migrate()
        self.models: list[Model] = []

    @precondition(lambda self: len(self.models) < MOST_TASKS)
    @rule(target=tasks)
    def create(self) -> Model:
        ((step_id, _),) = self.ledger.create(new := new_task())
        model = Model(new.task_id, step_id)
        self.models.append(model)
        return model

    @rule(target=claims, model=tasks, worker=st.sampled_from(["w1", "w2"]))
    def start(self, model: Model, worker: str):
        return self.claim(model, worker)

    def claim(self, model: Model, worker: str):
        claim = self.ledger.claim(model.step_id, worker, LEASE)
        assert (claim is not None) == (model.step == Status.QUEUED)
        if claim is None:
            return multiple()
        model.attempt += 1
        model.status = model.step = Status.STARTED
        assert claim.step.attempt == model.attempt
        return model, claim

    @rule(held=claims, progress=st.integers(0, 99))
    def renew(self, held: tuple[Model, Claim], progress: int) -> None:
        model, claim = held
        assert self.ledger.renew(claim, LEASE, progress, "denoise") == model.may_write(claim)

    @rule(held=claims)
    def finish(self, held: tuple[Model, Claim]) -> None:
        model, claim = held
        may = model.may_write(claim)
        assert (self.ledger.finish(claim, artifacts_at(video="k"), {}, {"render": 0.1}) is not None) == may
        if may:
            model.end(Status.FINISHED)

    @rule(held=claims)
    def fail(self, held: tuple[Model, Claim]) -> None:
        model, claim = held
        may = model.may_write(claim)
        assert self.ledger.fail(claim, BROKEN) == may
        if may:
            model.end(Status.FAILED)

    @rule(held=claims)
    def give_back(self, held: tuple[Model, Claim]) -> None:
        model, claim = held
        may = model.may_write(claim)
        assert self.ledger.give_back(claim) == may
        if may:
            model.step = Status.QUEUED

    @rule(held=claims)
    def lose(self, held: tuple[Model, Claim]) -> None:
        model, claim = held
        may = model.may_write(claim)
        assert self.ledger.lose(claim, BROKEN, MAX_ATTEMPTS) == may
        if may:
            model.lose()

    @rule(target=claims, held=claims)
    def take_over(self, held: tuple[Model, Claim]):
        """The move after which an old attempt still thinks that it may write."""
        self.fall_silent(*held)
        return self.claim(held[0], "w2")

    @rule(held=claims)
    def die(self, held: tuple[Model, Claim]) -> None:
        self.fall_silent(*held)

    def fall_silent(self, model: Model, claim: Claim) -> None:
        """The worker is silent for longer than its lease, and the keeper comes by."""
        may = model.may_write(claim)
        self.ledger.renew(claim, -1, 0, None)
        assert expire_leases(self.ledger, MAX_ATTEMPTS) == ([claim.step.step_id] if may else [])
        if may:
            model.lose()

    @rule(model=tasks)
    def cancel(self, model: Model) -> None:
        if model.status not in FINAL:
            model.end(Status.CANCELED)
        assert self.ledger.cancel(model.task_id).status == model.status

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        for model in self.models:
            task, (step,) = self.ledger.task_with_steps(model.task_id)
            # A task whose step went back to the queue has started all the same.
            assert (task.status, step.status, step.attempt) == (model.status, model.step, model.attempt)

    def teardown(self) -> None:
        with self.ledger.database.connect() as connection:
            for model in self.models:
                kinds = connection.execute(sa.select(events.c.kind).where(events.c.task_id == model.task_id)).scalars()
                assert [kind for kind in kinds if kind in FINAL] == model.finals, "one final event at most"
        self.ledger.close()


def play(backend: str, orders: int, request: pytest.FixtureRequest) -> int:
    """Try so many orders of moves, and return how many were played. Each move asserts what it must come to."""
    folder = tempfile.mkdtemp(prefix="kinora-model-")
    postgres = request.getfixturevalue("migrated_postgres_url") if backend == "postgresql" else None
    migrated = request.getfixturevalue("migrated_file")
    if postgres:
        empty_tables(postgres)  # of what other tests left

    class Moves(LedgerMoves):
        played = 0

        def teardown(self) -> None:
            super().teardown()
            Moves.played += 1

        @property
        def url(self) -> str:
            if postgres:
                return str(postgres)
            return f"sqlite:///{shutil.copy(migrated, f'{folder}/{uuid.uuid4().hex}.db')}"

    try:
        run_state_machine_as_test(
            Moves,
            settings=settings(
                max_examples=orders,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            ),
        )
    finally:
        shutil.rmtree(folder)
    return Moves.played


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_no_order_of_moves_breaks_a_promise(backend: str, request: pytest.FixtureRequest) -> None:
    assert play(backend, 30, request) >= 30  # tests/long plays ten times as many
