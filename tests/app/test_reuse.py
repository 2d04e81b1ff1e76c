"""What was made before is taken over: by the owner who asks for it, and only if it is there and whole."""

import hashlib
from dataclasses import replace
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.services import Services
from core.config.settings import Settings
from core.db.tables import steps
from core.engines.known import find_engine
from core.ids import new_id
from core.ledger.keys import Keys
from core.plan.clip import clip_graph
from core.plan.content_key import content_keys
from core.plan.graph import Graph, PlannedStep
from core.plan.steps import JoinClips, RenderClip
from core.requests.clip import Clip
from core.storage import artifact_key, input_key, reused_key
from core.task import Artifact, ErrorInfo, Input, NewTask, Step
from harness.pictures import CAT, png
from tests.app.conftest import worker_that_says

SMALL = {"width": 64, "height": 64, "num_frames": 2, "seed": 7, "engine": "preview"}
SMOOTH = SMALL | {"engine": "svd", "smooth_fps": 30}


def ask(client: TestClient, picture: bytes = CAT, **fields: Any) -> str:
    answer = client.post("/generate", files={"file": picture}, data=SMALL | {"reuse": "true"} | fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


def services_of(client: TestClient) -> Services:
    services: Any = client.app
    return cast(Services, services.state.services)


def do(services: Services, step: Step, data: bytes = b"video of a step") -> None:
    """As a worker would, but for the rendering."""
    claim = services.ledger.claim(step.step_id, "w", 60)
    assert claim is not None
    made = []
    for name, content in (("video.mp4", data), ("thumbnail.jpg", b"thumbnail")):
        key = artifact_key(step.task_id, step.step_id, 1, name)
        services.storage.put(key, content)
        sha256 = hashlib.sha256(content).hexdigest()
        made.append(Artifact(name.partition(".")[0], key, len(content), sha256))
    receipt = {"output_sha256": made[0].sha256, "parameters": {"seed": 7}}
    assert (
        services.ledger.finish(claim, made, receipt, {}, stored_bytes=sum(each.bytes or 0 for each in made)) is not None
    )


def make(services: Services, task_id: str) -> None:
    for step in steps_of(services, task_id):
        do(services, step)


def steps_of(services: Services, task_id: str) -> list[Step]:
    return services.ledger.task_with_steps(task_id)[1]


def statuses(services: Services, task_id: str) -> list[str]:
    return [str(step.status) for step in steps_of(services, task_id)]


@pytest.fixture
def first(client: TestClient, services: Services) -> str:
    """A finished task."""
    task_id = ask(client)
    make(services, task_id)
    return task_id


def test_the_same_clip_asked_for_twice_is_made_once(client: TestClient, services: Services, first: str) -> None:
    second = ask(client)
    status = client.get(f"/status/{second}").json()
    assert (status["status"], status["progress"], status["eta_seconds"]) == ("finished", 100, None)
    assert client.get(f"/results/{second}").content == b"video of a step"
    assert client.get(f"/results/{second}/thumbnail").content == b"thumbnail"
    assert status["receipt"]["reused_from"] == first
    assert services.queue.queued_ids("cpu") == {steps_of(services, first)[0].step_id}, "nobody is woken for the second"
    client.delete(f"/tasks/{first}")
    assert client.get(f"/results/{second}").content == b"video of a step", "it has a copy of its own"
    third = ask(client)
    assert client.get(f"/status/{third}").json()["receipt"]["reused_from"] == second


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"num_frames": 3},
        {"motion": "pan_left"},
        {"quality": 20},
        {"picture": png(80, 64)},
        {"reuse": "false"},
        {"engine": "svd"},
    ],
)
def test_another_clip_is_another(client: TestClient, services: Services, first: str, changes: dict[str, Any]) -> None:
    assert statuses(services, ask(client, **changes)) == ["queued"]


def test_what_is_made_without_asking_for_reuse_is_found_later(client: TestClient, services: Services) -> None:
    plain = ask(client, reuse="false")
    make(services, plain)
    again = ask(client, reuse="false")
    assert statuses(services, again) == ["queued"]
    assert statuses(services, ask(client)) == ["finished"]


