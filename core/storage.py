"""Bytes by key: a folder by default, an object store by `STORAGE_URL`. Inputs and artifacts, nothing else."""

import hashlib
import mimetypes
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store, from_url

from core.errors import ArtifactNotFound, StorageUnavailable, Unusable

if TYPE_CHECKING:  # obstore keeps this type out of the running module
    from obstore.store import ClientConfig, RetryConfig

PART_BYTES = 1 << 17  # a reader who does not read holds two of them in memory
DOWNLOAD_BYTES = 5_000_000
HURRY: "ClientConfig" = {"timeout": "2s", "connect_timeout": "1s", "allow_http": True}  # the endpoint is the operator's
PATIENCE: "ClientConfig" = {"timeout": "15s", "connect_timeout": "3s", "allow_http": True}  # for one part of 5 MB
# For a whole file, whose reader may take his time: the bound is on the store's silence while we wait for it.
STREAMING = {"timeout": "1d", "read_timeout": "15s", "connect_timeout": "3s", "allow_http": True}
RETRY: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}


def input_key(task_id: str, role: str) -> str:
    return f"{input_prefix(task_id)}s/{role}"


def input_prefix(task_id: str) -> str:
    """Return what the keys of a task's inputs begin with; older versions had one input, `input`."""
    return f"{task_prefix(task_id)}input"


def artifact_key(task_id: str, step_id: str, attempt: int, name: str) -> str:
    """Every attempt writes to a place of its own, so that a late one cannot overwrite a newer one's bytes."""
    return f"{attempt_prefix(task_id, step_id, attempt)}{name}"


def task_prefix(task_id: str) -> str:
    return f"tasks/{task_id}/"


def reused_key(task_id: str, step_name: str, name: str) -> str:
    """Return where a task keeps its copy of what another one's step has made."""
    return f"{reused_prefix(task_id)}{step_name}/{name}"


def reused_prefix(task_id: str) -> str:
    return f"{task_prefix(task_id)}reused/"


def attempt_prefix(task_id: str, step_id: str, attempt: int) -> str:
    return f"{task_prefix(task_id)}{step_id}/{attempt}/"


