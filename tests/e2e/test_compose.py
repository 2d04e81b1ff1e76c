"""The stack in containers, from `up` to `down -v`, on the file for machines without a GPU.

The tests share one stack and stand in the order in which they disturb it; tests/long/test_compose.py has more.
"""

import functools
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from harness.compose import OURS, ROOT, Stack, compose_works, curl_lines, running
from harness.pictures import SAMPLES
from harness.servers import wait_until

pytestmark = [
    pytest.mark.compose,
    pytest.mark.skipif(not compose_works(), reason="no Docker engine here, and COMPOSE names no other command"),
]

CAT = SAMPLES / "cat.jpg"
OUR_SERVICES = list(OURS)

# Long enough to be caught at work.
LONG = {"num_frames": 300}

# Asks every copy of the service: its address, then how many attempts it finished.
ATTEMPTS_BY_WORKER = """
import re, socket, urllib.request
for address in sorted({found[4][0] for found in socket.getaddrinfo("worker", 9101, socket.AF_INET)}):
    text = urllib.request.urlopen(f"http://{address}:9101/metrics", timeout=5).read().decode()
    done = re.findall(r'^kinora_worker_steps_total{.*outcome="finished".*} (.+)$', text, re.MULTILINE)
    print(address, int(sum(map(float, done))))
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("compose"), lambda: request.session.testsfailed) as stack:
        yield stack


def test_the_readmes_curl_lines_make_a_video(stack: Stack, tmp_path: Path) -> None:
    shutil.copy(CAT, tmp_path / "photo.jpg")
    lines = curl_lines((ROOT / "README.md").read_text(), stack.url)
    subprocess.run(["bash", "-euo", "pipefail", "-c", lines], cwd=tmp_path, check=True, timeout=120)

    with av.open(tmp_path / "video.mp4") as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 1024, 576)
        assert len(list(video.decode(stream))) == 25


def test_the_service_needs_no_env_file(stack: Stack) -> None:
    assert not (stack.folder / ".env").exists()
    assert stack.health()["status"] == "ok"


def test_only_the_api_is_published_and_on_loopback_only(stack: Stack) -> None:
    # As the engine shows it: 127.0.0.1:8000->8000/tcp
    published = re.findall(r"(\S+)->(\d+)/tcp", stack.compose("ps"))
    assert published == [(f"127.0.0.1:{stack.ports['API_PORT']}", "8000")]


# Each question to a container takes seconds, whatever it asks, so all of them are asked at once. HEALTH is its health
# check, run by hand since not every engine runs it.
LOOK_INSIDE = """
echo "=health"; (HEALTH) >/dev/null 2>&1; echo $?
echo "=status"; cat /proc/1/status
echo "=mounts"; cat /proc/mounts
echo "=environment"; env
echo "=password"; cat /redis/password 2>/dev/null; echo
echo "=overwritten"; (echo mine >/redis/password) 2>&1
"""

# What only an engine needs, and no image of the service holds.
OF_ENGINES = [name for name in ("torch", "numpy", "cv2", "av", "diffusers", "worker") if importlib.util.find_spec(name)]
LOOK_INTO_OURS = f"""
echo "=bill"; cat /kinora/sbom.json; echo
python -c '
from importlib.metadata import distributions
from importlib.util import find_spec
print("=installed", *(f"{{each.name}}=={{each.version}}".lower() for each in distributions()), sep="\\n")
print("=engines", *filter(find_spec, "{" ".join(OF_ENGINES)}".split()), sep="\\n")
'
"""

LOOK_INTO_REDIS = """
echo "=stranger"; redis-cli ping
export REDISCLI_AUTH="$(cat /secret/password)"
echo "=ping"; redis-cli ping
echo "=refused"
redis-cli flushall
redis-cli config get dir
redis-cli keys '*'
redis-cli shutdown nosave
redis-cli set other 1
"""


@pytest.fixture(scope="module")
def inside(stack: Stack) -> Callable[[str], dict[str, str]]:
    """What a service's container shows from within, by name."""
    checks = {name: service["healthcheck"]["test"] for name, service in stack.services().items()}

    @functools.cache
    def look(service: str) -> dict[str, str]:
        kind, *command = checks[service]
        check = command[0].replace("$$", "$") if kind == "CMD-SHELL" else shlex.join(command)
        script = LOOK_INSIDE.replace("HEALTH", check) + (LOOK_INTO_REDIS if service == "redis" else LOOK_INTO_OURS)
        said = stack.inside(service, "sh", "-c", f"{script}\ntrue")
        return dict(re.findall(r"^=(\w+)\n(.*?)(?=^=\w+$|\Z)", said, re.DOTALL | re.MULTILINE))

    return look


@pytest.mark.parametrize("service", ["redis", *OUR_SERVICES])
def test_every_health_check_passes(inside: Callable[[str], dict[str, str]], service: str) -> None:
    assert inside(service)["health"].strip() == "0"


