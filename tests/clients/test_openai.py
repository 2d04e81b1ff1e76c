"""OpenAI's own client against the whole service: what it sends is what comes, and what it parses is what is answered.

tests/long/test_openai_oldest.py runs this file with the first version that has `videos` too.
"""

import asyncio
import base64
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from core.config.settings import Settings
from core.ledger.moves import Ledger
from core.task import ErrorInfo
from harness.pictures import SAMPLES
from harness.receiver import receiving
from harness.servers import free_port, wait_until
from harness.stack import Stack, running_stack

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")

CAT = SAMPLES / "cat.jpg"
SMALL = {"VIDEO_WIDTH": "128", "VIDEO_HEIGHT": "64", "VIDEO_FRAMES": "20", "VIDEO_FPS": "10"}


@dataclass
class Service:
    stack: Stack
    ledger: Ledger
    key: str
    owner: str
    receiver_port: int

    @property
    def access(self) -> dict[str, Any]:
        return {"api_key": self.key, "base_url": f"{self.stack.url}/v1"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The whole service with keys, and with the preview engine only."""
    folder = tmp_path_factory.mktemp("openai")
    ledger = Ledger(Settings(_env_file=None, data_dir=folder / "data").resolved_database_url)
    ledger.migrate()
    key, text = ledger.keys.create("ann")
    port = free_port()
    with running_stack(folder, AUTH="keys", FETCH_ALLOW=f"127.0.0.1:{port}", ENGINE="preview", **SMALL) as stack:
        yield Service(stack, ledger, text, key.key_id, port)
    ledger.close()


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(**service.access) as client:
        yield client


@pytest.fixture(scope="module")
def video_id(service: Service) -> str:
    """Of a video that is there."""
    with OpenAI(**service.access) as client:
        return client.videos.create_and_poll(prompt="a cat", input_reference=CAT, seconds="4").id


def fail(service: Service, task_id: str) -> None:
    """As a worker would: no real one takes what waits for a GPU here."""
    _, (step,) = service.ledger.task_with_steps(task_id)
    claim = service.ledger.claim(step.step_id, "w1", 60)
    assert claim is not None
    service.ledger.fail(claim, ErrorInfo("gpu_out_of_memory", "it does not fit"))


def test_a_video_is_made_and_waited_for(client: OpenAI) -> None:
    video = client.videos.create_and_poll(prompt="a cat", input_reference=CAT, seconds="4", model="sora-2")
    assert (video.object, video.status, video.progress, video.error) == ("video", "completed", 100, None)
    assert (video.model, video.prompt, video.seconds, video.size) == ("preview", "a cat", "4", "128x64")
    assert video.created_at <= video.completed_at < video.expires_at
    assert (video.remixed_from_video_id, video.model_extra["extended_from_video_id"]) == (None, None)
    assert "there is no model sora-2 here" in video.model_extra["warnings"][0]
    assert isinstance(video.model_extra["seed"], int)


@pytest.mark.parametrize("how", ["bytes", "path", "file", "tuple"])
def test_a_picture_may_be_given_in_each_way_the_client_knows(client: OpenAI, how: str) -> None:
    with CAT.open("rb") as file:
        data = CAT.read_bytes()
        given = {"bytes": data, "path": CAT, "file": file, "tuple": ("cat.jpg", data, "image/jpeg")}[how]
        assert client.videos.create(prompt="a cat", input_reference=given).status in ("queued", "in_progress")


def test_every_variant_is_downloaded(client: OpenAI, video_id: str, tmp_path: Path) -> None:
    client.videos.download_content(video_id).write_to_file(tmp_path / "cat.mp4")
    assert (tmp_path / "cat.mp4").read_bytes()[4:8] == b"ftyp"
    thumbnail = Image.open(io.BytesIO(client.videos.download_content(video_id, variant="thumbnail").read()))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (128, 64))
    sheet = Image.open(io.BytesIO(client.videos.download_content(video_id, variant="spritesheet").content))
    assert (sheet.format, sheet.size) == ("JPEG", (5 * 128, 5 * 64))


def test_a_video_is_streamed_and_read_in_parts(client: OpenAI, video_id: str) -> None:
    whole = client.videos.download_content(video_id).content
    with client.videos.with_streaming_response.download_content(video_id) as response:
        assert response.headers["content-type"] == "video/mp4"
        assert b"".join(response.iter_bytes(1000)) == whole
    part = client.videos.download_content(video_id, extra_headers={"Range": "bytes=4-7"})
    assert (part.response.status_code, part.content) == (206, b"ftyp")


def test_the_asynchronous_client_does_the_same(service: Service, video_id: str) -> None:
    async def use() -> tuple[Any, bytes, list[str], bytes]:
        async with AsyncOpenAI(**service.access) as client:
            video = await client.videos.create_and_poll(prompt="a cat", input_reference=CAT)
            content = await client.videos.download_content(video.id)
            listed = [found.id async for found in client.videos.list(limit=2)]
            async with client.videos.with_streaming_response.download_content(video_id) as response:
                streamed = await response.read()
            return video, content.content, listed, streamed

    video, content, listed, streamed = asyncio.run(use())
    assert video.status == "completed"
    assert content[4:8] == streamed[4:8] == b"ftyp"
    assert listed[0] == video.id
    assert video_id in listed


def test_a_list_pages_by_itself_both_ways(client: OpenAI, video_id: str) -> None:
    made = [client.videos.create(prompt=str(number), input_reference=CAT).id for number in range(4)]
    newest = [video.id for video in client.videos.list(limit=2)]
    assert newest[:4] == made[::-1]
    assert [video.id for video in client.videos.list(limit=3, order="asc")] == newest[::-1]
    assert [video.id for video in client.videos.list(after=made[1], order="asc")] == made[2:]
    page = client.videos.list(limit=2)
    assert (page.has_more, page.last_id) == (True, made[2])
    assert video_id in newest


def test_a_deleted_video_is_gone(client: OpenAI) -> None:
    video = client.videos.create_and_poll(prompt="a cat", input_reference=CAT)
    deleted = client.videos.delete(video.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (video.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError) as error:
        client.videos.retrieve(video.id)
    assert (error.value.status_code, error.value.code) == (404, "task_not_found")
    assert video.id not in [found.id for found in client.videos.list()]


def test_a_remix_keeps_the_picture_and_the_lineage(client: OpenAI, video_id: str) -> None:
    remix = client.videos.remix(video_id, prompt="at night", extra_body={"seed": 8})
    assert (remix.remixed_from_video_id, remix.prompt, remix.model_extra["seed"]) == (video_id, "at night", 8)
    assert client.videos.poll(remix.id).status == "completed"


def of(video_id: str) -> dict[str, Any]:
    """The client takes a file for `video` but no object, whatever its types say; `extra_body` carries one."""
    return {"video": openai.omit, "extra_body": {"video": {"id": video_id}}}


@pytest.mark.skipif(not hasattr(openai.resources.Videos, "extend"), reason="this version has no extensions")
def test_an_extension_is_one_longer_video(client: OpenAI, video_id: str) -> None:
    for given in (of(video_id), {"video": video_id.encode()}):
        longer = client.videos.poll(client.videos.extend(prompt="on", seconds="4", **given).id)
        assert (longer.status, longer.seconds, longer.model_extra["extended_from_video_id"]) == (
            "completed",
            "8",
            video_id,
        )
    before, after = (client.videos.download_content(each).content for each in (video_id, longer.id))
    assert duration(after) == 2 * duration(before) == 8


def duration(mp4: bytes) -> float:
    """In seconds, as the movie header has it."""
    _, _, scale, length = struct.unpack(">4I", mp4[mp4.index(b"mvhd") + 8 :][:16])
    return float(length / scale)


@pytest.mark.skipif(not hasattr(openai.resources.Videos, "edit"), reason="this version has no edits")
def test_an_edit_is_of_our_own_videos_only(client: OpenAI, video_id: str) -> None:
    edited = client.videos.edit(prompt="at night", **of(video_id))
    assert edited.remixed_from_video_id == video_id
    with pytest.raises(openai.UnprocessableEntityError) as error:
        client.videos.edit(prompt="at night", video=client.videos.download_content(video_id).content)
    assert (error.value.param, error.value.code) == ("video", "invalid_parameter")


def test_extra_fields_of_every_kind_arrive(client: OpenAI) -> None:
    video = client.videos.create(
        prompt="a cat",
        input_reference=CAT,
        size="64x64",
        extra_body={
            "seed": 7,
            "num_frames": 20,
            "enable_upscaling": False,
            "extra_params": {"motion": "zoom_in", "quality": 30},
        },
    )
    assert (video.size, video.seconds, video.model_extra["seed"]) == ("64x64", "2", 7)
    by_url = client.videos.create(prompt="a cat", extra_body={"input_reference": {"image_url": data_url()}})
    assert by_url.status in ("queued", "in_progress")


def data_url() -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(CAT.read_bytes()).decode()}"


def test_a_request_sent_again_makes_no_second_video(client: OpenAI) -> None:
    again = {"extra_headers": {"Idempotency-Key": "once"}}
    made = [client.videos.create(prompt="a cat", input_reference=CAT, **again).id for _ in range(2)]
    assert made[0] == made[1]


def test_errors_have_their_code_and_status(service: Service, client: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as invalid:
        client.videos.create(prompt="a cat", input_reference=CAT, model="sora-9")
    assert (invalid.value.status_code, invalid.value.code, invalid.value.param) == (422, "invalid_parameter", "model")
    with pytest.raises(openai.UnprocessableEntityError) as missing:
        client.videos.create(prompt="a cat")
    assert (missing.value.code, missing.value.param) == ("file_missing", "input_reference")
    with OpenAI(**service.access | {"api_key": "wrong"}) as stranger, pytest.raises(openai.AuthenticationError) as who:
        stranger.videos.list()
    assert (who.value.status_code, who.value.code) == (401, "unauthorized")


def test_a_failed_video_ends_the_waiting_with_its_error(service: Service, client: OpenAI) -> None:
    video = client.videos.create(prompt="a cat", input_reference=CAT, model="svd-xt")
    assert (video.status, video.model_extra["queue_position"]) == ("queued", 1)
    fail(service, video.id)
    ended = client.videos.poll(video.id)
    assert (ended.status, ended.error and ended.error.code) == ("failed", "gpu_out_of_memory")
    with pytest.raises(openai.APIStatusError) as error:
        client.videos.download_content(video.id)
    assert (error.value.status_code, error.value.code) == (410, "gpu_out_of_memory")


def test_a_video_that_is_not_there_yet_says_when_to_come_back(service: Service, client: OpenAI) -> None:
    video = client.videos.create(prompt="a cat", input_reference=CAT, model="svd-xt")
    response = client.videos.with_raw_response.retrieve(video.id)
    assert int(response.headers["openai-poll-after-ms"]) >= 250
    with OpenAI(**service.access, max_retries=0) as once, pytest.raises(openai.ConflictError) as error:
        once.videos.download_content(video.id)
    assert error.value.code == "not_ready"
    client.videos.delete(video.id)  # which cancels it
    assert service.ledger.task(video.id).status == "canceled"


def test_the_client_reads_our_callbacks(service: Service, client: OpenAI) -> None:
    secret = service.ledger.endpoints.secret(service.owner)
    with receiving(secret, port=service.receiver_port) as receiver:
        told = {"extra_body": {"callback_url": receiver.url}}
        made = client.videos.create(prompt="a cat", input_reference=CAT, **told).id
        failed, canceled = (
            client.videos.create(prompt="a cat", input_reference=CAT, model="svd-xt", **told).id for _ in range(2)
        )
        fail(service, failed)
        service.ledger.cancel(canceled)
        wait_until(lambda: len(receiver.received) == 3, what="three callbacks")
    events = [client.webhooks.unwrap(got.text, got.headers, secret=secret) for got in receiver.received]
    assert {event.data.id: event.type for event in events} == {
        made: "video.completed",
        failed: "video.failed",
        canceled: "video.failed",
    }
    assert all(event.id.startswith("evt_") and event.object == "event" for event in events)


def test_the_models_are_our_engines(client: OpenAI) -> None:
    (preview,) = client.models.list()
    assert (preview.id, preview.object, preview.owned_by) == ("preview", "model", "kinora")
    assert client.models.retrieve("preview") == preview
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-4")
    assert error.value.code == "model_not_found"


def test_a_base_url_without_v1_is_told_where_the_route_is(service: Service) -> None:
    picture = SAMPLES / "coffee.jpg"  # more than 64 KB
    client = OpenAI(api_key=service.key, base_url=service.stack.url, max_retries=0)
    with client, pytest.raises(openai.NotFoundError, match="there is /v1/videos"):
        client.videos.create(prompt="", input_reference=picture)
