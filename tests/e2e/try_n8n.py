"""The workflow of docs/n8n in a real n8n, in a real browser: what scripts/try-n8n runs once n8n is there.

python -m tests.e2e.try_n8n FOLDER, with `n8n` in the PATH; its data goes to FOLDER. Draws docs/images/n8n.png.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
from playwright.sync_api import sync_playwright

from harness.servers import free_port, wait_until
from harness.stack import ROOT, running_stack
from tests.e2e.n8n import filled_in, served_samples

OWNER = {"email": "ann@example.com", "firstName": "Ann", "lastName": "Example", "password": "Only-for-a-try-1"}


@contextmanager
def running_n8n(port: int, environment: dict[str, str], log: Path) -> Iterator[httpx2.Client]:
    with log.open("wb") as output, httpx2.Client(base_url=f"http://localhost:{port}", timeout=30) as client:
        process = subprocess.Popen(["n8n", "start"], env=environment, stdout=output, stderr=output)

        def ready() -> bool:
            assert process.poll() is None, f"n8n has ended: {log}"
            with suppress(httpx2.TransportError):
                return client.get("/healthz/readiness").status_code == 200
            return False

        try:
            wait_until(ready, 300, "n8n")
            yield client
        finally:
            process.terminate()
            process.wait()


def execute(url: str, workflow_id: str, picture: Path) -> None:
    """Presses the button, and waits until the editor says that all went well."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 720})
        page.goto(f"{url}/signin")
        page.locator("input[type=email]").fill(OWNER["email"])
        page.locator("input[type=password]").fill(OWNER["password"])
        page.keyboard.press("Enter")
        page.wait_for_url("**/home/**")
        page.goto(f"{url}/workflow/{workflow_id}")
        page.locator("[data-test-id=execute-workflow-button]").click()
        page.get_by_text("Workflow executed successfully").wait_for(timeout=120_000)
        page.wait_for_timeout(1000)  # for its animations
        page.screenshot(path=picture)
        browser.close()


def main(folder: Path) -> None:
    port = free_port()
    environment = os.environ | {
        "N8N_USER_FOLDER": str(folder),
        "N8N_PORT": str(port),
        "N8N_LISTEN_ADDRESS": "127.0.0.1",
        "N8N_DIAGNOSTICS_ENABLED": "false",
        "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
        "N8N_TEMPLATES_ENABLED": "false",
        "N8N_PERSONALIZATION_ENABLED": "false",
    }
    with (
        running_stack(folder, FETCH_ALLOW=f"localhost:{port}") as stack,
        running_n8n(port, environment, folder / "n8n.log") as n8n,
        served_samples() as pictures,
    ):
        n8n.post("/rest/owner/setup", json=OWNER).raise_for_status()
        workflow = filled_in(kinora=stack.url, picture=f"{pictures}/coffee.jpg")
        (folder / "workflow.json").write_text(json.dumps(workflow))
        subprocess.run(["n8n", "import:workflow", f"--input={folder}/workflow.json"], env=environment, check=True)
        execute(str(n8n.base_url), workflow["id"], ROOT / "docs/images/n8n.png")
        (task,) = stack.client.get("/tasks").json()["tasks"]
        stored = [path.read_bytes() for path in (folder / ".n8n").rglob("*") if path.is_file()]
        assert stack.video(task["task_id"]) in stored, "n8n does not hold the video"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