def test_nobody_gets_what_another_owner_made(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.errors.LINGER_SECONDS", 0.01)
    with TestClient(create_app(settings.model_copy(update={"auth": "keys"}))) as client:
        services = services_of(client)
        keys: Keys = services.ledger.keys
        ann, eve = ({"Authorization": f"Bearer {keys.create(name)[1]}"} for name in ("ann", "eve"))
        client.headers.update(ann)
        make(services, ask(client))
        client.headers.update(eve)
        of_eve = ask(client)
        assert statuses(services, of_eve) == ["queued"]
        make(services, of_eve)
        client.headers.update(ann)
        assert statuses(services, ask(client)) == ["finished"]


def test_a_copy_counts_for_the_quota(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(create_app(settings.model_copy(update={"auth": "keys"}))) as client:
        services = services_of(client)
        _, key = services.ledger.keys.create("ann")
        client.headers["Authorization"] = f"Bearer {key}"
        make(services, ask(client))
        (before,) = (each.stored_bytes for each in services.ledger.keys.all())
        ask(client)
        (after,) = (each.stored_bytes for each in services.ledger.keys.all())
        assert after == 2 * before


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_damaged_or_missing_artifact_is_made_again(
    client: TestClient, services: Services, first: str, harm: str
) -> None:
    key = services.ledger.artifacts(first)["video"].key
    if harm == "damaged":
        services.storage.put(key, b"video of a stop")
    else:
        services.storage.delete_attempt(first, steps_of(services, first)[0].step_id, 1)
    again = ask(client)
    assert statuses(services, again) == ["queued"]
    make(services, again)
    assert statuses(services, ask(client)) == ["finished"], "by what was made last"


def test_a_retry_does_only_what_had_failed(client: TestClient, services: Services) -> None:
    task_id = ask(client, **SMOOTH)
    clip, smooth = steps_of(services, task_id)
    do(services, clip)
    claim = services.ledger.claim(smooth.step_id, "w", 60)
    assert claim is not None
    services.ledger.fail(claim, ErrorInfo("encoding_failed", "the disk is full"))
    answer = client.post(f"/tasks/{task_id}/retry")
    assert answer.status_code == 202
    again = answer.json()["task_id"]
    assert statuses(services, again) == ["finished", "queued"]
    assert services.ledger.task(again).retried_from == task_id
    claim = services.ledger.claim(steps_of(services, again)[1].step_id, "w", 60)
    assert claim is not None
    (made,) = claim.needs
    assert services.storage.read(made.artifacts["video"].key) == b"video of a step"
    assert made.artifacts["video"].key == reused_key(again, "clip", "video.mp4")


def test_of_what_has_a_later_step_nothing_is_copied(client: TestClient, services: Services) -> None:
    task_id = ask(client, **SMOOTH)
    make(services, task_id)
    again = ask(client, **SMOOTH)
    assert statuses(services, again) == ["finished", "finished"]
    stored = {path.parent.name for path in (services.settings.data_dir / "storage/tasks" / again).rglob("*.*")}
    assert stored == {"smooth"}


def test_a_retry_of_a_finished_task_is_a_copy(client: TestClient, services: Services, first: str) -> None:
    again = client.post(f"/tasks/{first}/retry").json()
    assert again["status"] == "finished"
    assert client.get(f"/results/{again['task_id']}").content == b"video of a step"


def test_what_cannot_be_made_again_says_why(client: TestClient, services: Services, first: str) -> None:
    waiting = ask(client, seed=9)
    answer = client.post(f"/tasks/{waiting}/retry")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_ready")
    services.storage.delete_task(first)
    services.ledger.mark_expired(first)
    answer = client.post(f"/tasks/{first}/retry")
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "result_expired")
    client.delete(f"/tasks/{first}")
    assert client.post(f"/tasks/{first}/retry").status_code == 404
    assert client.post(f"/tasks/{'0' * 32}/retry").status_code == 404


def two_clips(services: Services, task_id: str, params: dict[str, Any]) -> NewTask:
    """Return a task that is no clip: one of each of two pictures, joined, and a second film that may fail."""
    clip = Clip.model_validate(params)
    (one,) = clip_graph(clip, find_engine("preview", services.settings), "cpu", services.settings).steps
    planned = (
        replace(one, name="first"),
        replace(one, name="second", params=RenderClip(**vars(one.params) | {"begins_with": "last_frame"})),
        PlannedStep("film", JoinClips(crf=18), "cpu", ("first", "second"), weight=7.0),
        PlannedStep("short film", JoinClips(crf=40), "cpu", ("second",), essential=False, max_attempts=2),
    )
    graph = Graph(planned, "film")
    inputs = [Input(role, input_key(task_id, role), role * 8, "image/jpeg") for role in ("picture", "video")]
    for each in inputs:
        services.storage.put(each.key, each.role.encode())
    keys = content_keys(graph, {each.role: each.sha256 for each in inputs}, services.settings)
    return NewTask(task_id, "", "preview", params, inputs, [], graph.new_steps(keys), result_step="film")


def described(services: Services, task_id: str) -> list[Any]:
    names = {step.step_id: step.name for step in steps_of(services, task_id)}
    needs = services.ledger.needs(task_id)
    own = {"step_id", "task_id", "status", "attempt", "progress", "worker_id", "waits_for", "receipt", "error"}
    return [
        {name: value for name, value in vars(step).items() if name not in own}
        | {"needs": [names[each] for each in needs.get(step.step_id, [])]}
        for step in steps_of(services, task_id)
    ]


def test_a_retry_makes_the_steps_that_there_were_from_all_that_they_were_made_from(
    client: TestClient, services: Services, first: str
) -> None:
    services.ledger.create(film := two_clips(services, new_id(), services.ledger.task(first).params))
    one, two, whole, _ = steps_of(services, film.task_id)
    do(services, one)
    do(services, two, b"another video")
    claim = services.ledger.claim(whole.step_id, "w", 60)
    assert claim is not None
    services.ledger.fail(claim, ErrorInfo("encoding_failed", "the disk is full"))
    again = client.post(f"/tasks/{film.task_id}/retry").json()["task_id"]
    assert described(services, again) == described(services, film.task_id)
    assert statuses(services, again) == ["finished", "finished", "queued", "queued"]
    task = services.ledger.task(again)
    assert [step.name for step in steps_of(services, again) if step.step_id == task.result_step] == ["film"]
    remix = client.post(f"/v1/videos/{film.task_id}/remix", json={"prompt": "another"}).json()["id"]
    assert services.storage.read(services.ledger.inputs(remix)["picture"].key) == b"picture"
    copies = {role: services.storage.read(each.key) for role, each in services.ledger.inputs(again).items()}
    assert copies == {"picture": b"picture", "video": b"video"}


def test_the_result_is_copied_also_if_a_later_step_that_needs_it_is_there(
    client: TestClient, services: Services, first: str
) -> None:
    film = two_clips(services, new_id(), services.ledger.task(first).params)
    services.ledger.create(replace(film, result_step="second"))  # of which both films are made
    make(services, film.task_id)
    again = client.post(f"/tasks/{film.task_id}/retry").json()
    assert again["status"] == "finished"
    assert client.get(f"/results/{again['task_id']}").content == b"video of a step"


def test_a_retry_that_finds_no_room_copies_nothing(client: TestClient, services: Services, first: str) -> None:
    ask(client, seed="8")
    full = services.settings.model_copy(update={"max_waiting": 1})
    cast(Any, client.app).state.services = replace(services, settings=full)
    before = set((services.settings.data_dir / "storage/tasks").iterdir())
    answer = client.post(f"/tasks/{first}/retry")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert set((services.settings.data_dir / "storage/tasks").iterdir()) == before


@pytest.mark.parametrize("smoothed_in", ["cpu", "gpu"])
def test_a_retry_is_judged_by_what_is_left_of_it(client: TestClient, services: Services, smoothed_in: str) -> None:
    for queue, engine in {"gpu": "svd", smoothed_in: "svd" if smoothed_in == "gpu" else "preview"}.items():
        services.ledger.report_worker(worker_that_says(queue, queue, engine, None))
    task_id = ask(client, **SMOOTH)
    clip, smooth = steps_of(services, task_id)
    assert (clip.queue, smooth.queue) == ("gpu", smoothed_in)
    do(services, clip)
    claim = services.ledger.claim(smooth.step_id, "w", 60)
    assert claim is not None
    services.ledger.fail(claim, ErrorInfo("encoding_failed", "the disk is full"))
    ask(client, engine="svd", seed="8")
    if smoothed_in == "gpu":  # a worker that can do it elsewhere has come since
        services.ledger.report_worker(worker_that_says("cpu", "cpu", "preview", None))
    services.ledger.report_worker(worker_that_says("gpu", "cuda", "svd", "the weights are gone"))
    full = services.settings.model_copy(update={"max_waiting_per_queue": 1})
    cast(Any, client.app).state.services = replace(services, settings=full)
    answer = client.post(f"/tasks/{task_id}/retry")
    assert answer.status_code == 202, "gpu is full and has no engine, and it waits in cpu"
    assert [step.queue for step in steps_of(services, answer.json()["task_id"])] == ["gpu", "cpu"]


def test_a_step_of_a_newer_version_is_not_made_into_something_else(
    client: TestClient, services: Services, first: str
) -> None:
    (step,) = steps_of(services, first)
    with services.ledger.database.begin() as connection:
        connection.execute(steps.update().values(kind="storyboard", params=step.params | {"kind": "storyboard"}))
    answer = client.post(f"/tasks/{first}/retry")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_parameter")
    assert answer.json()["error"]["param"] == "task_id"
