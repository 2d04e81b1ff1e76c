"""How the page looks, at three widths and in both themes: kept in artifacts/studio/, and judged by axe-core."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from core.ids import new_id
from core.ledger.moves import Ledger
from core.storage import Storage, artifact_key
from core.task import ErrorInfo, NewStep, NewTask
from harness.pictures import SAMPLES
from harness.stack import Stack, running_stack
from tests.browser.conftest import SHOTS, Visitor

WIDTHS = {390: 844, 820: 1180, 1440: 900}  # a telephone, a tablet, a desk; with their heights

WIDE, SQUARE, TALL = {}, {"width": 768, "height": 768}, {"width": 576, "height": 1024}
SHAPES = [("coffee", WIDE), ("cat", SQUARE), ("rocket", TALL), ("cat", WIDE), ("rocket", WIDE)]


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """With nothing in its history."""
    with running_stack(tmp_path) as stack:
        yield stack


def judge(visitor: Visitor, state: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page, axe = visitor.page, Axe()
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width, height in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": height})
            whole = page.evaluate("document.documentElement.scrollHeight")
            page.set_viewport_size({"width": width, "height": whole})  # so that what sticks lies where it belongs
            page.screenshot(path=SHOTS / f"{state}-{theme}-{width}.png", full_page=True, animations="disabled")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        found = axe.run(page)
        assert found.violations_count == 0, f"{state} in {theme}: {found.generate_report()}"


def test_with_a_picture(visitor: Visitor) -> None:
    visitor.choose()
    visitor.page.get_by_text("More settings").click()
    expect(visitor.page.get_by_role("spinbutton", name="Frames", exact=True)).to_be_visible()
    judge(visitor, "picture")


@pytest.mark.usefixtures("rendering")
def test_busy(visitor: Visitor) -> None:
    visitor.make()
    visitor.expect_said("Making the frames")
    judge(visitor, "busy")
    visitor.press("Cancel")


def test_failed(visitor: Visitor, without_worker: Stack) -> None:
    visitor.make_in_vain()
    expect(visitor.page.locator("#trouble")).to_be_visible()
    judge(visitor, "failed")


def test_from_an_empty_page_to_200_clips(visit: Callable[..., Visitor], own_stack: Stack) -> None:
    onlooker = visit(own_stack)
    expect(onlooker.page.locator("#history-empty")).to_be_visible()
    judge(onlooker, "empty")
    made = [own_stack.upload(SAMPLES / f"{name}.jpg", num_frames=8, **size) for name, size in SHAPES]
    fill(own_stack, [own_stack.wait_for(task_id)["task_id"] for task_id in made], 199 - len(made))
    onlooker.make(Frames=14)
    onlooker.expect_said("Finished")
    page, frames = onlooker.page, onlooker.page.locator(".frame")
    page.reload()
    expect(frames).to_have_count(48)
    page.get_by_text("Receipt", exact=True).click()
    page.get_by_text("As curl", exact=True).click()
    judge(onlooker, "full")
    for shown in (96, 144, 192, 200):
        onlooker.press("Show older ones")
        expect(frames).to_have_count(shown)
    expect(page.get_by_role("button", name="Show older ones")).to_be_hidden()
    names = [request.url for request in onlooker.requests if "/tasks?" in request.url and "after=" in request.url]
    assert len(names) == len(set(names)) == 4
    page.get_by_role("radio", name="failed").check()
    expect(frames).to_have_count(19)
    expect(page.locator(".frame:not([data-status=failed])")).to_have_count(0)


def fill(stack: Stack, like: list[str], count: int) -> None:
    """Puts finished copies of tasks into the history, and of each ten one that failed."""
    ledger = Ledger(f"sqlite:///{stack.folder}/data/kinora.db")
    storage = Storage(f"file://{stack.folder}/data/storage")
    tasks = [ledger.task(task_id) for task_id in like]
    for number in range(count):
        task = tasks[number % len(tasks)]
        new = NewTask(
            task_id=new_id(),
            owner="",
            engine=task.engine,
            params=task.params,
            inputs=list(ledger.inputs(task.task_id).values()),
            warnings=[],
            steps=[NewStep(kind="clip", queue="none")],
        )
        ((step_id, _),) = ledger.create(new)
        claim = ledger.claim(step_id, "w", 60)
        assert claim is not None
        if number % 10 == 9:
            ledger.fail(claim, ErrorInfo("engine_failed", "the engine broke"))
            continue
        copies = []
        for artifact in ledger.artifacts(task.task_id).values():
            copies.append(replace(artifact, key=artifact_key(new.task_id, step_id, 1, Path(artifact.key).name)))
            storage.copy(artifact.key, copies[-1].key)
        ledger.finish(claim, copies, task.receipt or {}, {})
    ledger.close()
