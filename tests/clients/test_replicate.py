"""Code written for Replicate, with its own client."""

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from queue import Queue
from typing import Any

import httpx2
import pytest
import replicate
from replicate.exceptions import ReplicateError
from replicate.helpers import FileOutput
from replicate.pagination import paginate
from replicate.prediction import Prediction
from replicate.webhook import Webhooks, WebhookSigningSecret

from app.dialects.replicate.predictions import PUBLIC_MODELS, request_of, seconds_to_wait, size_by
from core.callbacks.payloads.replicate import bar
from core.errors import InvalidParameter
from harness.pictures import SAMPLES
from tests.clients.conftest import Service, frames_of

SVD, CAT = "stability-ai/stable-video-diffusion", SAMPLES / "cat.jpg"
VERSION = PUBLIC_MODELS[SVD]
SMALL = {"width": 64, "height": 64, "num_frames": 2}


@contextmanager
def client_of(service: Service, key: str) -> Iterator[replicate.Client]:
    client = replicate.Client(api_token=key, base_url=service.url)
    yield client
    client._client.close()  # it has no way of its own to be closed


@pytest.fixture
def client(service: Service) -> Iterator[replicate.Client]:
    with client_of(service, service.ann) as client:
        yield client


def download(url: str) -> bytes:
    """Without a key: the link is signed."""
    return httpx2.get(url).raise_for_status().content


def test_run_takes_an_open_file_and_gives_the_video(client: replicate.Client) -> None:
    with CAT.open("rb") as file:
        output = client.run(
            f"{SVD}:{VERSION}",
            input={
                "input_image": file,
                "video_length": "14_frames_with_svd",
                "sizing_strategy": "maintain_aspect_ratio",
                "frames_per_second": 6,
                "motion_bucket_id": 127,
                "cond_aug": 0.02,
                "decoding_t": 14,
                "seed": 3,
            },
        )
    assert frames_of(download(output)) == (14, 448, 256)
    assert FileOutput(output, client).read() == download(output)


def test_run_waits_for_as_long_as_it_takes_where_the_service_does_not(
    client: replicate.Client, service: Service
) -> None:
    worker = service.stack.processes["worker-cpu"]
    worker.send_signal(signal.SIGSTOP)
    goes_on = threading.Timer(2.5, worker.send_signal, [signal.SIGCONT])
    goes_on.start()
    output = client.run(f"{SVD}:{VERSION}", input=SMALL | {"input_image": CAT}, wait=1)
    goes_on.join()
    assert frames_of(download(output)) == (2, 64, 64)


@pytest.mark.parametrize("model", [SVD, "kinora/preview"])
def test_a_model_is_looked_up_before_it_is_run(client: replicate.Client, model: str) -> None:
    found = client.models.get(model)
    assert (found.id, found.visibility) == (model, "public")
    (version,) = found.versions.list()
    assert version == found.latest_version == found.versions.get(version.id)
    for ref in (found, version):
        output = client.run(ref, input=SMALL | {"image": CAT})
        assert frames_of(download(output)) == (2, 64, 64)


def test_a_model_that_is_not_there_is_told_from_those_that_are(client: replicate.Client) -> None:
    for name in ("stability-ai/sdxl", "kinora/none"):
        with pytest.raises(ReplicateError, match="version or model must be one of auto, svd-xt") as refused:
            client.models.get(name)
        assert (refused.value.status, refused.value.title) == (404, "model_not_found")


def test_no_output_comes_piece_by_piece(client: replicate.Client) -> None:
    picture = {"image": client.files.create(CAT).urls["get"]}
    with pytest.raises(ReplicateError, match="stream must be false"):
        list(client.stream("kinora/preview", input=SMALL | picture))
    assert client.predictions.create(version="preview", input=SMALL | picture, stream=False).id


