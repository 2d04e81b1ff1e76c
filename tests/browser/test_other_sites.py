"""Scripts in pages of other sites, in a real Chromium: of one that CORS_ORIGINS names, and of one that it does not."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error

from core.config.settings import Settings
from core.ledger.moves import Ledger
from harness.pictures import SAMPLES
from harness.stack import running_stack

PICTURE = base64.b64encode((SAMPLES / "coffee.jpg").read_bytes()).decode()
MAKE = """
async ([url, key, picture]) => {
    const headers = { Authorization: `Bearer ${key}` };
    const bytes = Uint8Array.from(atob(picture), (each) => each.charCodeAt(0));
    const form = (file) => {
        const made = new FormData();
        made.append("file", file, "a.jpg");
        made.append("num_frames", "2");
        return made;
    };
    const post = (path, body, more) =>
        fetch(url + path, { method: "POST", headers: { ...headers, ...more }, body });
    const json = JSON.stringify({ image: picture, num_frames: 2 });
    const shown = (tag, src, loaded) => new Promise((resolve, reject) => {
        const element = document.createElement(tag);
        element[loaded] = () => resolve(element.videoWidth || element.naturalWidth);
        element.onerror = reject;
        element.src = src;
    });

    const task = await (await post("/generate", form(new Blob([bytes])))).json();
    await (await fetch(`${task.status_url}/events`, { headers })).text(); // which ends with the task
    const status = await (await fetch(task.status_url, { headers })).json();
    const part = await fetch(status.result_url, { headers: { Range: "bytes=4-7" } });
    const theirs = { ...headers, "X-Stainless-Lang": "js" };
    const video = await fetch(`${url}/v1/videos/${task.task_id}`, { headers: theirs });
    return {
        part: [part.status, await part.text(), part.headers.get("content-range").split("/")[0]],
        image: await shown("img", status.thumbnail_url, "onload"),
        video: await shown("video", status.result_url, "onloadeddata"),
        openai: Number(video.headers.get("openai-poll-after-ms")) > 0,
        json: (await post("/generate", json, { "Content-Type": "application/json", "Idempotency-Key": "1" })).status,
        slash: (await post("/generate/", form(new Blob([bytes])))).status,
        wrongPath: (await (await post("/generat", form(new Blob([bytes])))).json()).error.code,
        tooLarge: (await (await post("/generate", form(new Blob([new Uint8Array(30e6)])))).json()).error.code,
        withoutKey: (await (await fetch(`${url}/tasks`)).json()).error.code,
        deleted: (await fetch(`${url}/tasks/${task.task_id}`, { method: "DELETE", headers })).status,
    };
}
"""


@contextmanager
def page_elsewhere() -> Iterator[str]:
    """The address of an empty page."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def made_from(browser: Browser, address: str, url: str, key: str) -> dict[str, Any]:
    """What a script in the page at `address` got from the service at `url`."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        return dict(page.evaluate(MAKE, [url, key, PICTURE]))


def test_a_page_that_is_named_does_all_of_it_and_another_nothing(browser: Browser, tmp_path: Path) -> None:
    ledger = Ledger(Settings(_env_file=None, data_dir=tmp_path / "data").resolved_database_url)
    ledger.migrate()
    key = ledger.keys.create("ann")[1]
    ledger.close()
    size = {"VIDEO_WIDTH": "128", "VIDEO_HEIGHT": "64"}
    with (
        page_elsewhere() as named,
        page_elsewhere() as other,
        running_stack(tmp_path, AUTH="keys", ENGINE="preview", CORS_ORIGINS=named, **size) as stack,
    ):
        assert made_from(browser, named, stack.url, key) == {
            "part": [206, "ftyp", "bytes 4-7"],
            "image": 128,
            "video": 128,
            "openai": True,
            "json": 202,
            "slash": 202,
            "wrongPath": "not_found",
            "tooLarge": "upload_too_large",
            "withoutKey": "unauthorized",
            "deleted": 200,
        }
        stack.client.headers["X-API-Key"] = key
        tasks = stack.client.get("/tasks").json()
        with pytest.raises(Error, match="Failed to fetch"):
            made_from(browser, other, stack.url, key)
        assert [task["task_id"] for task in stack.client.get("/tasks").json()["tasks"]] == [
            task["task_id"] for task in tasks["tasks"]
        ]
