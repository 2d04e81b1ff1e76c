"""The page at / in a real Chromium, with the preview engine behind it."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from core.ledger.moves import Ledger
from harness.servers import wait_until
from harness.stack import Stack, running_stack
from tests.browser.conftest import COFFEE, SHOTS, Visitor
from tests.e2e.test_stack import frames_of
from tests.sandbox.test_pictures import HEIC

HANDED_OVER = """([kind, name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/jpeg'}));
  const event = kind === 'drop'
    ? new DragEvent('drop', {dataTransfer: data, bubbles: true})
    : new ClipboardEvent('paste', {clipboardData: data, bubbles: true});
  document.body.dispatchEvent(event);
}"""

# Every value that the progress bar takes, and the figures beside it.
WATCH_PROGRESS = """() => {
  window.seen = [];
  const bar = document.querySelector('#progress');
  const figures = document.querySelector('#figures');
  const note = () => window.seen.push([Number(bar.getAttribute('aria-valuenow')), figures.textContent]);
  const all = {subtree: true, childList: true, attributes: true};
  new MutationObserver(note).observe(document.querySelector('#now'), all);
}"""


def test_a_picture_becomes_a_clip_that_plays_and_can_be_downloaded(visitor: Visitor) -> None:
    task_id = visitor.make()
    visitor.expect_clip()
    visitor.expect_said("Finished")
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("link", name="Download", exact=True).click()
    assert download.value.suggested_filename == f"kinora-{task_id}.mp4"
    assert frames_of(download.value.path().read_bytes()) == (25, 1024, 576, 7.0)


def test_the_receipt_says_what_the_clip_was_made_of(visitor: Visitor) -> None:
    receipt = visitor.stack.wait_for(visitor.make())["receipt"]
    visitor.page.get_by_text("Receipt", exact=True).click()
    for value in (receipt["input_sha256"], receipt["output_sha256"], str(receipt["seed"]), receipt["device"]):
        expect(visitor.page.locator("#receipt")).to_contain_text(value)


def test_the_curl_command_makes_the_same_clip(visitor: Visitor, tmp_path: Path) -> None:
    visitor.choose()
    visitor.page.get_by_role("radio", name="orbit").check()
    task_id = visitor.make(Frames=8)
    visitor.expect_clip()
    visitor.page.get_by_text("As curl", exact=True).click()
    command = visitor.page.locator("#curl pre").inner_text()
    assert "fps" not in command  # what is as the engine has it is not said
    (tmp_path / "coffee.jpg").write_bytes(COFFEE.read_bytes())
    answer = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    again = re.findall("[0-9a-f]{32}", answer)[0]
    hashes = {visitor.stack.wait_for(one)["receipt"]["output_sha256"] for one in (task_id, again)}
    assert len(hashes) == 1


def test_the_curl_command_is_copied(visitor: Visitor) -> None:
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.make(Frames=2)
    visitor.page.get_by_text("As curl", exact=True).click()
    visitor.press("Copy")
    expect(visitor.page.get_by_role("button", name="Copied")).to_be_visible()
    assert visitor.page.evaluate("navigator.clipboard.readText()") == visitor.page.locator("#curl pre").inner_text()


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_can_be_dropped_or_pasted(kind: str, visitor: Visitor) -> None:
    visitor.page.evaluate(HANDED_OVER, [kind, "mine.jpg", list(COFFEE.read_bytes())])
    expect(visitor.page.locator("#stage .picture")).to_be_visible()
    expect(visitor.page.locator("#file-name")).to_have_text("mine.jpg")


def test_a_file_that_is_no_picture_is_refused_at_once(visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no picture")
    visitor.page.set_input_files("#file", tmp_path / "notes.jpg")
    expect(visitor.page.locator("#file-error")).to_have_text("notes.jpg is no picture that can be shown here.")


def test_a_phones_heic_becomes_a_clip_though_the_browser_cannot_show_it(visitor: Visitor) -> None:
    visitor.page.set_input_files("#file", HEIC / "plain.heic")
    expect(visitor.page.locator("#stage .picture")).to_have_attribute("src", "studio/unseen.svg")
    expect(visitor.page.locator("#edge")).to_contain_text("HEIC picture")
    visitor.page.screenshot(path=SHOTS / "heic.png")
    visitor.enter("Frames", 2)
    visitor.press("Make the clip")
    visitor.expect_clip()


@pytest.mark.parametrize(
    ("shape", "fit", "width", "height"),
    [
        ("square", "crop", 2 / 3, 1),
        ("wide", "crop", 1, 27 / 32),
        ("tall", "black bars", 1, 8 / 3),
        ("wide", "stretch", 1, 1),
    ],
)
def test_the_frame_lies_on_the_picture_as_it_will_be_cut(
    shape: str, fit: str, width: float, height: float, visit: Callable[..., Visitor], stack: Stack
) -> None:
    visitor = visit(stack, reduced_motion="reduce")
    page = visitor.page
    visitor.choose()  # 3:2
    page.get_by_role("radio", name=shape).check()
    page.get_by_role("radio", name=fit).check()
    picture, frame = (page.locator(f"#stage .{name}").bounding_box() for name in ("picture", "crop"))
    assert picture is not None
    assert frame is not None
    assert frame["width"] / picture["width"] == pytest.approx(width, abs=0.01)
    assert frame["height"] / picture["height"] == pytest.approx(height, abs=0.01)


def test_what_others_wrote_is_shown_as_text(visitor: Visitor, tmp_path: Path) -> None:
    name = "<img src=x onerror='document.title=1'>;.jpg"
    (tmp_path / name).write_bytes(COFFEE.read_bytes())
    visitor.choose(tmp_path / name)
    visitor.press("Make the clip")
    visitor.expect_clip()
    expect(visitor.page.locator("#file-name")).to_have_text(name)
    command = visitor.page.locator("#curl pre").text_content() or ""
    answer = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    assert "task_id" in answer


def test_every_control_comes_from_the_engines_own_limits(visitor: Visitor) -> None:
    engines = {engine["name"]: engine for engine in visitor.stack.client.get("/engines").json()["engines"]}
    preview, svd = engines["preview"], engines["svd-xt"]
    visitor.page.get_by_text("More settings").click()
    for name, limit in preview["limits"].items():
        field = visitor.page.locator(f"[data-parameter={name}] input[name={name}]")
        if "choices" in limit:
            assert [option.input_value() for option in field.all()] == limit["choices"]
        else:
            bounds = [float(field.get_attribute(bound) or "") for bound in ("min", "max")]
            assert bounds == [limit["minimum"], limit["maximum"]]
            assert field.input_value() == str(preview["defaults"].get(name, ""))
    card = visitor.page.locator(".engine", has_text="svd-xt")
    expect(card.get_by_role("radio")).to_be_disabled()
    expect(card).to_contain_text(svd["reason"])


def test_a_value_out_of_range_is_said_at_its_field(visitor: Visitor) -> None:
    visitor.choose()
    visitor.enter("Frames", 601)
    visitor.press("Make the clip")
    field = visitor.page.get_by_role("spinbutton", name="Frames", exact=True)
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(visitor.page.locator("#form-error")).to_contain_text("600")
    assert not [request for request in visitor.requests if request.method == "POST"]


def test_what_the_service_refuses_is_said_at_its_field(visit: Callable[..., Visitor], stack: Stack) -> None:
    visitor = visit(stack)
    visitor.page.get_by_text("More settings").click()
    visitor.enter("Width", 1920)
    visitor.enter("Height", 1080)
    visitor.choose()
    visitor.enter("Frames", 600)  # allowed, but not at this size
    visitor.press("Make the clip")
    refusal = re.compile("num_frames must be .* at 1920×1080.*invalid_parameter")
    expect(visitor.page.locator("#form-error")).to_have_text(refusal)
    expect(visitor.page.get_by_role("spinbutton", name="Frames", exact=True)).to_be_focused()


@pytest.mark.usefixtures("rendering")
def test_the_progress_bar_never_goes_back_nor_stays_just_before_the_end(visitor: Visitor) -> None:
    visitor.page.evaluate(WATCH_PROGRESS)
    task_id = visitor.make(Frames=20)
    for after in (10, 16):
        told = visitor.stack.status(task_id)["progress"]
        visitor.page.wait_for_function(
            "told => Number(document.querySelector('#progress').ariaValueNow) >= told", arg=told
        )
        visitor.stack.gate.close("render", after)
        wait_until(lambda told=told: visitor.stack.status(task_id)["progress"] > told, what="more progress")
    visitor.stack.gate.open()
    visitor.expect_clip()
    seen = visitor.page.evaluate("window.seen")
    turned = [value for value, _ in seen]
    assert turned == sorted(turned)
    assert len(set(turned)) > 2
    shown = [int(found[1]) for _, figures in seen if (found := re.match(r"(\d+) %", figures))]
    assert max(shown) < 99  # storing cannot say how far it is, and shows no figure


@pytest.mark.usefixtures("rendering")
def test_a_reload_forgets_nothing(visitor: Visitor) -> None:
    visitor.page.get_by_role("radio", name="orbit").check()
    task_id = visitor.make(Frames=20)
    visitor.expect_said("Making the frames")
    visitor.page.reload()
    expect(visitor.page.locator("#file-name")).to_have_text("coffee.jpg")
    expect(visitor.page.get_by_role("radio", name="orbit")).to_be_checked()
    expect(visitor.page.get_by_role("spinbutton", name="Frames", exact=True)).to_have_value("20")
    visitor.stack.gate.open()
    visitor.expect_clip()
    assert visitor.page.locator("#download").get_attribute("download") == f"kinora-{task_id}.mp4"


def test_a_reload_before_the_answer_makes_no_second_task(visitor: Visitor) -> None:
    before = len(tasks_of(visitor.stack))
    visitor.choose()
    expect(visitor.page.get_by_role("radio", name="preview")).to_be_checked()  # the engines are known by now
    visitor.page.evaluate(LOSE_ANSWERS)
    with visitor.page.expect_response(lambda answer: answer.url.endswith("/generate")):  # others are lost too
        visitor.press("Make the clip")
    expect(visitor.page.locator("#connection")).to_have_text("Connection lost. Trying again …")
    visitor.page.reload()
    visitor.expect_clip()
    assert len(tasks_of(visitor.stack)) == before + 1


LOSE_ANSWERS = """() => {
  const send = window.fetch;
  window.fetch = async (path, request) => {
    await send(path, request);
    throw new TypeError('the answer is lost');
  };
}"""


def tasks_of(stack: Stack) -> list[dict[str, object]]:
    return list(stack.client.get("/tasks", params={"limit": 200}).json()["tasks"])


@pytest.mark.usefixtures("rendering")
def test_a_task_is_canceled(visitor: Visitor) -> None:
    task_id = visitor.make()
    visitor.press("Cancel")
    visitor.expect_said("Canceled")
    assert visitor.stack.status(task_id)["status"] == "canceled"
    visitor.press("Back to the picture")
    expect(visitor.page.locator("#stage .picture")).to_be_visible()


def test_a_failure_is_said_in_words_and_with_its_code(without_worker: Stack, visitor: Visitor) -> None:
    visitor.make_in_vain()
    visitor.expect_said(re.compile("^This clip could not be made: .*storage"))
    expect(visitor.page.locator("#trouble")).to_contain_text("input_missing")
    expect(visitor.page.locator(".frame.marked[data-status=failed]")).to_be_visible()


def test_the_place_in_the_queue_is_told(without_worker: Stack, visitor: Visitor) -> None:
    first = without_worker.upload(COFFEE, num_frames=2)
    second = visitor.make(Frames=2)
    visitor.expect_said("Number 2 in the queue")
    without_worker.client.post(f"/cancel/{first}")
    visitor.expect_said("Next in the queue")
    without_worker.client.post(f"/cancel/{second}")
    visitor.expect_said("Canceled")


@pytest.mark.usefixtures("rendering")
def test_a_service_that_goes_away_and_comes_back_is_waited_for(visitor: Visitor) -> None:
    visitor.make(Frames=20)
    visitor.expect_said("Making the frames")
    visitor.stack.kill("app")
    expect(visitor.page.locator("#connection")).to_have_text("Connection lost. Trying again …")
    visitor.stack.start("app", "app")
    visitor.stack.gate.open()
    visitor.expect_clip()
    expect(visitor.page.locator("#connection")).to_have_text("")
    assert all(re.search("ERR_|503", line) for line in visitor.console)
    visitor.console.clear()


def test_another_seed_makes_another_clip_of_the_same_picture(visitor: Visitor) -> None:
    first = visitor.stack.wait_for(visitor.make(Frames=8))
    visitor.expect_clip()
    with visitor.page.expect_response(lambda answer: "/remix" in answer.url) as accepted:
        visitor.press("Again with another seed")
    second = visitor.stack.wait_for(accepted.value.json()["id"])
    visitor.expect_clip()
    assert (second["params"] | {"seed": 0}) == (first["params"] | {"seed": 0})
    assert second["params"]["seed"] != first["params"]["seed"]
    assert second["receipt"]["input_sha256"] == first["receipt"]["input_sha256"]


def test_a_clip_becomes_longer(visitor: Visitor) -> None:
    first = visitor.make(Frames=14)
    visitor.expect_clip()
    with visitor.page.expect_response(lambda answer: "/extensions" in answer.url) as accepted:
        visitor.press("Longer")
    second = accepted.value.json()["id"]
    visitor.stack.wait_for(second)
    visitor.expect_clip()
    assert frames_of(visitor.stack.video(second))[0] > frames_of(visitor.stack.video(first))[0]


def test_a_clip_is_deleted_after_a_question(visitor: Visitor) -> None:
    task_id = visitor.make(Frames=2)
    visitor.expect_clip()
    frame = visitor.page.locator(".frame.marked")
    frame.hover()
    frame.get_by_role("button", name="Delete").click()
    visitor.press("Keep it")
    expect(frame).to_be_visible()
    frame.get_by_role("button", name="Delete").click()
    visitor.press("Delete")
    expect(frame).to_have_count(0)
    assert visitor.stack.client.get(f"/results/{task_id}").status_code == 410


def test_the_whole_journey_by_keyboard(visitor: Visitor) -> None:
    keyboard = visitor.page.keyboard

    def go_to(name: str) -> None:
        for _ in range(60):
            keyboard.press("Tab")
            if visitor.page.evaluate(NAME_IN_FOCUS).startswith(name):
                return
        raise AssertionError(f"{name} cannot be reached")

    # Choosers are caught from now on: to begin with it at the key press could come too late.
    visitor.page.on("filechooser", lambda _: None)
    expect(visitor.page.locator(".engine").first).to_be_visible()
    go_to("Choose a picture")
    with visitor.page.expect_file_chooser() as chooser:
        keyboard.press("Space")
    chooser.value.set_files(COFFEE)
    expect(visitor.page.locator("#stage .picture")).to_be_visible()
    go_to("wide")
    keyboard.press("ArrowRight")
    expect(visitor.page.get_by_role("radio", name="square")).to_be_checked()
    go_to("Frames, slider")
    keyboard.press("ArrowLeft")
    go_to("Make the clip")
    keyboard.press("Enter")
    visitor.expect_clip()
    go_to("Download")
    go_to("Receipt")
    keyboard.press("Enter")
    expect(visitor.page.locator("#receipt")).to_contain_text("output sha256")
    expect(visitor.page.locator("#receipt")).to_contain_text("24")
    go_to("Show preview, finished, just now")
    expect(visitor.page.locator(".frame video")).to_be_visible()


NAME_IN_FOCUS = """() => {
  const {activeElement: focused} = document;
  return focused.getAttribute('aria-label') ?? focused.labels?.[0]?.innerText ?? focused.innerText;
}"""


def test_a_key_is_asked_for_when_the_service_wants_one(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        visitor = visit(stack)
        expect(visitor.page.locator("#history-empty")).to_be_visible()
        key = key_of(stack)  # from the first one on
        visitor.page.reload()
        expect(visitor.page.get_by_role("dialog")).to_contain_text("This service asks for a key")
        assert Axe().run(visitor.page).violations_count == 0
        enter_key(visitor, "not a key")
        expect(visitor.page.get_by_role("dialog")).to_contain_text("It does not know that one.")
        enter_key(visitor, key)
        visitor.make(Frames=2)
        visitor.expect_clip()  # by its signed link: no element sends a key
        assert '-H "Authorization: Bearer $KEY"' in (visitor.page.locator("#curl pre").text_content() or "")
        visitor.page.reload()
        visitor.expect_clip()
        visitor.press("Forget the key")
        expect(visitor.page.get_by_role("dialog")).to_be_visible()
        expect(visitor.page.locator("#file-name")).to_have_text("Choose a picture")
        assert all("401" in line for line in visitor.console)


def key_of(stack: Stack) -> str:
    ledger = Ledger(f"sqlite:///{stack.folder}/data/kinora.db")
    try:
        return ledger.keys.create("ann")[1]
    finally:
        ledger.close()


def enter_key(visitor: Visitor, text: str) -> None:
    visitor.page.get_by_label("API key").fill(text)
    visitor.press("Continue")
