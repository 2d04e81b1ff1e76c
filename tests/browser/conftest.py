"""A real Chromium on a real service. SHOTS (artifacts/studio/) keeps pictures of what it showed."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Request, expect, sync_playwright

from harness.pictures import SAMPLES
from harness.stack import ROOT, Stack, running_stack

SHOTS = ROOT / "artifacts" / "studio"
CHROMIUM = shutil.which("chromium")
# What Chromium would do by itself: ask its makers for news.
QUIET = ("background-networking", "component-update", "sync", "gpu")
COFFEE = SAMPLES / "coffee.jpg"
SECONDS = 1000.0  # Playwright counts in milliseconds

expect.set_options(timeout=30 * SECONDS)


class Visitor:
    """Somebody with the page open. Notes each request, and each word of the browser's console."""

    def __init__(self, context: BrowserContext, stack: Stack) -> None:
        self.context, self.stack = context, stack
        self.requests: list[Request] = []
        self.console: list[str] = []
        context.on("request", lambda request: self.requests.append(request))
        context.on("console", self._note)
        context.on("weberror", lambda error: self.console.append(f"{error.error}"))
        self.page = context.new_page()
        self.page.goto(stack.url)
        self.page.set_default_timeout(30 * SECONDS)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console.append(f"{message.text} {message.location['url']}")

    def choose(self, picture: Path = COFFEE) -> None:
        self.page.set_input_files("#file", picture)
        expect(self.page.locator("#stage .picture")).to_be_visible()

    def enter(self, name: str, value: int) -> None:
        self.page.get_by_role("spinbutton", name=name, exact=True).fill(str(value))

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def make(self, **fields: int) -> str:
        """Asks for a clip; returns the task's id once it is accepted."""
        self.choose()
        for name, value in fields.items():
            self.enter(name, value)
        with self.page.expect_response(lambda answer: answer.url.endswith("/generate")) as accepted:
            self.press("Make the clip")
        return str(accepted.value.json()["task_id"])

    def make_in_vain(self) -> None:
        """Without a worker: the picture is lost before one comes."""
        task_id = self.make()
        self.expect_said("Next in the queue")
        for picture in (self.stack.folder / "data" / "storage" / "tasks" / task_id).glob("inputs/*"):
            picture.unlink()
        self.stack.start_worker()
        expect(self.page.locator("#trouble")).to_be_visible()

    def expect_said(self, words: str | re.Pattern[str]) -> None:
        expect(self.page.locator("#said")).to_have_text(words)

    def expect_clip(self) -> None:
        expect(self.page.locator("#stage video")).to_be_visible()
        self.page.wait_for_function("() => document.querySelector('#stage video').currentTime > 0")

    def hosts(self) -> set[str]:
        return {urlsplit(request.url).netloc for request in self.requests if request.url.startswith("http")}

    def complaints(self) -> list[str]:
        """A preview may be gone between the news of it and the question for it."""
        return [line for line in self.console if "/preview/" not in line]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        assert not os.environ.get("CI"), "chromium is missing: apt-get install chromium"
        pytest.skip("needs Debian's chromium")
    quiet = [f"--disable-{name}" for name in QUIET]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--no-first-run", *quiet])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def one_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One for all tests that mind no others' tasks."""
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
def stack(one_stack: Stack) -> Iterator[Stack]:
    yield one_stack
    one_stack.gate.open()


@pytest.fixture
def rendering(stack: Stack) -> None:
    """What is asked for is never done, until the gate is opened."""
    stack.gate.close("render", after=4)


@pytest.fixture
def without_worker(stack: Stack) -> Iterator[Stack]:
    stack.kill("worker-cpu")
    yield stack
    if "worker-cpu" not in stack.processes:
        stack.start_worker()
    stack.wait_until_ready()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """Opens the page of a stack; what `Browser.new_context` takes says who looks."""
    visitors: list[Visitor] = []

    def visit(stack: Stack, **options: object) -> Visitor:
        visitors.append(Visitor(browser.new_context(**options), stack))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.context.close()
        assert visitor.hosts() == {urlsplit(visitor.stack.url).netloc}, "whatever happens, no other host is asked"


@pytest.fixture
def visitor(visit: Callable[..., Visitor], stack: Stack) -> Iterator[Visitor]:
    """Whatever happens, the browser has nothing to complain of."""
    visitor = visit(stack, viewport={"width": 1440, "height": 900})
    yield visitor
    assert visitor.complaints() == []
