"""Replicate's files: its clients hand a picture over before they name it as a model's input."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import Form, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from app.base64_json import json_with_base64
from app.errors import documented
from app.intake.form import FormRoute
from app.router import create_router
from app.services import ServicesDep
from app.strict_json import read_json
from core import errors
from core.errors import FileMissing, InvalidParameter, UploadTooLarge
from core.ids import new_id

KIND = "application/octet-stream"
MOST_INSIDE = 100  # objects and lists of the metadata, which may stand in one another

router = create_router(tags=["replicate"], route_class=FormRoute)


class File(BaseModel):
    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: dict[str, Any]
    created_at: datetime
    expires_at: datetime
    urls: dict[str, str] = Field(description="`get` is the file itself, as a `data:` URL: nothing is kept")


@router.post(
    "/v1/files",
    status_code=201,
    summary="Hand a picture over",
    responses=documented(errors.InvalidParameter, errors.FileMissing, errors.UploadTooLarge)
    | {201: {"model": File, "description": "What the client names as the model's input"}},
)
def create_file(
    content: UploadFile,
    services: ServicesDep,
    metadata: Annotated[str, Form(description="A JSON object, which the answer repeats")] = "{}",
) -> StreamingResponse:
    """Nothing is kept: the file's URL is the file, and comes back with the prediction."""
    size, sha256, now = content.size or 0, hashlib.sha256(), datetime.now(UTC)
    if not size:
        raise FileMissing("the file in content is empty", param="content")
    if size > services.settings.max_upload_mb * 1_000_000:
        raise UploadTooLarge(f"a file may have at most {services.settings.max_upload_mb} MB", param="content")
    for part in parts_of(content):
        sha256.update(part)
    file = File(
        id=new_id(),
        name=content.filename or "file",
        content_type=content.content_type or KIND,
        size=size,
        etag=sha256.hexdigest(),
        checksums={"sha256": sha256.hexdigest()},
        metadata=object_in(metadata),
        created_at=now,
        expires_at=now,
        urls={},
    ).model_dump(mode="json")
    answer = json_with_base64(lambda data: file | {"urls": {"get": f"data:{KIND};base64,{data}"}}, parts_of(content))
    return StreamingResponse(answer, 201, media_type="application/json")


def object_in(metadata: str) -> dict[str, Any]:
    """Raises InvalidParameter."""
    if metadata.count("{") + metadata.count("[") > MOST_INSIDE:
        raise InvalidParameter(f"metadata may have at most {MOST_INSIDE} objects and lists", param="metadata")
    try:
        found = read_json(metadata)
        json.dumps(found, allow_nan=False)
    except (HTTPException, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InvalidParameter("metadata must be a JSON object", param="metadata")
    return found


def parts_of(file: UploadFile) -> Iterator[bytes]:
    file.file.seek(0)
    return iter(partial(file.file.read, 1 << 18), b"")
