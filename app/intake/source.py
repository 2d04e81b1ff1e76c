"""What a clip is made from: a picture that is sent, one that is fetched, or what an earlier task had or made."""

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import BinaryIO

from fastapi import UploadFile

from app.intake.picture_text import decode_text
from app.services import Services
from app.upload_size import BASE64_GROWTH
from core.config.settings import Settings
from core.errors import (
    ArtifactNotFound,
    FileMissing,
    ImageUnsupported,
    InvalidRequest,
    TaskGone,
    UploadTooLarge,
)
from core.picture import size_of
from core.requests.clip import ClipRequest
from core.storage import Storage, input_key
from core.task import Input, Task

TEXT_RULE = "text must be base64, a data: URL or an http(s) URL"
NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class SentPicture:
    file: BinaryIO
    """On disk if it came as one: it waits for its turn there, and not in memory."""
    param: str
    """The field that it was sent in, as the caller calls it."""
    is_text: bool = False
    """Whether it came as text, base64 or not."""

    @cached_property
    def sha256(self) -> str:
        self.file.seek(0)
        return hashlib.file_digest(self.file, "sha256").hexdigest()  # type: ignore[arg-type]  # it has readinto


@dataclass(frozen=True)
class PictureUrl:
    url: str
    param: str


@dataclass(frozen=True)
class Remix:
    """What `task` was made from, once more."""

    task: Task


@dataclass(frozen=True)
class Extension:
    """The video that `task` made, to go on where it ends."""

    task: Task


Source = SentPicture | PictureUrl | Remix | Extension
"""A picture, the URL of one, or what an earlier task had or made."""


@dataclass(frozen=True)
class Sizing:
    """How a clip's size follows from its picture's."""

    name: str
    choose_size: Callable[[tuple[int, int]], ClipRequest]
    """What is asked for, given width and height. May raise InvalidRequest."""


@dataclass(frozen=True)
class Gathered:
    """What a new task keeps. `store(key)` puts it into the storage."""

    role: str
    media_type: str
    sha256: str
    """Of what was sent."""
    stored_bytes: int
    store: Callable[[str], None]
    size: tuple[int, int] | None = None
    """Of the picture, upright: width and height."""

    def input_of(self, task_id: str) -> Input:
        """Return how the task `task_id` refers to it."""
        return Input(self.role, input_key(task_id, self.role), self.sha256, self.media_type)


@contextmanager
def gathering(source: Source, services: Services, owner: str) -> Iterator[Callable[[], Gathered]]:
    """Yield what gathers the input. A picture that was sent is being decoded meanwhile; nothing else is begun before
    it is called, which raises InvalidRequest for what the caller can mend, TaskGone, QueueFull, StorageUnavailable."""
    with ExitStack() as held:
        if isinstance(source, SentPicture):
            picture = held.enter_context(decoding(source, services, owner))
            yield lambda: sent(source, picture, services.storage)
        elif isinstance(source, PictureUrl):
            yield lambda: fetched(source, services, owner, held)
        else:
            yield partial(taken_over, source, services)


def decoding(given: SentPicture, services: Services, owner: str) -> AbstractContextManager[Callable[[], bytearray]]:
    return services.decoder.decoding(given.file, services.settings.max_image_megapixels, owner)


def sent(given: SentPicture, picture: Callable[[], bytearray], storage: Storage) -> Gathered:
    sha256 = given.sha256  # beside the decoding, if a child was free for it
    with refused_by_its_field(given):
        clean = picture()
    media_type = "image/png" if clean.startswith(b"\x89PNG") else "image/jpeg"
    return Gathered("picture", media_type, sha256, len(clean), lambda key: storage.put(key, clean), size_of(clean))


@contextmanager
def refused_by_its_field(given: SentPicture) -> Iterator[None]:
    """What is wrong with a picture is said of the field that it was sent in; the sandbox calls each one `file`."""
    try:
        yield
    except InvalidRequest as error:
        message = re.sub("^file ", f"{given.param} ", error.message)
        if given.is_text and isinstance(error, ImageUnsupported):
            message += f"; {TEXT_RULE}"
        raise type(error)(message, param=given.param) from error


def fetched(source: PictureUrl, services: Services, owner: str, held: ExitStack) -> Gathered:
    """Return what is at a URL; `held` has its places among those who fetch and decode, until it is stored."""
    content = held.enter_context(services.fetcher.fetched_picture(source.url, services.settings, owner, source.param))
    given = SentPicture(io.BytesIO(content), source.param)
    return sent(given, held.enter_context(decoding(given, services, owner)), services.storage)


def taken_over(source: Remix | Extension, services: Services) -> Gathered:
    before, storage = earlier_input(source, services), services.storage
    try:
        return Gathered(
            before.role,
            before.media_type,
            before.sha256,
            storage.size(before.key),
            partial(storage.copy, before.key),
        )
    except ArtifactNotFound as error:
        raise TaskGone("what it would be made from was deleted", reason="result_expired") from error


def earlier_input(source: Remix | Extension, services: Services) -> Input:
    """Return what an earlier task was made from, or the video that it made."""
    task = source.task
    if isinstance(source, Extension):
        video = services.ledger.artifacts(task.task_id)["video"]
        return Input("video", video.key, (task.receipt or {})["output_sha256"], "video/mp4")
    return services.ledger.inputs(task.task_id)["video" if "continues" in task.params else "picture"]


def name_of(source: Source) -> str:
    """The same for the same source, and for no other."""
    if isinstance(source, SentPicture):
        return source.sha256
    return source.url if isinstance(source, PictureUrl) else f"{type(source).__name__} of {source.task.task_id}"


def uploaded(given: UploadFile | None, settings: Settings, param: str) -> SentPicture | PictureUrl:
    """The picture in a form's field, or the URL that stands there. Raises FileMissing, UploadTooLarge,
    InvalidParameter."""
    if given is None:
        raise FileMissing(f"no picture was sent: give one as {param}", param=param)
    if not is_text(given.file):
        return checked(SentPicture(given.file, param), settings)
    return read_text(given.file, settings, param)


def is_text(file: BinaryIO) -> bool:
    """Clients send a picture's own bytes, its base64 or its URL under any name and media type."""
    file.seek(0)
    is_text = not NO_TEXT.search(file.read(1000))
    file.seek(0)
    return is_text


def size_of_file(file: BinaryIO) -> int:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def read_text(file: BinaryIO, settings: Settings, param: str) -> SentPicture | PictureUrl:
    """Return the URL in a text, or the picture that it is the base64 or the `data:` URL of: the file itself, which is
    decoded in its place. An object may stand around it, as its `image_url`, and spaces and quotes.

    What is no base64 is given back as it is: whether it is a picture is judged where it is decoded. Raises FileMissing,
    UploadTooLarge, InvalidParameter."""
    if size_of_file(file) > settings.max_upload_mb * 1_000_000 * BASE64_GROWTH:
        raise too_large(settings, param)
    url = decode_text(file, param)
    return PictureUrl(url, param) if url else checked(SentPicture(file, param, is_text=True), settings)


def checked(given: SentPicture, settings: Settings) -> SentPicture:
    """Raises FileMissing, UploadTooLarge."""
    size = size_of_file(given.file)
    if size > settings.max_upload_mb * 1_000_000:
        raise too_large(settings, given.param)
    if not size:
        raise FileMissing(f"the picture in {given.param} is empty", param=given.param)
    return given


def too_large(settings: Settings, param: str) -> UploadTooLarge:
    return UploadTooLarge(f"the picture may have at most {settings.max_upload_mb} MB", param=param)
