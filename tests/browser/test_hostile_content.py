"""The page of somebody who sees what others asked for, in every dialect, with markup in all that they may write."""

import base64
import re
from collections.abc import Callable, Iterator

import pytest

from harness.pictures import CAT, png
from harness.stack import Stack, running_stack
from tests.browser.conftest import Visitor

MARKUP = (
    "<img src=x onerror=\"document.title='taken over'\"><script>document.title='taken over'</script>'\"`${1}</pre>&lt;b"
)
AS_TEXT = "data:image/jpeg;base64," + base64.b64encode(CAT).decode()
SMALL = {"width": 64, "height": 64, "num_frames": 2}


def by_kinora(stack: Stack) -> str:
    form = SMALL | {"prompt": MARKUP, "engine": "preview"}
    return stack.client.post("/generate", files={"file": (MARKUP, CAT)}, data=form).json()["task_id"]


def by_openai(stack: Stack) -> str:
    form = {"prompt": MARKUP, "model": "preview", "seconds": "1"}
    answer = stack.client.post("/v1/videos", files={"input_reference": (MARKUP, CAT)}, data=form)
    return answer.json()["id"].removeprefix("video_")


def by_replicate(stack: Stack) -> str:
    asked = {"version": "preview", "input": {"prompt": MARKUP, "image": AS_TEXT}}
    return stack.client.post("/v1/predictions", json=asked).json()["id"]


def by_stability(stack: Stack) -> str:
    """It has no prompt: what a caller may write is the name of the file."""
    picture = (MARKUP, png(768, 768))
    return stack.client.post("/v2beta/image-to-video", files={"image": picture}).json()["id"]


def by_mcp(stack: Stack) -> str:
    arguments = {"picture": AS_TEXT, "clip": SMALL | {"prompt": MARKUP, "engine": "preview"}}
    call = {"name": "make_video", "arguments": arguments}
    answer = stack.client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
    return answer.json()["result"]["structuredContent"]["task_id"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("hostile")) as stack:
        yield stack


@pytest.mark.parametrize("ask", [by_kinora, by_openai, by_replicate, by_stability, by_mcp])
def test_markup_is_shown_as_text_whoever_wrote_it(
    ask: Callable[[Stack], str], stack: Stack, visit: Callable[..., Visitor]
) -> None:
    task_id = ask(stack)
    stack.wait_for(task_id)
    visitor = visit(stack)
    title = visitor.page.title()
    visitor.page.get_by_role("button", name=re.compile("^Show ")).first.click()
    visitor.expect_clip()
    assert (MARKUP in (visitor.page.locator("body").text_content() or "")) == (ask is not by_stability)
    assert visitor.page.title() == title != "taken over"
    assert visitor.page.locator("img[src=x]").count() == 0
    assert visitor.page.locator("body script:not([src])").count() == 0
    assert visitor.complaints() == []
