"""What workers will do, played forward: which step is served when, and when each is done."""

from typing import Any

import pytest

from app.queue_simulation import Forecast, Simulation
from core.ledger.durations import StepDuration, StepProfile
from core.ledger.reads import OpenStep

PROFILE, JOIN = StepProfile("preview", "clip", "", 0.0), StepProfile("", "join", "", 0.0)


def step(name: str, *needs: str, turn: float = 0.0, **more: Any) -> OpenStep:
    """`name` is "task/step"; steps of a task come in the order in which they are made."""
    given = {"queue": "cpu", "rests": 0.0, "worker_id": None, "ran": 0.0, "position": int(name[-1])}
    given |= {"profile": PROFILE} | more
    return OpenStep(step_id=name, task_id=name.partition("/")[0], turn=turn, needs=needs, **given)


def forecast(
    steps: list[OpenStep], workers: dict[str, dict[str, int]], render: float = 10, finalize: float = 0
) -> Forecast:
    durations = {each.step_id: StepDuration(render, finalize) for each in steps}
    return Simulation(steps, durations, workers).run()


@pytest.mark.parametrize(
    ("running", "waiting", "ends"),
    [
        ({"a": []}, 1, [10]),
        ({"a": [3]}, 1, [7, 15]),
        ({"a": [3], "b": []}, 1, [7, 10]),
        ({"a": [9, 1]}, 1, [1, 9, 17]),  # one is finalized, the next renders
        ({"a": [9]}, 2, [1, 10, 18]),
        ({"a": [3], "b": [6]}, 3, [7, 4, 12, 15, 20]),
    ],
)
def test_a_step_renders_once_the_one_before_has_and_is_finalized_after_it(
    running: dict[str, list[float]], waiting: int, ends: list[float]
) -> None:
    under_way = [(worker, ran) for worker, steps in running.items() for ran in steps]
    steps = [step(f"r{n}/0", worker_id=worker, ran=ran) for n, (worker, ran) in enumerate(under_way)]
    steps += [step(f"w{n}/0", turn=float(n)) for n in range(waiting)]
    found = forecast(steps, {"cpu": dict.fromkeys(running, 1)}, render=8, finalize=2)
    assert [found.ends[each.step_id] for each in steps] == ends


def test_what_a_dead_worker_ran_is_for_one_that_lives() -> None:
    steps = [step("a/0", worker_id="dead", ran=2), step("b/0")]
    assert forecast(steps, {"cpu": {"w": 1}}, render=8, finalize=2).ends == {"a/0": 8, "b/0": 16}


def test_steps_of_one_task_that_need_not_wait_for_each_other_run_side_by_side() -> None:
    shots = [step(f"film/{n}") for n in range(4)]
    film = step("film/4", *(each.step_id for each in shots))
    found = forecast([*shots, film], {"cpu": dict.fromkeys("abcd", 1)})
    assert [found.ends[each.step_id] for each in shots] == [10] * 4
    assert found.ends["film/4"] == 20


def test_tasks_take_turns_and_the_one_served_last_comes_last() -> None:
    steps = [step(f"film/{n}", turn=-9.0) for n in range(3)]
    steps += [step("early/0", turn=-8.0), step("late/0", turn=-1.0)]
    found = forecast(steps, {"cpu": {"w": 1}})
    assert sorted(found.served, key=lambda name: found.served[name]) == [
        "film/0",
        "early/0",
        "late/0",
        "film/1",
        "film/2",
    ]
    assert found.ends == {"film/0": 10, "early/0": 20, "late/0": 30, "film/1": 40, "film/2": 50}


def test_tasks_take_turns_also_where_several_workers_are_free_at_once() -> None:
    steps = [step(f"{film}/{n}", turn=-2.0 + number) for number, film in enumerate("ab") for n in range(8)]
    found = forecast(steps, {"cpu": dict.fromkeys("wxyz", 1)})
    served = sorted(found.served, key=lambda name: found.served[name])
    assert [name[0] for name in served] == list("ab" * 8)
    assert max(end for name, end in found.ends.items() if name[0] == "a") == 40


def test_a_step_waits_for_what_it_needs_in_another_queue() -> None:
    steps = [step("t/0"), step("t/1", "t/0", queue="gpu"), step("u/0", queue="gpu", turn=5.0)]
    found = forecast(steps, {"cpu": {"c": 1}, "gpu": {"g": 1}})
    assert found.ends == {"t/0": 10, "u/0": 10, "t/1": 20}
    assert found.served == {"t/0": 1, "u/0": 1, "t/1": 2}


def test_a_step_that_rests_is_served_when_it_has_rested() -> None:
    steps = [step("t/0", rests=25.0), step("u/0", turn=5.0), step("v/0", turn=6.0)]
    assert forecast(steps, {"cpu": {"w": 1}}).ends == {"u/0": 10, "v/0": 20, "t/0": 35}


def test_what_nobody_serves_has_no_end() -> None:
    assert forecast([step("t/0", queue="gpu")], {"cpu": {"w": 1}}).ends == {}


def test_a_worker_of_the_lane_cpu_does_one_that_uses_all_cores_and_others_beside_it() -> None:
    steps = [step(f"clip{n}/0", turn=float(n)) for n in range(2)]
    steps += [step(f"join{n}/0", turn=9.0 + n, profile=JOIN) for n in range(4)]
    found = forecast(steps, {"cpu": {"w": 3}})
    assert [found.ends[each.step_id] for each in steps] == [10, 20, 10, 10, 20, 20]
    assert [found.served[each.step_id] for each in steps] == [1, 4, 2, 3, 5, 6]


def test_what_runs_beside_others_leaves_a_place_when_it_is_done() -> None:
    running = [step("join/0", worker_id="w", ran=6.0, profile=JOIN), step("clip/0", worker_id="w", ran=1.0)]
    waiting = [step("late/0", turn=1.0), step("other/0", turn=2.0, profile=JOIN)]
    found = forecast([*running, *waiting], {"cpu": {"w": 2}})
    assert found.ends == {"join/0": 4, "clip/0": 9, "other/0": 14, "late/0": 19}