def test_a_file_is_told_as_it_was_handed_over(client: replicate.Client) -> None:
    given = {"filename": "a.jpg", "content_type": "image/jpeg", "metadata": {"of": ["a", {"cat": 1.5}]}}
    file = client.files.create(BytesIO(CAT.read_bytes()), **given)
    assert {"filename": file.name, "content_type": file.content_type, "metadata": file.metadata} == given
    assert file.size == CAT.stat().st_size
    for wrong in ("[]", "{", '{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', '{"a":' + "[" * 200 + "]" * 200 + "}"):
        with pytest.raises(ReplicateError, match="invalid_parameter"):
            client._request("POST", "/v1/files", files={"content": b"x"}, data={"metadata": wrong})


@pytest.mark.parametrize("strategy", ["base64", "url"])
def test_a_picture_may_be_sent_either_way(client: replicate.Client, strategy: Any) -> None:
    output = client.run("kinora/preview", input=SMALL | {"image": CAT}, file_encoding_strategy=strategy)
    assert frames_of(download(output)) == (2, 64, 64)


def test_a_prediction_is_followed_to_its_end(client: replicate.Client) -> None:
    picture = {"image": client.files.create(CAT).urls["get"]}
    prediction = client.predictions.create(version="preview", input=SMALL | picture)
    assert prediction.status in ("starting", "processing", "succeeded")
    assert (prediction.model, prediction.version) == ("kinora/preview", "preview")
    prediction.wait()
    assert (prediction.status, prediction.error) == ("succeeded", None)
    assert prediction.progress is not None
    assert prediction.progress.percentage == 1.0
    assert prediction.metrics is not None
    assert prediction.metrics["predict_time"] > 0
    assert prediction.input is not None
    assert prediction.input["num_frames"] == 2
    assert client.predictions.get(prediction.id).output is not None


def test_a_prediction_is_canceled(client: replicate.Client) -> None:
    long = {"image": client.files.create(CAT).urls["get"], "num_frames": 600}
    prediction = client.models.predictions.create("kinora/preview", input=long)
    prediction.cancel()
    assert prediction.status == "canceled"
    assert client.predictions.cancel(prediction.id).status == "canceled"
    assert prediction.output is None


