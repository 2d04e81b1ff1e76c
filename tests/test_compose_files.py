"""What the container files must hold, whatever else changes in them. tests/e2e/test_compose.py runs them."""

import contextlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from starlette.testclient import TestClient

from app.main import create_app
from app.upload_size import largest_upload
from core.config.settings import Settings
from harness.servers import free_port
from worker.metrics import WorkerMetrics
from worker.run.watchdog import CHECK_POINT_SECONDS

ROOT = Path(__file__).parent.parent
FILES = ["docker-compose.yml", "docker-compose.cpu.yml"]
DOCKERFILES = ["Dockerfile.api", "Dockerfile.worker"]
OURS = {"api", "worker", "worker-cpu", "keeper"}

# What only the compose file, an image or Docker's own tools read.
OTHER_NAMES = {"HF_HOME", "TMPDIR", "BASE_IMAGE", "REDIS_IMAGE"}
OTHER_NAMES |= {"PROMETHEUS_IMAGE", "PROMETHEUS_PORT", "GRAFANA_IMAGE", "GRAFANA_PORT"}

# Settings that mean something else inside a container: what .env says for a run without containers must not pass.
FIXED = {"DATA_DIR", "REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE"}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


def services_of(name: str) -> dict[str, dict[str, Any]]:
    """The services of a file, with what they extend; what a file says itself comes last."""
    found = {}
    for service, own in load(name)["services"].items():
        base = own.pop("extends", None)
        found[service] = (load(base["file"])["services"][base["service"]] if base else {}) | own
    return found


