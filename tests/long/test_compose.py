"""The stack in containers: what takes longer than a run of all tests has time for.

The tests share one stack and stand in the order in which they disturb it.
"""

import contextlib
import json
import re
from collections.abc import Iterator

import httpx2
import pytest

from harness.compose import ROOT, Stack, compose_works, running
from harness.pictures import SAMPLES
from harness.servers import wait_until

pytestmark = [
    pytest.mark.compose,
    pytest.mark.skipif(not compose_works(), reason="no Docker engine here, and COMPOSE names no other command"),
]

CAT = SAMPLES / "cat.jpg"

# What Prometheus finds while there are two workers, by the name of the job.
EVERY_PROCESS = ["kinora-api", "kinora-worker", "kinora-worker"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("compose"), lambda: request.session.testsfailed) as stack:
        yield stack


def test_a_wiped_redis_loses_no_task(stack: Stack) -> None:
    stack.compose("stop", "worker")
    tasks = [stack.upload(CAT) for _ in range(3)]
    stack.inside("redis", "sh", "-c", "rm -r /data/*")
    stack.compose("kill", "-s", "KILL", "redis")  # it has no time to write anything down again
    stack.compose("start", "redis")
    stack.compose("start", "worker")
    stack.wait_for(*tasks)
    assert [stack.status(task)["status"] for task in tasks] == ["finished"] * 3


def test_what_was_made_outlives_the_containers(stack: Stack) -> None:
    task = stack.upload(CAT)
    stack.wait_for(task)
    video = stack.http.get(f"/results/{task}").content
    stack.require_no_crash()  # the logs go with the containers
    stack.compose("down")
    stack.compose("up", "-d")
    stack.wait_for_health()
    stack.wait_for(task)
    assert stack.http.get(f"/results/{task}").content == video


def test_prometheus_finds_every_process_and_the_dashboard_gets_answers(stack: Stack) -> None:
    stack.compose("up", "-d", "--scale", "worker=2")
    stack.compose("--profile", "monitoring", "up", "-d", "prometheus")
    assert stack.http.get("/status/none").status_code == 404  # an error to be seen
    with httpx2.Client(base_url=f"http://127.0.0.1:{stack.ports['PROMETHEUS_PORT']}/api/v1", timeout=10) as prometheus:
        wait_until(lambda: targets_up(prometheus) == EVERY_PROCESS, timeout=90, what="three targets that are up")
        stack.wait_for(*(stack.upload(CAT) for _ in range(4)))  # there must be something to be seen
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not silent_queries(prometheus), timeout=60)
        assert silent_queries(prometheus) == []


def test_with_a_key_made_inside_and_one_line_in_env_a_stranger_is_refused(stack: Stack) -> None:
    key = stack.inside("api", "python", "-m", "app.keys", "create", "--name", "ann").split()[0]
    stack.environment["AUTH"] = "keys"
    stack.compose("up", "-d")

    def asks_for_a_key() -> bool:
        with contextlib.suppress(httpx2.TransportError):  # while it starts again
            return stack.http.get("/tasks").status_code == 401
        return False

    wait_until(asks_for_a_key, timeout=60, what="an API server that asks for a key")
    assert stack.http.get("/tasks", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert stack.health() == stack.health() | {"status": "ok", "queues": {}}


def targets_up(prometheus: httpx2.Client) -> list[str]:
    with contextlib.suppress(httpx2.HTTPError):  # while it starts, it refuses or answers 503
        targets = prometheus.get("/targets").raise_for_status().json()["data"]["activeTargets"]
        return sorted(target["labels"]["job"] for target in targets if target["health"] == "up")
    return []


def silent_queries(prometheus: httpx2.Client) -> list[str]:
    """The dashboard's queries that find nothing."""
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "kinora.json").read_text())
    silent = []
    for target in [target for panel in board["panels"] for target in panel.get("targets", [])]:
        query = target["expr"].replace("$__rate_interval", "1m").replace("$engine", ".*")
        answer = prometheus.get("/query", params={"query": query})
        assert answer.status_code == 200, f"{query}: {answer.text}"
        # Nothing has failed or was canceled here, so these counters have no series.
        if not answer.json()["data"]["result"] and not re.search(r"_failed_|_canceled_", query):
            silent.append(query)
    return silent
