"""What lies below a path of another site: that path, however it is written, and the paths that it cannot be."""

import subprocess
import sys
from urllib.parse import urljoin, urlsplit

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from core.config.settings import Settings
from core.errors import InvalidParameter
from harness.pictures import CAT
from harness.servers import free_port
from sandbox.decoder import Decoder

PATH = "/mes%20vid%C3%A9os"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": f"https://video.example.com{PATH}", "auth": "off"})


@pytest.mark.parametrize("left", [PATH, "/mes%20vid%c3%a9os", ""], ids=["left", "left in small letters", "taken away"])
def test_a_path_with_escapes_is_found_whether_the_proxy_leaves_it_or_not(client: TestClient, left: str) -> None:
    client.follow_redirects = False
    task = client.post(f"{left}/generate", files={"file": CAT}).json()
    assert task["status_url"] == f"https://video.example.com{PATH}/status/{task['task_id']}"
    assert client.get(f"{left}/status/{task['task_id']}").status_code == 200
    assert client.get(f"{left}/tasks/?limit=1").headers["location"] == f"{PATH}/tasks?limit=1"
    (server,) = client.get(f"{left}/openapi.json").json()["servers"]
    assert client.get(urljoin("https://video.example.com", server["url"]) + "/health/live").status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/models/kinora", "/generate", "/studio", "/doc%73", "/v1/files"])
def test_a_path_with_which_one_of_ours_begins_is_refused(
    settings: Settings, shared_decoder: Decoder, path: str
) -> None:
    with pytest.raises(InvalidParameter, match="PUBLIC_URL cannot lie below /"):
        create_app(settings.model_copy(update={"public_url": f"https://video.example.com{path}"}), shared_decoder)


@pytest.mark.parametrize("path", ["", "/", "/v1x", "/v", "/v1/kinora", "/kinora/v1"])
def test_a_path_with_which_none_of_ours_begins_is_no_other(
    settings: Settings, shared_decoder: Decoder, path: str
) -> None:
    url = f"https://video.example.com{path}"
    with TestClient(create_app(settings.model_copy(update={"public_url": url}), shared_decoder)) as client:
        for left in (urlsplit(url).path.rstrip("/"), ""):
            assert client.get(f"{left}/v1/models").status_code == 200


def test_a_path_with_which_one_of_ours_begins_ends_the_process_with_a_line(settings: Settings) -> None:
    environment = {
        "DATA_DIR": str(settings.data_dir),
        "API_PORT": str(free_port()),
        "PUBLIC_URL": "https://a.example/v1",
    }
    ended = subprocess.run([sys.executable, "-m", "app"], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 78
    assert ended.stderr.startswith("kinora: the settings do not fit: PUBLIC_URL cannot lie below /v1")
    assert ended.stderr.count("\n") == 1
