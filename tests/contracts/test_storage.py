"""Storage's contract, on a folder and on S3."""

from pathlib import Path

import httpx2
import pytest

from core.errors import ArtifactNotFound, StorageUnavailable
from core.storage import Storage, artifact_key, input_key


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