@pytest.mark.parametrize("service", ["redis", *OUR_SERVICES])
def test_no_service_runs_as_root_or_can_become_it_or_writes_to_its_root(
    inside: Callable[[str], dict[str, str]], service: str
) -> None:
    said = inside(service)
    status = dict(re.findall(r"^(\w+):\t(.*)$", said["status"], re.MULTILINE))
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert (int(status["CapEff"], 16), int(status["CapPrm"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    assert re.findall(r"^\S+ / \S+ (\w+),", said["mounts"], re.MULTILINE) == ["ro"]


def test_the_api_image_holds_no_engine(inside: Callable[[str], dict[str, str]]) -> None:
    assert len(OF_ENGINES) > 3
    assert inside("api")["engines"].split() == []
    assert "av" in inside("worker")["engines"].split()


@pytest.mark.parametrize("service", ["redis", *OUR_SERVICES])
def test_a_restart_of_any_service_loses_no_task(stack: Stack, service: str) -> None:
    tasks = [stack.upload(CAT) for _ in range(3)]
    stack.compose("restart", service)
    stack.wait_for_health()
    stack.wait_for(*tasks)
    assert [stack.status(task)["status"] for task in tasks] == ["finished"] * 3


def test_a_killed_worker_loses_no_task(stack: Stack) -> None:
    # What kills it takes seconds, in which it may end all that it has.
    assert any(was_killed_at_work(stack) for _ in range(3))


def was_killed_at_work(stack: Stack) -> bool:
    """Kill the worker, start it again, and wait until all tasks are finished."""
    tasks = [stack.upload(CAT, **LONG) for _ in range(5)]
    wait_until(lambda: stack.status(tasks[0])["progress"] > 0, timeout=60, what="the first progress")
    stack.compose("kill", "-s", "KILL", "worker")
    at_work = "started" in [stack.status(task_id)["status"] for task_id in tasks]
    stack.compose("start", "worker")
    stack.wait_for(*tasks)
    return at_work


def test_redis_wants_its_password_and_refuses_what_the_service_does_not_use(
    inside: Callable[[str], dict[str, str]],
) -> None:
    said = inside("redis")
    assert "NOAUTH" in said["stranger"]
    assert said["ping"].strip() == "PONG"
    assert re.findall(r"\w+", said["refused"]).count("NOPERM") == LOOK_INTO_REDIS.partition("=refused")[2].count(
        "redis-cli"
    )


@pytest.mark.parametrize("service", OUR_SERVICES)
def test_the_password_is_in_no_environment_and_cannot_be_changed_from_outside(
    inside: Callable[[str], dict[str, str]], service: str
) -> None:
    said = inside(service)
    password = said["password"].strip()
    assert len(password) == 64
    assert "PATH=" in said["environment"]
    assert password not in said["environment"]
    assert "ead-only file system" in said["overwritten"]


SBOM = {
    "api": ({"fastapi", "redis", "limits"}, {"torch", "av", "numpy", "pip", "cyclonedx-bom"}),
    "worker": ({"av", "redis", "numpy"}, {"torch", "fastapi", "pip", "cyclonedx-bom"}),
}


@pytest.mark.parametrize("service", SBOM)
def test_an_image_says_what_is_in_it(inside: Callable[[str], dict[str, str]], service: str) -> None:
    bill = json.loads(inside(service)["bill"])
    assert bill["bomFormat"] == "CycloneDX"
    listed = {component["name"].lower(): component["version"] for component in bill["components"]}
    assert listed == dict(line.split("==") for line in inside(service)["installed"].split())
    present, absent = SBOM[service]
    assert present <= listed.keys()
    assert absent.isdisjoint(listed)


def test_redis_reads_again_what_it_wrote_down(stack: Stack) -> None:
    """It checks its log against the ACL, and leaves out what is refused."""
    stack.compose("restart", "redis")
    wait_until(
        lambda: "DB loaded from append only file" in stack.compose("logs", "redis"),
        timeout=60,
        what="a restarted Redis",
    )
    assert "NOPERM" not in stack.compose("logs", "redis")
    stack.wait_for_health()


def test_two_workers_share_the_work(stack: Stack) -> None:
    stack.compose("up", "-d", "--scale", "worker=2")
    wait_until(lambda: len(stack.health()["queues"]["cpu"]["workers"]) == 2, timeout=60, what="the second worker")
    before, tasks, done = attempts_by_worker(stack), [], {}

    def both_have_worked() -> bool:
        """One that has just begun may leave the first few to the other."""
        made = [stack.upload(CAT) for _ in range(8)]
        stack.wait_for(*made)
        tasks.extend(made)
        done.update({address: count - before.get(address, 0) for address, count in attempts_by_worker(stack).items()})
        return min(done.values()) >= 1

    wait_until(both_have_worked, timeout=60, what="work for both")
    assert len(done) == 2
    assert sum(done.values()) == len(tasks)


def attempts_by_worker(stack: Stack) -> dict[str, int]:
    lines = stack.inside("api", "python", "-c", ATTEMPTS_BY_WORKER).splitlines()
    return {address: int(count) for address, count in map(str.split, lines)}
