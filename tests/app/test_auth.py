"""Who may call: keys, links, what is open without either, and when an API server does not start at all."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.middleware.auth import PUBLIC
from app.services import Services
from core.config.settings import Settings
from core.ledger.moves import Ledger
from core.queue import StepQueue
from harness.pictures import CAT, SAMPLES
from harness.servers import free_port
from tests.app.conftest import VIDEO

NONE = "0" * 32


def code(response: object) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def ann(services: Services) -> str:
    return services.ledger.keys.create("ann")[1]


@pytest.fixture
def client_of_ann(client: TestClient, ann: str) -> TestClient:
    client.headers.update(bearer(ann))
    return client


def test_on_loopback_no_key_is_asked_for_until_the_first_is_made(client: TestClient, services: Services) -> None:
    assert client.get("/tasks").status_code == 200
    _, text = services.ledger.keys.create("ann")
    assert code(client.get("/tasks")) == (401, "unauthorized")
    assert client.get("/tasks", headers=bearer(text)).status_code == 200
    services.ledger.keys.revoke("ann")
    assert code(client.get("/tasks")) == (401, "unauthorized")  # revoking the last one opens nothing


def test_a_client_that_always_sends_a_key_works_where_none_is_asked_for(client: TestClient) -> None:
    assert client.get("/tasks", headers=bearer("sk-anything")).status_code == 200


def test_a_key_is_taken_from_either_header(client: TestClient, ann: str) -> None:
    for headers in (
        {"Authorization": f"bearer {ann}"},
        {"Authorization": f"Token {ann}"},
        {"X-API-Key": ann},
        {"x-api-key": ann, "Authorization": "Basic x"},
    ):
        assert client.get("/tasks", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"X-API-Key": ""}, {"Authorization": "Basic YTpi"}]
)
def test_without_a_key_the_answer_is_401_and_says_what_to_send(
    client: TestClient, ann: str, headers: dict[str, str]
) -> None:
    response = client.get("/tasks", headers=headers)
    assert code(response) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_key_in_the_url_is_none(client: TestClient, ann: str) -> None:
    """It would stand in the log of every proxy on the way."""
    assert client.get("/tasks", params={"api_key": ann, "key": ann}).status_code == 401


def test_a_strangers_connection_ends_with_the_refusal(client: TestClient, ann: str) -> None:
    answered = client.post("/generate", files={"file": b"x" * 1_000_000})
    assert code(answered) == (401, "unauthorized")
    assert answered.headers["connection"] == "close"


def test_auth_off_asks_nobody(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"auth": "off", "api_host": "0.0.0.0"}))) as client:
        client.app.state.services.ledger.keys.create("ann")
        assert client.get("/tasks").status_code == 200


def test_off_loopback_a_key_is_asked_for_even_where_none_exists(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"api_host": "0.0.0.0"}))) as client:
        assert client.get("/tasks").status_code == 401


def test_a_front_answers_503_where_the_keys_cannot_be_read(settings: Settings, tmp_path: object) -> None:
    with TestClient(create_app(settings)) as client:
        good = client.app.state.services
        away = Ledger(f"sqlite:///{tmp_path}/no/such/kinora.db")
        client.app.state.services = replace(good, ledger=away)
        response = client.get("/tasks", headers=bearer("kinora_x"))
        assert code(response) == (503, "ledger_unavailable")
        assert "retry-after" in response.headers
        client.app.state.services = good
        away.close()


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_what_comes_through_a_proxy_is_not_from_this_machine(client: TestClient, name: str) -> None:
    assert client.get("/tasks", headers={name: "203.0.113.9"}).status_code == 401


def test_an_address_that_others_reach_asks_for_a_key_whatever_api_host_says(settings: Settings) -> None:
    """As where another program than `python -m app` serves the application."""
    with TestClient(create_app(settings), base_url="http://192.0.2.1") as client:
        assert client.get("/tasks").status_code == 401
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        assert client.get("/tasks").status_code == 200


# --- what is open ---


def test_whether_it_lives_and_how_it_looks_is_open_to_all(client: TestClient, ann: str) -> None:
    for path in PUBLIC:
        assert client.get(path).status_code == 200, path


def test_health_tells_a_stranger_no_reasons(client: TestClient, services: Services, ann: str) -> None:
    stores = dict.fromkeys(("ledger", "storage", "redis"), "ok")
    told = client.get("/health").json()
    assert told == {"status": "degraded", "stores": stores, "engine": None, "queues": {}, "problems": []}
    assert client.get("/health", headers=bearer(ann)).json()["problems"]
    assert client.get("/health", headers=bearer("wrong")).status_code == 401


def test_where_a_store_stands_is_for_an_admin(client: TestClient, services: Services, ann: str) -> None:
    away = StepQueue(services.settings.model_copy(update={"redis_port": free_port()}))
    client.app.state.services = replace(services, queue=away)
    told = client.get("/health", headers=bearer(ann)).json()
    assert (told["stores"]["redis"], told["problems"][0]) == ("away", "redis is away")
    assert "127.0.0.1" not in str(told)
    _, admin = services.ledger.keys.create("root", admin=True)
    assert "does not answer" in client.get("/health", headers=bearer(admin)).json()["stores"]["redis"]
    away.close()


def test_strangers_do_not_make_the_stores_work(
    client: TestClient, services: Services, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(services.ledger, "ping", lambda: asked.append(1))
    monkeypatch.setattr("app.routes.health.STRANGERS_SECONDS", 60)
    for _ in range(5):
        client.get("/health")
    assert len(asked) == 1
    client.get("/health", headers=bearer(ann))
    assert len(asked) == 2


def test_the_figures_of_all_are_for_an_admin(client: TestClient, services: Services, ann: str) -> None:
    assert code(client.get("/metrics", headers=bearer(ann))) == (403, "admin_required")
    _, admin = services.ledger.keys.create("root", admin=True)
    assert client.get("/metrics", headers=bearer(admin)).status_code == 200


@pytest.mark.parametrize("host", ["x/health?", "x/health/live?", "x/health#", "x/docs?", "x\\health?", "/health"])
def test_a_path_in_the_host_header_opens_nothing(client: TestClient, ann: str, host: str) -> None:
    for path in ("/tasks", f"/status/{NONE}", "/metrics", "/webhooks/secret"):
        assert client.get(path, headers={"Host": host}).status_code == 401


# --- links ---


def test_a_result_url_opens_without_a_key(client: TestClient, services: Services, finished: str) -> None:
    """For a browser or an <img>."""
    _, ann = services.ledger.keys.create("ann")
    with services.ledger.database.begin() as tx:
        owner = services.ledger.keys.all()[0].key_id
        tx.exec_driver_sql(f"UPDATE tasks SET owner = '{owner}'")
    told = client.get(f"/status/{finished}", headers=bearer(ann)).json()
    for url in (told["result_url"], told["thumbnail_url"]):
        link = url.removeprefix("http://testserver")
        assert "signature=" in link
        assert client.get(link).status_code == 200
        assert client.head(link).status_code == 200
        assert client.get(link, headers={"Range": "bytes=0-3"}).status_code == 206
        assert client.post(link).status_code == 401
        assert client.get(link.replace("signature=", "signature=A")).status_code == 401
        assert client.get(link.split("?")[0]).status_code == 401
    query = urlsplit(told["result_url"]).query
    for path in (f"/results/{finished}/thumbnail", f"/results/{NONE}", f"/status/{finished}", "/tasks"):
        assert client.get(f"{path}?{query}").status_code == 401
        host = f"x/results/{finished}?{query}&"
        assert client.get(f"{path}?{query}", headers={"Host": host}).status_code == 401
    assert client.get(told["result_url"].removeprefix("http://testserver")).content == VIDEO


def test_without_keys_a_result_url_stays_plain(client: TestClient, finished: str) -> None:
    assert client.get(f"/status/{finished}").json()["result_url"] == f"http://testserver/results/{finished}"


def test_a_link_is_given_out_with_the_task(client_of_ann: TestClient) -> None:
    response = client_of_ann.post("/generate", files={"file": CAT}).json()
    assert "signature=" in response["result_url"]
    link = response["result_url"].removeprefix("http://testserver")
    assert client_of_ann.get(link, headers={"Authorization": ""}).status_code == 409


# --- when an API server does not start ---


def start_front(settings: Settings, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {"DATA_DIR": str(settings.data_dir), "REDIS_PORT": str(settings.redis_port), **changes}
    return subprocess.run(
        [sys.executable, "-m", "app"],
        env=environment,
        cwd=SAMPLES.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "changes", [{"API_HOST": "0.0.0.0"}, {"API_HOST": "::"}, {"API_HOST": "192.0.2.1"}, {"AUTH": "keys"}]
)
def test_a_front_that_others_reach_does_not_start_without_a_key(settings: Settings, changes: dict[str, str]) -> None:
    ended = start_front(settings, **changes)
    assert ended.returncode == 1
    assert "python -m app.keys create" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RATE_LIMIT": "often"}, "RATE_LIMIT must be like"),
        ({"RESULT_REDIRECT": "true", "STORAGE_URL": "file:///tmp/x"}, "needs an object store"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_the_start(
    settings: Settings, changes: dict[str, str], said: str
) -> None:
    ended = start_front(settings, **changes)
    assert (ended.returncode, said in ended.stderr) == (78, True)


# --- the command ---


def keys_command(settings: Settings, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.keys", *arguments],
        env={"DATA_DIR": str(settings.data_dir), **changes},
        cwd=SAMPLES.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_makes_lists_and_revokes_keys(settings: Settings) -> None:
    text = keys_command(settings, "create", "--name", "ann").stdout.strip()
    root = keys_command(settings, "create", "--name", "root", "--admin").stdout.strip()
    listed = keys_command(settings, "list").stdout
    assert "ann" in listed
    assert text not in listed
    assert root not in listed
    assert keys_command(settings, "revoke", "--name", "ann").returncode == 0
    again = keys_command(settings, "revoke", "--name", "ann")
    assert (again.returncode, again.stderr.strip()) == (
        1,
        "kinora: there is no key with the name ann that is not revoked",
    )
    with TestClient(create_app(settings)) as client:
        assert client.get("/tasks", headers=bearer(text)).status_code == 401
        assert client.get("/tasks", headers=bearer(root)).status_code == 200


def test_a_rotated_key_keeps_its_tasks(settings: Settings) -> None:
    old = keys_command(settings, "create", "--name", "ann").stdout.strip()
    with TestClient(create_app(settings)) as client:
        task = client.post("/generate", files={"file": CAT}, headers=bearer(old)).json()
        new = keys_command(settings, "rotate", "--name", "ann").stdout.strip()
        assert client.get(f"/status/{task['task_id']}", headers=bearer(old)).status_code == 401
        listed = client.get("/tasks", headers=bearer(new)).json()["tasks"]
        assert [each["task_id"] for each in listed] == [task["task_id"]]
        assert client.delete(f"/tasks/{task['task_id']}", headers=bearer(new)).status_code == 200
    refused = keys_command(settings, "rotate", "--name", "bob")
    assert refused.returncode == 1
    assert refused.stderr == "kinora: there is no key with the name bob that is not revoked\n"


@pytest.mark.parametrize("command", [["list"], ["rotate", "--name", "ann"], ["revoke", "--name", "ann"]])
def test_only_to_create_a_key_makes_a_database(settings: Settings, tmp_path: Path, command: list[str]) -> None:
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "elsewhere"})
    ended = keys_command(elsewhere, *command)
    assert (ended.returncode, ended.stderr) == (78, "kinora: there is no ledger yet (see DATA_DIR or DATABASE_URL)\n")
    assert not elsewhere.data_dir.exists()
    assert keys_command(elsewhere, "create", "--name", "ann").returncode == 0
    assert "ann" in keys_command(elsewhere, "list").stdout


def test_only_to_create_a_key_makes_tables(settings: Settings, empty_database_url: str) -> None:
    said = keys_command(settings, "list", DATABASE_URL=empty_database_url).stderr
    assert said.startswith("kinora: there is no ledger yet")
    assert keys_command(settings, "create", "--name", "ann", DATABASE_URL=empty_database_url).returncode == 0
    assert "ann" in keys_command(settings, "list", DATABASE_URL=empty_database_url).stdout


def test_the_command_says_that_nobody_is_asked_for_a_key(settings: Settings) -> None:
    assert "AUTH=off" in keys_command(settings, "create", "--name", "ann", AUTH="off").stderr


def test_the_document_says_of_every_route_but_health_that_it_wants_a_key(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    without = {
        path for path, operations in paths.items() if not all("security" in found for found in operations.values())
    }
    assert {path for path in without if not path.startswith("/health")} == set()
    assert len(paths) > 20
