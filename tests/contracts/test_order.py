"""Both databases serve the same steps in the same order, which is that of their tasks' turns."""

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import sqlalchemy as sa

from core.db.tables import steps, tasks
from core.ledger.moves import Ledger
from core.ledger.statements import NOW
from core.status import Status
from core.task import Claim, ErrorInfo, NewStep
from tests.conftest import empty_tables, new_task

ENGINES = (None, "svd", "svd-xt", "turbo")
MOVES = 120
A_TICK = 0.002  # SQLite's clock has milliseconds: two moves at one time could come in any order


def first_by_hand(ledger: Ledger, queue: str, loaded: list[str], defer_seconds: float) -> str | None:
    """Return the step whose turn it is, worked out from what the tasks say."""
    with ledger.database.connect() as connection:
        now = connection.execute(NOW).scalar_one()
        rows = connection.execute(
            sa.select(steps, tasks.c.created_at, tasks.c.claimed_at)
            .join(tasks, tasks.c.task_id == steps.c.task_id)
            .where(steps.c.queue == queue, steps.c.status == Status.QUEUED)
        ).all()

    def key(row: sa.Row[tuple[object, ...]]) -> tuple[bool, float, str, int]:
        gives_way = row.engine not in (None, *loaded) and row.ready_at > now - defer_seconds
        was_claimed = row.claimed_at is not None and row.claimed_at <= now
        return gives_way, row.claimed_at if was_claimed else row.created_at, row.task_id, row.position

    waiting = [row for row in rows if row.waits_for == 0 and row.rest_seconds <= 0]
    return min(waiting, key=key).step_id if waiting else None


class Mix:
    """Films and clips that are made, served, given back, lost, failed and canceled at random. What is done next
    depends on the seed and on what was served, so that two ledgers that serve alike are asked alike."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.random = ledger, Random(seed)
        self.numbers: dict[str, int] = {}
        self.running: list[Claim] = []
        self.resting: list[str] = []
        self.served: list[tuple[int, str, int]] = []

    def create(self) -> None:
        def step(name: str, *needs: str) -> NewStep:
            queue, engine = self.random.choice(["cpu", "gpu"]), self.random.choice(ENGINES)
            return NewStep("clip", queue, name=name, needs=needs, engine=engine, essential=self.random.random() < 0.5)

        shots = [step(f"shot-{number}") for number in range(self.random.choice([1, 1, 2, 5]))]
        shots[0] = replace(shots[0], reserved_weight=1.0)
        task = new_task(steps=[*shots, step("film", *(shot.name for shot in shots))])
        self.ledger.create(task)
        self.numbers[task.task_id] = len(self.numbers)

    def claim(self) -> None:
        queue, loaded = self.random.choice(["cpu", "gpu"]), self.random.sample(ENGINES[1:], self.random.randrange(3))
        asked = queue, [each for each in loaded if each], self.random.choice([0.0, 30.0])
        expected = first_by_hand(self.ledger, *asked)
        peeked = self.ledger.peek_next(*asked)
        claim = self.ledger.claim_next(asked[0], "w", 60, *asked[1:])
        assert (claim and claim.step.step_id) == expected
        assert (peeked and peeked[0].step_id) == expected
        if claim:
            self.running.append(claim)
            self.served.append((self.numbers[claim.task.task_id], claim.step.name, claim.step.attempt))

    def end(self) -> None:
        if not self.running:
            return
        claim = self.running.pop(self.random.randrange(len(self.running)))
        match self.random.randrange(8):
            case 0:
                self.ledger.give_back(claim)
            case 1 if self.ledger.give_back(claim, rest_seconds=60):
                self.resting.append(claim.step.step_id)
            case 2 if self.ledger.lose(claim, ErrorInfo("lost", "lost"), max_attempts=MOVES):
                self.resting.append(claim.step.step_id)
            case 3:
                self.ledger.fail(claim, ErrorInfo("failed", "failed"))
            case _:
                more = [NewStep("clip", "cpu", name="more")] if claim.step.reserved_weight else []
                self.ledger.finish(claim, [], {}, {}, more=more)

    def end_rest(self) -> None:
        if self.resting:
            ended = self.resting.pop(self.random.randrange(len(self.resting)))
            for rest in self.ledger.rests():
                if rest.step_id == ended:
                    self.ledger.end_rest(rest)

    def cancel(self) -> None:
        if self.numbers:
            self.ledger.cancel(self.random.choice(list(self.numbers)))

    def run(self) -> list[tuple[int, str, int]]:
        """Return what was served, in order: the task's number, the step's name, and which attempt it was."""
        moves = [self.create, self.claim, self.end, self.end_rest, self.cancel]
        for move in self.random.choices(moves, weights=[4, 8, 5, 2, 0.3], k=MOVES):
            move()
            time.sleep(A_TICK)
        return self.served


@pytest.mark.parametrize("seed", range(3))
def test_both_databases_serve_a_mix_in_the_same_order(
    seed: int, migrated_file: Path, migrated_postgres_url: str, tmp_path: Path
) -> None:
    shutil.copy(migrated_file, tmp_path / "kinora.db")
    empty_tables(migrated_postgres_url)
    served = []
    for url in (f"sqlite:///{tmp_path}/kinora.db", migrated_postgres_url):
        with closing(Ledger(url)) as ledger:
            served.append(Mix(ledger, seed).run())
    assert len(served[0]) > MOVES / 5
    assert served[0] == served[1]


def test_a_step_that_is_given_back_waits_for_its_tasks_turn(ledger: Ledger) -> None:
    """Which another step of the task may have taken since."""
    films = [new_task(steps=[NewStep("clip", "cpu", name=str(shot)) for shot in range(2)]) for _ in range(2)]
    for film in films:
        ledger.create(film)
    claims = []
    for _ in range(3):
        time.sleep(A_TICK)
        claims.append(ledger.claim_next("cpu", "w", 60))
    first, _, third = claims
    assert first is not None
    assert third is not None
    assert first.task.task_id == third.task.task_id == films[0].task_id
    assert ledger.give_back(first)
    served = [ledger.claim_next("cpu", "w", 60) for _ in range(2)]
    assert [claim.task.task_id for claim in served if claim] == [films[1].task_id, films[0].task_id]


def test_a_clock_set_back_keeps_nobody_waiting(empty_database_url: str, set_clock: Callable[[float], None]) -> None:
    """What was claimed at a time that is yet to come has the turn that it had when it was created."""
    with closing(Ledger(empty_database_url)) as ledger:
        ledger.migrate()
        set_clock(0.0)
        films = [new_task(steps=[NewStep("clip", "cpu", name=str(shot)) for shot in range(4)]) for _ in range(2)]
        for film in films:
            ledger.create(film)
        set_clock(3600.0)
        for film in (*films, films[0]):
            claim = ledger.claim_next("cpu", "w", 60)
            assert claim is not None
            assert claim.task.task_id == film.task_id
        set_clock(0.0)
        clip = new_task()
        ledger.create(clip)
        for task in (*films, clip, *films):
            time.sleep(A_TICK)
            expected = first_by_hand(ledger, "cpu", [], 0.0)
            claim = ledger.claim_next("cpu", "w", 60)
            assert claim is not None
            assert (claim.task.task_id, claim.step.step_id) == (task.task_id, expected)