@contextlib.contextmanager
def http_server() -> Iterator[int]:
    """Yield its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


SERVICES = {f"{file}:{name}": service for file in FILES for name, service in services_of(file).items()}


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SERVICES[request.param] | {"name": request.param.partition(":")[2]}


# --- every service ---


def test_every_port_is_published_on_loopback_only(service: dict[str, Any]) -> None:
    assert all(re.match(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+$", port) for port in service.get("ports", []))
    published = {"api", "prometheus", "grafana"}
    assert bool(service.get("ports")) == (service["name"] in published)


def test_every_service_comes_back_by_itself(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped"


def test_every_service_is_checked(service: dict[str, Any]) -> None:
    assert "healthcheck" in service


def test_a_health_check_goes_through_no_proxy(service: dict[str, Any]) -> None:
    _, program, *options = service["healthcheck"]["test"]
    if program == "wget":  # of BusyBox, in images that are not ours
        assert options[options.index("-Y") + 1] == "off"
    elif program == "python" and "urllib" in options[-1]:
        with http_server() as port:
            asked = re.sub(r"127\.0\.0\.1:\d+/[a-z/]+", f"127.0.0.1:{port}/", options[-1])
            proxies = {name: f"http://127.0.0.1:{free_port()}" for name in ("http_proxy", "HTTP_PROXY", "all_proxy")}
            subprocess.run([sys.executable, "-c", asked], env=proxies, check=True, timeout=30)


def test_every_service_can_be_scaled(service: dict[str, Any]) -> None:
    assert "container_name" not in service


def test_no_service_keeps_a_capability_that_it_can_do_without(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert ("cap_add" in service) == (service["name"] == "redis")


def test_no_service_writes_to_its_root(service: dict[str, Any]) -> None:
    assert service["read_only"] is True


def test_no_service_takes_processes_without_end(service: dict[str, Any]) -> None:
    assert service["pids_limit"] <= 4000


def test_what_is_mounted_is_a_named_volume_or_cannot_be_written(service: dict[str, Any]) -> None:
    for volume in service.get("volumes", []):
        source, _, rest = volume.partition(":")
        assert rest.endswith(":ro") or source in load("docker-compose.yml")["volumes"], volume


# --- Redis and its password ---


def test_redis_is_on_a_network_that_leads_nowhere_and_is_not_published() -> None:
    for file in FILES:
        assert services_of(file)["redis"]["networks"] == ["backend"]
        assert "ports" not in services_of(file)["redis"]
        assert load(file)["networks"]["backend"] == {"internal": True}


def test_only_our_services_reach_redis(service: dict[str, Any]) -> None:
    assert ("backend" in service["networks"]) == (service["name"] in OURS | {"redis"})


def test_redis_starts_with_its_password_and_acl() -> None:
    redis = services_of("docker-compose.yml")["redis"]
    mounted = dict(volume.removesuffix(":ro").split(":") for volume in redis["volumes"])
    program, script, folder = redis["entrypoint"]
    assert program == "sh"
    assert (ROOT / "deploy/redis/start.sh", mounted["./deploy/redis"]) == (
        ROOT / "deploy/redis" / Path(script).name,
        str(Path(script).parent),
    )
    assert folder == mounted["redis-secret"]


def test_a_service_reads_the_password_from_where_redis_keeps_it(service: dict[str, Any]) -> None:
    """Nobody else sees it, and nobody but Redis can change it."""
    mounts = [volume for volume in service["volumes"] if volume.startswith("redis-secret:")]
    environment = service.get("environment", {})
    if service["name"] in OURS:
        (folder,) = (mount.split(":")[1] for mount in mounts if mount.endswith(":ro"))
        assert environment["REDIS_PASSWORD_FILE"] == f"{folder}/password"
        assert environment["REDIS_PASSWORD"] == ""  # what .env says is for Redis
    else:
        assert bool(mounts) == (service["name"] == "redis")
        assert "REDIS_PASSWORD_FILE" not in environment


def test_monitoring_is_told_no_secret(service: dict[str, Any]) -> None:
    if service["name"] in {"prometheus", "grafana"}:
        assert all(name.startswith("GF_") for name in service.get("environment", {}))
        assert "env_file" not in service


def test_the_keepers_health_check_sees_whether_it_lives(tmp_path: Path) -> None:
    test = SERVICES["docker-compose.yml:keeper"]["healthcheck"]["test"]

    def passes() -> bool:
        return (
            subprocess.run([sys.executable, "-c", test[-1].replace("/tmp", str(tmp_path))], timeout=30).returncode == 0
        )

    assert not passes()
    sign = tmp_path / "kinora-keeper-x1" / "alive"
    sign.parent.mkdir()
    sign.touch()
    assert passes()
    os.utime(sign, (0, 0))
    assert not passes()


# --- our own services ---


def test_our_services_read_an_env_file_that_may_be_missing(service: dict[str, Any]) -> None:
    expected = [{"path": ".env", "required": False}] if service["name"] in OURS else None
    assert service.get("env_file") == expected


def test_what_env_says_for_a_run_without_containers_does_not_pass(service: dict[str, Any]) -> None:
    fixed = FIXED if service["name"] in OURS else set()
    fixed = fixed | ({"API_HOST", "API_PORT"} if service["name"] == "api" else set())
    if service["name"].startswith("worker"):
        fixed = fixed | {"WORKER_METRICS_HOST", "WORKER_METRICS_PORT", "HF_HOME", "TMPDIR"}
    values = {name: value for name, value in service.get("environment", {}).items() if name in fixed}
    assert values.keys() == fixed
    assert not any("$" in value for value in values.values())


def test_our_services_share_the_storage_and_write_nowhere_else(service: dict[str, Any]) -> None:
    if service["name"] in OURS:
        assert "storage:/data" in service["volumes"]
        assert service["environment"]["DATA_DIR"] == "/data"
        assert service["tmpfs"] == ["/tmp"]


def test_the_front_says_that_it_asks_for_no_key_because_it_is_published_on_loopback() -> None:
    for file in FILES:
        assert services_of(file)["api"]["environment"]["AUTH"] == "${AUTH:-off}"


def test_a_worker_has_time_to_finish_its_step(service: dict[str, Any]) -> None:
    if service["name"].startswith("worker"):
        assert service["stop_grace_period"] in ("2m", "5m")


def test_redis_writes_down_what_it_is_told() -> None:
    command = services_of("docker-compose.yml")["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--appendfsync") + 1] == "everysec"


# --- with and without a GPU ---


def test_each_copy_of_the_gpu_worker_sees_every_gpu_and_what_the_others_have_locked() -> None:
    worker = services_of("docker-compose.yml")["worker"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", "all", ["gpu"])
    assert f"storage:{worker['environment']['DATA_DIR']}" in worker["volumes"]
    assert "CUDA_VISIBLE_DEVICES" not in worker["environment"]


def test_the_gpu_worker_keeps_its_weights() -> None:
    worker = services_of("docker-compose.yml")["worker"]
    assert worker["build"]["args"]["REQUIREMENTS"] == "svd"
    assert worker["command"][-1] == "gpu"
    assert f"model-cache:{worker['environment']['HF_HOME']}" in worker["volumes"]


def test_without_a_gpu_the_worker_has_no_torch_and_no_other_service_changes() -> None:
    with_gpu, without = (services_of(file) for file in FILES)
    assert without.pop("worker") == with_gpu.pop("worker-cpu")
    with_gpu.pop("worker")
    assert without == with_gpu


def test_the_worker_without_a_gpu_asks_for_none() -> None:
    worker = services_of("docker-compose.cpu.yml")["worker"]
    assert "deploy" not in worker
    assert worker["build"]["args"]["REQUIREMENTS"] == "worker"
    assert worker["command"][-1] == "cpu"


@pytest.mark.parametrize("file", FILES)
def test_the_volumes_and_networks_that_are_used_are_declared(file: str) -> None:
    services = services_of(file).values()
    volumes = {volume.partition(":")[0] for service in services for volume in service.get("volumes", [])}
    assert {name for name in volumes if not name.startswith(".")} == load(file)["volumes"].keys()
    assert {name for service in services for name in service["networks"]} == load(file)["networks"].keys()


def test_monitoring_is_there_only_where_it_is_asked_for(service: dict[str, Any]) -> None:
    assert service.get("profiles") == (["monitoring"] if service["name"] in ("prometheus", "grafana") else None)


# --- names ---


def test_every_name_from_the_environment_is_a_setting_or_a_known_other() -> None:
    known = {name.upper() for name in Settings.model_fields} | OTHER_NAMES
    asked = {name for file in FILES for name in re.findall(r"\$\{(\w+)", (ROOT / file).read_text())}
    given = {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert {name for name in asked | given if not name.startswith("GF_")} <= known
    assert {"API_PORT", "REDIS_PASSWORD"} <= asked


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_variable_of_an_image_is_a_setting_or_a_known_other(name: str) -> None:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    given = {name for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE) for name in re.findall(r"(\w+)=", line)}
    python = {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "HOME"}
    assert given <= {name.upper() for name in Settings.model_fields} | OTHER_NAMES | python


# --- images ---


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_ends_as_a_user_and_starts_from_a_base_of_choice(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert lines.index("ARG BASE=python:3.11-slim-bookworm") < lines.index("FROM ${BASE}")
    assert all(line.split()[1] == "${BASE}" for line in lines if line.startswith("FROM"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_new_volume_is_its_users_alone(name: str) -> None:
    """It starts out with the mode of the folder that it covers."""
    made = re.findall(r"install -d (.*)", (ROOT / name).read_text())
    assert [options.startswith("-m 700 -o kinora -g kinora /data") for options in made] == [True]


@pytest.mark.parametrize(("name", "lock"), [("Dockerfile.api", "app"), ("Dockerfile.worker", "${REQUIREMENTS}")])
def test_an_image_takes_only_files_whose_hash_is_locked(name: str, lock: str) -> None:
    text = (ROOT / name).read_text()
    installs = re.findall(r"pip .*install (.*?)(?: \\)?$", text, re.MULTILINE)
    options = "--only-binary :all: --require-hashes -r requirements/"
    assert text.count("RUN --mount=type=cache,target=/root/.cache/pip ") == 2, "the wheels are in no layer"
    assert installs == [f"{options}{lock}.lock", f"{options}build.lock"]
    assert "constraints.txt" not in text


def test_the_api_needs_no_engine() -> None:
    engines = {"torch", "numpy", "opencv-python-headless", "av", "diffusers", "transformers", "accelerate"}
    assert set(required("app.txt")).isdisjoint(engines)
    assert "torch" not in set(required("worker.txt"))
    assert set(required("svd.txt")) >= {"torch", "diffusers", "av"}


def required(name: str) -> Iterator[str]:
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if line.startswith("-r "):
            yield from required(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            yield re.split(r"[\[=~<> ]", line)[0].lower()


def test_the_build_sees_nothing_but_sources() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == {
        "app",
        "core",
        "keeper",
        "sandbox",
        "worker",
        "requirements",
    }
    for name in DOCKERFILES:
        copied = re.findall(r"^COPY (?!--from)(.*)$", (ROOT / name).read_text(), re.MULTILINE)
        sources = {source.partition("/")[0] for line in copied for source in line.split()[:-1]}
        assert sources <= {rule[1:] for rule in rules}


# --- monitoring ---


def test_prometheus_scrapes_the_ports_that_are_served() -> None:
    jobs = {job["job_name"]: job for job in load("deploy/prometheus.yml")["scrape_configs"]}
    services = services_of("docker-compose.yml")
    api_port = services["api"]["environment"]["API_PORT"]
    assert jobs["kinora-api"]["static_configs"] == [{"targets": [f"api:{api_port}"]}]
    assert services["api"]["ports"][0].endswith(f":{api_port}")
    (discovery,) = jobs["kinora-worker"]["dns_sd_configs"]
    assert set(discovery["names"]) == {name for name in services if name.startswith("worker")}
    assert discovery["type"] == "A"
    for name in discovery["names"]:
        assert services[name]["environment"]["WORKER_METRICS_PORT"] == str(discovery["port"])


def test_prometheus_reaches_whom_it_scrapes(service: dict[str, Any]) -> None:
    if service["name"] in {"api", "worker", "worker-cpu", "prometheus"}:
        assert "default" in service["networks"]


def test_grafana_finds_its_data_source_and_its_dashboard() -> None:
    grafana = services_of("docker-compose.yml")["grafana"]
    mounted = {line.split(":")[1]: line.split(":")[0] for line in grafana["volumes"]}
    (source,) = load("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    (provider,) = load("deploy/grafana/provisioning/dashboards/kinora.yml")["providers"]
    folder = provider["options"]["path"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/kinora.json"
    assert ROOT / mounted[folder] == (ROOT / "deploy/grafana/dashboards")
    assert source["url"] == "http://prometheus:9090"
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}


def test_the_dashboard_asks_only_for_metrics_that_exist(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        client.get("/health/live")
        texts = [client.get("/metrics").text, generate_latest(WorkerMetrics().registry).decode()]
    exported = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", "\n".join(texts), re.MULTILINE):
        exported |= {f"{name}{part}" for part in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"\b(?:kinora|process)_\w+", query)}
    assert asked - exported == set()
    ours = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in exported if re.match(r"kinora_.*(?<!_created)$", name)
    }
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert ours - shown == set(), "metrics that no panel shows"


def test_the_dashboards_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in board()["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in board()["panels"]}) == len(board()["panels"])


def board() -> dict[str, Any]:
    return json.loads((ROOT / "deploy/grafana/dashboards/kinora.json").read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in board()["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize(
    ("file", "pattern", "unit"),
    [
        ("deploy/proxy/nginx.conf", r"client_max_body_size (\d+)m;", 2**20),
        ("deploy/proxy/Caddyfile", r"max_size (\d+)MB", 10**6),
    ],
)
def test_a_proxy_lets_the_largest_upload_through(file: str, pattern: str, unit: int) -> None:
    (most,) = re.findall(pattern, (ROOT / file).read_text())
    assert int(most) * unit >= largest_upload(Settings(_env_file=None).max_upload_mb)


def test_a_worker_gives_its_step_back_before_it_is_killed(service: dict[str, Any]) -> None:
    if service["name"].startswith("worker"):
        minutes = service["stop_grace_period"].removesuffix("m")
        assert float(service["environment"]["SHUTDOWN_GRACE"]) + CHECK_POINT_SECONDS < 60 * float(minutes)
