"""Storage's contract, on a folder and on S3."""

import os
import socket
import threading
from pathlib import Path

import httpx2
import pytest

from core.errors import ArtifactNotFound, StorageUnavailable
from core.storage import STREAMING, Storage, artifact_key, input_key
from harness.hostile import hosting


def test_what_is_put_is_read_back(storage: Storage) -> None:
    storage.put(input_key("t", "picture"), b"picture")
    assert storage.read(input_key("t", "picture")) == b"picture"
    assert storage.size(input_key("t", "picture")) == 7


def test_a_file_is_put_from_its_path(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x" * 100_000)
    storage.put("tasks/t/s/1/video.mp4", tmp_path / "clip.mp4")
    assert storage.size("tasks/t/s/1/video.mp4") == 100_000


def test_a_copy_outlives_what_it_was_made_of(storage: Storage) -> None:
    storage.put(artifact_key("t", "s", 1, "video.mp4"), b"video")
    storage.copy(artifact_key("t", "s", 1, "video.mp4"), input_key("u", "picture"))
    storage.delete_task("t")
    assert storage.read(input_key("u", "picture")) == b"video"
    with pytest.raises(ArtifactNotFound):
        storage.copy(input_key("nobody", "picture"), input_key("v", "picture"))


def test_a_range_is_streamed(storage: Storage) -> None:
    data = bytes(range(256)) * 10_000
    storage.put("tasks/t/big", data)
    assert b"".join(storage.stream("tasks/t/big", 1_000, 2_000_000)) == data[1_000:2_000_000]
    assert b"".join(storage.stream("tasks/t/big", 0, len(data))) == data


def test_a_file_is_written_part_by_part(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.storage.DOWNLOAD_BYTES", 1000)
    for size in (0, 1000, 2500):
        storage.put("tasks/t/big", data := bytes(range(250)) * (size // 250))
        storage.download("tasks/t/big", tmp_path / "big")
        assert (tmp_path / "big").read_bytes() == data


def test_what_is_not_there_is_not_found(storage: Storage, tmp_path: Path) -> None:
    download = lambda key: storage.download(key, tmp_path / "nobody")  # noqa: E731 - one expression, used here alone
    for look in (storage.read, storage.size, download, lambda key: storage.stream(key, 0, 1)):
        with pytest.raises(ArtifactNotFound):
            look("tasks/nobody/input")


def test_an_object_store_opens_one_object_by_a_link(request: pytest.FixtureRequest, storage: Storage) -> None:
    key = artifact_key("t", "s", 1, "video.mp4")
    storage.put(key, b"video")
    if "folder" in request.node.name:
        with pytest.raises(ValueError, match="no links"):
            storage.link(key, 60)
        return
    answer = httpx2.get(storage.link(key, 60))
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"video", "video/mp4")


def test_deleting_a_task_leaves_the_others(storage: Storage) -> None:
    storage.put(input_key("gone", "picture"), b"1")
    storage.put(artifact_key("gone", "s", 1, "video.mp4"), b"2")
    storage.put(input_key("kept", "picture"), b"3")
    storage.delete_task("gone")
    storage.delete_task("gone")
    with pytest.raises(ArtifactNotFound):
        storage.read(artifact_key("gone", "s", 1, "video.mp4"))
    assert storage.read(input_key("kept", "picture")) == b"3"
    assert list(storage.task_ids()) == ["kept"]


def test_deleting_an_attempt_leaves_the_others(storage: Storage) -> None:
    keys = [artifact_key("t", "s", attempt, "video.mp4") for attempt in (1, 2, 10)]
    for key in (input_key("t", "picture"), *keys):
        storage.put(key, b"x")
    storage.delete_attempt("t", "s", 1)
    storage.delete_attempt("t", "s", 1)
    with pytest.raises(ArtifactNotFound):
        storage.read(keys[0])
    assert {storage.read(key) for key in (input_key("t", "picture"), *keys[1:])} == {b"x"}


def test_two_attempts_never_share_a_key() -> None:
    assert artifact_key("t", "s", 1, "video.mp4") != artifact_key("t", "s", 2, "video.mp4")


def test_a_storage_that_answers_can_be_pinged_which_leaves_nothing_in_it(storage: Storage) -> None:
    storage.ping()
    assert list(storage.task_ids()) == []


def test_a_store_that_is_away_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(StorageUnavailable):
        Storage("s3://bucket").read("x")


def test_a_stream_goes_on_although_its_object_is_deleted(storage: Storage) -> None:
    data = bytes(range(256)) * 40_000
    storage.put("tasks/t/big", data)
    stream = storage.stream("tasks/t/big", 0, len(data))
    first = next(stream)
    storage.delete_task("t")
    assert first + b"".join(stream) == data
    with pytest.raises(ArtifactNotFound):
        storage.stream("tasks/t/big", 0, len(data))


def test_a_reader_may_be_slower_than_a_store_may_be(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.storage.STREAMING", STREAMING | {"read_timeout": "300ms"})
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    for name, value in ({"AWS_ENDPOINT": s3_endpoint, "AWS_ALLOW_HTTP": "true"} | keys).items():
        monkeypatch.setenv(name, value)
    httpx2.put(f"{s3_endpoint}/slowly")
    (storage := Storage("s3://slowly")).put("big", data := bytes(range(256)) * 80_000)
    stream = storage.stream("big", 0, len(data))
    found = [next(stream)]
    threading.Event().wait(1)
    assert b"".join([*found, *stream]) == data


def test_a_file_that_becomes_shorter_is_no_stream_that_ends(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}")
    storage.put("tasks/t/big", bytes(2_000_000))
    stream = storage.stream("tasks/t/big", 0, 2_000_000)
    os.truncate(tmp_path / "tasks/t/big", 1_000_000)
    with pytest.raises(StorageUnavailable):
        list(stream)


def test_a_store_that_falls_silent_in_the_middle_of_a_stream_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its reader would hold a thread of the API server for as long as the store likes."""
    monkeypatch.setattr("core.storage.STREAMING", STREAMING | {"read_timeout": "300ms"})
    monkeypatch.setattr("core.storage.RETRY", {"max_retries": 0})
    silent = threading.Event()

    def answer(connection: socket.socket) -> None:
        head = "HTTP/1.1 206 Partial Content\r\nContent-Length: 2000000\r\nContent-Range: bytes 0-1999999/2000000\r\n"
        head += 'Last-Modified: Mon, 30 Nov 2026 12:00:00 GMT\r\nETag: "x"\r\n\r\n'
        connection.sendall(head.encode() + bytes(1_000_000))
        silent.wait(60)

    with hosting(answer) as host:
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
        for name, value in ({"AWS_ENDPOINT": f"http://{host.netloc}", "AWS_ALLOW_HTTP": "true"} | keys).items():
            monkeypatch.setenv(name, value)
        stream = Storage("s3://bucket").stream("x", 0, 2_000_000)
        assert next(stream)
        with pytest.raises(StorageUnavailable):
            list(stream)
        silent.set()
