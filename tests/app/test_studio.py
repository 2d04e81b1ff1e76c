"""GET / and /studio/…: the page's files as they go out. What it does is in tests/browser/."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from core.config.settings import Settings
from harness.stack import ROOT

FOLDER = ROOT / "app/studio"
NAMES = sorted(path.name for path in FOLDER.iterdir())


def policy_of(client: TestClient) -> dict[str, str]:
    parts = client.get("/").headers["content-security-policy"].split("; ")
    return dict(part.split(" ", 1) for part in parts)


def test_the_page_is_under_100_kb_altogether() -> None:
    assert sum((FOLDER / name).stat().st_size for name in NAMES) < 100_000


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_page_is_served(name: str, client: TestClient) -> None:
    assert client.get(f"/studio/{name}").content == (FOLDER / name).read_bytes()


def test_the_page_names_no_other_host() -> None:
    text = "".join((FOLDER / name).read_text() for name in NAMES)
    assert set(re.findall(r"https?://[\w.]+", text)) == {"http://www.w3.org"}  # the name of SVG


def test_the_page_may_run_its_own_scripts_and_nothing_else(client: TestClient) -> None:
    policy = policy_of(client)
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["media-src"] == "'self' blob:"
    assert "unsafe" not in str(policy)
    page = client.get("/").text
    assert re.findall(r"<script(?! type=\"module\" src=\"studio/)|<style|\son\w+=|\sstyle=", page) == []


def test_where_results_come_from_an_object_store_the_page_may_show_them(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, storage_url="s3://bucket", result_redirect=True)
    policy = policy_of(TestClient(create_app(settings)))
    assert "https:" in policy["media-src"]
    assert policy["script-src"] == policy["connect-src"] == "'self'"


@pytest.mark.parametrize("path", ["/", "/studio/studio.js"])
def test_a_file_of_the_page_comes_again_only_where_it_has_changed(path: str, client: TestClient) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/studio/none.js", "/studio/", "/studio", "/studio/%2e%2e/main.py"])
def test_nothing_else_is_served(path: str, client: TestClient) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", "/studio/studio.js"])
def test_a_file_of_the_page_is_for_reading(path: str, client: TestClient) -> None:
    assert client.head(path).status_code == 200
    answer = client.post(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
