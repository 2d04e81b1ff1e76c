"""What a clip is made from: a picture that is sent, one that is fetched, or what an earlier task had or made."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from fastapi import UploadFile

from app.base64_json import BASE64_GROWTH
from app.services import Services
from core.config.settings import Settings
from core.errors import ArtifactNotFound, FileMissing, InvalidParameter, TaskGone, UploadTooLarge
from core.picture import size_of
from core.requests.clip import ClipRequest
from core.storage import Storage, input_key
from core.task import Input, Task

# How some clients wrap a URL; not read as JSON, which a large one would make expensive.
OBJECT = re.compile(rb'\s*{\s*"image_url"\s*:\s*"([^"]*)"\s*}\s*')
DATA_URL = re.compile(rb"data:[^,]{0,200};base64,", re.IGNORECASE)


@dataclass(frozen=True)
class Remix:
    """What `task` was made from, once more."""

    task: Task


@dataclass(frozen=True)
class Extension:
    """The video that `task` made, to go on where it ends."""

    task: Task


Source = bytes | str | Remix | Extension
"""A picture, the URL where one is, or what an earlier task had or made."""


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
    if isinstance(source, bytes):
        with services.decoder.decoding(source, services.settings.max_image_megapixels, owner) as picture:
            yield lambda: sent(source, picture, services.storage)
    else:
        yield partial(gather, source, services, owner)


def sent(given: bytes, picture: Callable[[], bytearray], storage: Storage) -> Gathered:
    sha256 = hashlib.sha256(given).hexdigest()  # beside the decoding, if a child was free for it
    clean = picture()
    media_type = "image/png" if clean.startswith(b"\x89PNG") else "image/jpeg"
    return Gathered("picture", media_type, sha256, len(clean), lambda key: storage.put(key, clean), size_of(clean))


def gather(source: str | Remix | Extension, services: Services, owner: str) -> Gathered:
    storage = services.storage
    if isinstance(source, (Remix, Extension)):
        before = earlier_input(source, services)
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
    fetched = services.fetcher.fetch_picture(source, services.settings, owner)
    return sent(
        fetched, partial(services.decoder.decode, fetched, services.settings.max_image_megapixels, owner), storage
    )


def earlier_input(source: Remix | Extension, services: Services) -> Input:
    """Return what an earlier task was made from, or the video that it made."""
    task = source.task
    if isinstance(source, Extension):
        video = services.ledger.artifacts(task.task_id)["video"]
        return Input("video", video.key, (task.receipt or {})["output_sha256"], "video/mp4")
    return services.ledger.inputs(task.task_id)["video" if "continues" in task.params else "picture"]


def name_of(source: Source) -> str:
    """The same for the same source, and for no other."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    return source if isinstance(source, str) else f"{type(source).__name__} of {source.task.task_id}"


def uploaded(given: UploadFile | None, settings: Settings, param: str) -> bytes | str:
    """The picture in a form's field, or the URL that stands there. Raises FileMissing, InvalidRequest."""
    if given is None:
        raise FileMissing(f"no picture was sent: give one as {param}", param=param)
    most = int(settings.max_upload_mb * 1_000_000 * BASE64_GROWTH)
    return read_picture(given.file.read(most + 1), settings, param)


def read_picture(given: bytes, settings: Settings, param: str) -> bytes | str:
    """A picture's own bytes, or those of its base64 or `data:` URL; or else the URL where it is. A URL may stand in an
    object, as its `image_url`.

    Told apart by what they are, since clients send any of them under any name and media type. Raises
    FileMissing, UploadTooLarge, InvalidParameter."""
    if found := OBJECT.fullmatch(given):
        given = found[1].replace(b"\\/", b"/")
    if given.startswith((b"http://", b"https://")):
        return given.decode(errors="replace")
    picture = from_base64(given, param)
    if len(picture) > settings.max_upload_mb * 1_000_000:
        raise UploadTooLarge(f"the picture may have at most {settings.max_upload_mb} MB", param=param)
    if not picture:
        raise FileMissing(f"the picture in {param} is empty", param=param)
    return picture


def from_base64(given: bytes, param: str) -> bytes:
    """What is no base64 is given back as it is: whether it is a picture is judged where it is decoded."""
    head = DATA_URL.match(given[:300])
    text = given[head.end() if head else 0 :]
    try:
        return base64.b64decode(text.translate(URL_SAFE, b"\r\n \t"), validate=True)
    except binascii.Error as error:
        if head:
            raise InvalidParameter(f"{param} holds a data: URL whose base64 is broken", param=param) from error
        return given


URL_SAFE = bytes.maketrans(b"-_", b"+/")