class Storage:
    def __init__(self, url: str) -> None:
        """Raises Unusable."""
        self._folder = Path(url.removeprefix("file://")) if url.startswith("file://") else None
        if self._folder:
            self._store: ObjectStore = folder_store(self._folder)
            self._probe: ObjectStore = self._store
            self._streamed: ObjectStore = self._store
        else:
            # Keys, endpoint and region of an object store come from its usual variables (AWS_…, GOOGLE_…, AZURE_…).
            self._store = from_url(url, retry_config=RETRY, client_options=PATIENCE)
            streaming = cast("ClientConfig", STREAMING)  # the library's types leave read_timeout out
            self._streamed = from_url(url, retry_config=RETRY, client_options=streaming)
            self._probe = from_url(url, retry_config={"max_retries": 0}, client_options=HURRY)

    def put(self, key: str, data: bytes | bytearray | Path) -> None:
        """Visible as a whole or not at all. An object store is told the media type that the key's ending says."""
        media_type = None if self._folder else mimetypes.guess_type(key)[0]
        with _translated(key):
            self._store.put(key, data, attributes={"Content-Type": media_type} if media_type else None)

    def copy(self, source: str, key: str) -> None:
        """Raises ArtifactNotFound."""
        with _translated(source):
            self._store.copy(source, key)

    def read(self, key: str) -> bytes:
        """Raises ArtifactNotFound."""
        with _translated(key):
            return bytes(self._store.get(key).bytes())

    def download(self, key: str, path: Path) -> None:
        """Write the bytes to a file, part by part. Raises ArtifactNotFound."""
        size = self.size(key)
        with path.open("wb") as file:
            for begun in range(0, size, DOWNLOAD_BYTES):
                file.write(self._part(key, begun, min(begun + DOWNLOAD_BYTES, size)))

    def size(self, key: str) -> int:
        """Bytes. Raises ArtifactNotFound."""
        with _translated(key):
            return self._store.head(key)["size"]

    def sha256(self, key: str) -> str:
        """Return the sum of the bytes, part by part. Raises ArtifactNotFound."""
        found = hashlib.sha256()
        for part in self.stream(key, 0, self.size(key)):
            found.update(part)
        return found.hexdigest()

    def stream(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`. Raises ArtifactNotFound before the first chunk, and
        StorageUnavailable, later too if the storage has fewer bytes.

        They come to the end although they are deleted meanwhile: the file is open, or the store's answer under way. A
        slow reader may take as long as he likes.
        """
        parts = self._parts(key, start, end)
        return chain(list(islice(parts, 1)), parts)

    def _parts(self, key: str, start: int, end: int) -> Iterator[bytes]:
        if start == end:
            return
        with _translated(key):
            if self._folder:
                yield from _parts_of(self._folder / key, start, end)
            else:
                found = obstore.get(self._streamed, key, options={"range": (start, end)})
                yield from map(bytes, found.stream(min_chunk_size=PART_BYTES))

    def _part(self, key: str, start: int, end: int) -> bytes:
        with _translated(key):
            return bytes(self._store.get_range(key, start=start, end=end))

    def link(self, key: str, seconds: int) -> str:
        """A URL of the store itself, which opens this one object to anyone for so long. A folder has none."""
        if not isinstance(self._store, (S3Store, GCSStore, AzureStore)):
            raise ValueError("a folder has no links")
        with _translated(key):
            return str(obstore.sign(self._store, "GET", key, timedelta(seconds=seconds)))

    def delete_task(self, task_id: str) -> None:
        """Delete all that a task ever stored; no error if there is nothing."""
        self._delete(task_prefix(task_id))

    def delete_attempt(self, task_id: str, step_id: str, attempt: int) -> None:
        """Delete all that one attempt stored; no error if there is nothing."""
        self._delete(attempt_prefix(task_id, step_id, attempt))

    def _delete(self, prefix: str) -> None:
        with _translated(prefix):
            keys = [found["path"] for page in self._store.list(prefix) for found in page]
            for key in keys:
                with suppress(FileNotFoundError):
                    self._store.delete(key)
            if self._folder:  # what a killed process had half written is in no list
                shutil.rmtree(self._folder / prefix, ignore_errors=True)

    def delete_upload(self, task_id: str) -> bool:
        """Delete what was stored for a task that was never recorded. False, and nothing, if more is stored:
        then there was a task, and a ledger that does not know it must not cost its results."""
        with _translated(task_id):
            keys = {found["path"] for page in self._store.list(task_prefix(task_id)) for found in page}
        if not all(key.startswith((input_prefix(task_id), reused_prefix(task_id))) for key in keys):
            return False
        self.delete_task(task_id)
        return True

    def task_ids(self) -> Iterator[str]:
        """Of every task that has anything stored."""
        with _translated("tasks/"):
            folders = self._store.list_with_delimiter("tasks/")["common_prefixes"]
        return (folder.rstrip("/").rpartition("/")[2] for folder in folders)

    def ping(self) -> None:
        """Raises StorageUnavailable."""
        with _translated("health"), suppress(FileNotFoundError):
            self._probe.head("health")


def _parts_of(path: Path, start: int, end: int) -> Iterator[bytes]:
    """Raises OSError."""
    with path.open("rb") as file:
        file.seek(start)
        while part := file.read(min(PART_BYTES, end - file.tell())):
            yield part
        if file.tell() < end:
            raise OSError(f"{path.name} became shorter while it was read")


def folder_store(folder: Path) -> LocalStore:
    """Raises Unusable."""
    try:
        return LocalStore(folder, mkdir=True, automatic_cleanup=True)
    except (BaseError, OSError) as error:
        reason = str(error).splitlines()[0]
        cure = "set DATA_DIR, or STORAGE_URL, to a folder that can be made and written to"
        raise Unusable(f"{cure}, for {folder}: {reason}") from error


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactNotFound(f"there is nothing stored as {key}") from error
    except (BaseError, OSError) as error:
        raise StorageUnavailable(f"the storage does not answer: {str(error).splitlines()[0]}") from error
