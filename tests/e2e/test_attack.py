"""A short run of scripts/attack, with a tenth of each attack: order and bounds, not times. docs/security.md has the
figures of a whole one."""

from collections import Counter
from collections.abc import Iterator

import pytest

from attack.other_caller import STATUS, UPLOAD, Call
from attack.processes import Holding
from attack.trial import Size, Trial, service, try_out
from harness.stack import Stack

SHORT = Size(seconds=2, settle=30, look=1, warm=0.5, scale=0.1)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with service(tmp_path_factory.mktemp("attacked")) as stack:
        yield stack


@pytest.mark.parametrize(
    ("scenario", "answers"),
    [
        ("slow-uploads", set()),
        ("large-files", {202}),
        ("listeners", {200}),
        ("junk-in-redis", set()),
    ],
)
def test_an_attack_by_one_key_keeps_no_other_out_and_leaves_nothing(
    stack: Stack, scenario: str, answers: set[int]
) -> None:
    trial = try_out(stack, scenario, SHORT)
    assert trial.broken == []
    assert {call.what for call in trial.calls["during"]} == {STATUS, UPLOAD}
    assert {"app", "app's sandbox", "worker-cpu", "keeper"} <= set(trial.held["during"])
    assert answers <= set(trial.answers), "there was no attack"
    stack.require_no_crash()


def test_a_bound_that_does_not_hold_is_told() -> None:
    calls = [Call(STATUS, 0.0, 0.2, 200), Call(STATUS, 1.0, 0.2, 429), Call(UPLOAD, 2.0, 2.0, 202)]
    before, grown = {"app": Holding(10**8, 10, 20)}, {"app": Holding(5 * 10**8, 50, 20)}
    trial = Trial(
        scenario="lists",
        calls={"before": [], "during": [*calls, calls[-1]], "after": []},
        held={"before": before, "during": grown, "after": grown},
        ledger_bytes={"before": 0, "after": 0},
        answers=Counter({500: 3}),
        back_seconds=None,
    )
    assert trial.broken == [
        "lists: the other caller was answered status 429 1 times",
        "lists: app grew by 400 MB",
        "lists: not as before",
        "lists: app has 400000000 more memory",
        "lists: app has 40 more threads",
        "lists: the attacker was answered 500",
    ]
    assert trial.late == ["lists: the p95 of status was 200 ms", "lists: the p95 of upload was 2000 ms"]