def test_the_pages_go_both_ways(client: replicate.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = {"image": client.files.create(CAT).urls["get"]}
    for _ in range(3):
        client.predictions.create(version="preview", input=SMALL | picture)
    newest = [prediction.id for prediction in client.predictions.list()][:3]
    assert newest == sorted(newest, reverse=True)
    assert sum(len(page) for page in paginate(client.predictions.list)) >= 3
    older = client.predictions.list(f"/v1/predictions?cursor=older-{newest[0]}")
    assert [prediction.id for prediction in older][:2] == newest[1:]
    back = client.predictions.list(older.previous)
    assert [prediction.id for prediction in back] == newest[:1]
    assert back.previous is None
    assert client.predictions.list(back.next)[0].id == newest[1]


def test_it_works_without_blocking(service: Service) -> None:
    client = replicate.Client(api_token=service.ann, base_url=service.url)

    async def make() -> list[tuple[int, int, int]]:
        one = client.async_run(f"{SVD}:{VERSION}", input=SMALL | {"input_image": CAT})
        another = client.async_run(SVD, input=SMALL | {"input_image": CAT})
        made = [await FileOutput(url, client).aread() for url in await asyncio.gather(one, another)]
        await client._async_client.aclose()
        return [frames_of(mp4) for mp4 in made]

    assert asyncio.run(make()) == [(2, 64, 64)] * 2


@pytest.mark.parametrize(
    ("version", "given", "code", "said"),
    [
        ("preview", {}, "file_missing", "give one picture"),
        ("preview", {"image": "http://127.0.0.1/x.png"}, "destination_forbidden", "image"),
        ("f" * 64, {"image": "aGVsbG8="}, "invalid_parameter", "version or model must be one of auto, svd-xt"),
        (
            "preview",
            {"image": "aGVsbG8=", "sizing_strategy": "?"},
            "invalid_parameter",
            "sizing_strategy must be one of",
        ),
        ("preview", {"image": "aGVsbG8=", "prompts": "?"}, "invalid_parameter", "prompts is no input of this model"),
        ("preview", {"image": "aGVsbG8=", "frames_per_second": "x"}, "invalid_parameter", "frames_per_second"),
        ("preview", {"image": "aGVsbG8=", "engine": "svd"}, "invalid_parameter", "engine must be preview"),
        ("preview", {"image": "aGVsbG8="}, "image_unsupported", "image must be a JPEG"),
    ],
)
def test_a_refusal_can_be_read(
    client: replicate.Client, version: str, given: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(ReplicateError) as refused:
        client.predictions.create(version=version, input=given)
    assert (refused.value.title, (refused.value.detail or "")[: len(said)]) == (code, said)
    assert refused.value.status in (415, 422)


@contextmanager
def listening(service: Service, secret: WebhookSigningSecret) -> Iterator[Queue[dict[str, Any]]]:
    """What comes, each validated as the client's documentation has it."""
    came: Queue[dict[str, Any]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            Webhooks.validate(headers=dict(self.headers), body=body, secret=secret, tolerance=60)
            came.put(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", service.hooks), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield came
        server.shutdown()
        thread.join()


def test_a_webhook_tells_the_prediction(client: replicate.Client, service: Service) -> None:
    with listening(service, client.webhooks.default.secret()) as came:
        picture = {"image": client.files.create(CAT).urls["get"]}
        hook = f"http://127.0.0.1:{service.hooks}/"
        made = client.predictions.create(
            version="preview", input=SMALL | picture, webhook=hook, webhook_events_filter=["completed"]
        )
        told = Prediction(**came.get(timeout=30))
    made.reload()
    assert (told.id, told.status, told.logs) == (made.id, "succeeded", made.logs)
    assert (told.metrics, told.input, told.completed_at) == (made.metrics, made.input, made.completed_at)
    assert (told.output or "").startswith(f"/results/{made.id}?expires=")  # a whole URL where PUBLIC_URL is set
    assert told.urls == {"get": f"/v1/predictions/{made.id}", "cancel": f"/v1/predictions/{made.id}/cancel"}


def test_a_webhook_is_told_the_end_only_where_that_is_asked_for(client: replicate.Client, service: Service) -> None:
    picture = {"image": client.files.create(CAT).urls["get"]}
    hook = {"webhook_completed": f"http://127.0.0.1:{service.hooks}/"}
    with listening(service, client.webhooks.default.secret()) as came:
        client.predictions.create(version="preview", input=SMALL | picture, **hook)
        assert came.get(timeout=30)["status"] == "succeeded"
        assert came.empty()
    for more in ({"webhook": hook["webhook_completed"]}, {"webhook_events_filter": ["start"]}):
        with pytest.raises(ReplicateError, match="webhook"):
            client.predictions.create(version="preview", input=SMALL | picture, **hook, **more)


def test_a_webhook_must_lead_somewhere_public(client: replicate.Client) -> None:
    with pytest.raises(ReplicateError, match="destination_forbidden"):
        client.predictions.create(version="preview", input={"image": "x"}, webhook="http://127.0.0.1/")


def test_anothers_prediction_is_not_there(client: replicate.Client, service: Service) -> None:
    picture = {"image": client.files.create(CAT).urls["get"]}
    mine = client.predictions.create(version="preview", input=SMALL | picture)
    with client_of(service, service.bob) as bob:
        for ask in (bob.predictions.get, bob.predictions.cancel):
            with pytest.raises(ReplicateError, match="task_not_found"):
                ask(mine.id)
        assert mine.id not in [prediction.id for prediction in bob.predictions.list()]


def test_the_names_of_the_public_models_are_translated() -> None:
    theirs = {"input_image": "…", "frames_per_second": 6, "cond_aug": 0.1, "decoding_t": 7, "motion_bucket_id": 5}
    request, sizing = request_of(
        theirs | {"video_length": "25_frames_with_svd_xt", "sizing_strategy": "crop_to_16_9"}, None
    )
    assert request.model_dump(exclude_none=True) == {
        "fps": 6,
        "noise_aug_strength": 0.1,
        "decode_chunk_size": 7,
        "motion_bucket_id": 5,
        "num_frames": 25,
    }
    assert sizing == "crop_to_16_9"
    assert request_of({"image": "…", "width": 64, "sizing_strategy": "crop_to_16_9"}, "svd")[1] is None


@pytest.mark.parametrize(
    ("sizing", "picture", "clip"),
    [
        ("crop_to_16_9", (300, 900), (1024, 576)),
        ("maintain_aspect_ratio", (2048, 1152), (1024, 576)),
        ("maintain_aspect_ratio", (1000, 1000), (576, 576)),
        ("maintain_aspect_ratio", (512, 512), (512, 512)),
        ("maintain_aspect_ratio", (1152, 2048), (320, 576)),
        ("use_image_dimensions", (1000, 700), (960, 640)),
    ],
)
def test_the_clip_gets_the_size_that_the_models_gave_it(
    sizing: str, picture: tuple[int, int], clip: tuple[int, int]
) -> None:
    assert size_by(sizing, *picture) == clip


def test_half_a_character_is_refused_and_breaks_nothing(service: Service) -> None:
    for given in ({"image": "\ud800"}, {"image": "x", "\ud800": 1}):
        answer = httpx2.post(
            f"{service.url}/v1/predictions",
            content=json.dumps({"version": "preview", "input": given}).encode(),
            headers={"X-API-Key": service.ann, "Content-Type": "application/json"},
        )
        assert answer.json()["title"] == "invalid_parameter", answer.text


def test_prefer_says_how_long_to_wait() -> None:
    asked = ["", "wait", "wait=5", "respond-async, wait=60", "return=minimal"]
    assert [seconds_to_wait(header) for header in asked] == [0, 60, 5, 60, 0]
    for wrong in ("wait=0", "wait=61", "wait=x", "wait=-1"):
        with pytest.raises(InvalidParameter, match="from 1 to 60"):
            seconds_to_wait(wrong)


def test_progress_is_drawn_as_the_client_reads_it() -> None:
    read = Prediction.Progress.parse(f"a warning\n{bar(42)}")
    assert read is not None
    assert (read.percentage, read.current, read.total) == (0.42, 42, 100)


@pytest.mark.parametrize("base", ["/v1", "/api"])
def test_a_wrong_base_url_is_told_apart_from_a_picture_too_large(service: Service, base: str) -> None:
    client = replicate.Client(api_token=service.ann, base_url=service.url + base)
    with (SAMPLES / "coffee.jpg").open("rb") as file, pytest.raises(ReplicateError) as refused:
        client.run("kinora/auto", input={"image": file})
    client._client.close()
    assert (refused.value.status, refused.value.title) == (404, "not_found")
    assert refused.value.detail == f"there is no {base}/v1/files here; there is /v1/files"


def test_the_address_may_end_with_a_slash_and_come_from_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_BASE_URL", f"{service.url}/")
    monkeypatch.setenv("REPLICATE_API_TOKEN", service.ann)
    client = replicate.Client()
    with (SAMPLES / "coffee.jpg").open("rb") as file:
        output = client.run("kinora/preview", input=SMALL | {"image": file})
    client._client.close()
    assert frames_of(download(output)) == (2, 64, 64)


def test_what_is_not_here_is_told_so(client: replicate.Client) -> None:
    asks = (client.accounts.current, client.collections.list, client.deployments.list, client.hardware.list)
    for ask in (*asks, client.trainings.list):
        with pytest.raises(ReplicateError, match=r"detail: there is no /v1/\w+ here"):
            ask()
