"""GET /results/{task_id}: the MP4 and its thumbnail, streamed from storage."""

from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from app.errors import documented
from app.ranges import parse_range
from app.router import create_router
from app.services import Caller, CallerDep, Services, ServicesDep, needs_key
from app.tasks import require_result
from core import errors

# A result never changes once it is there.
CACHE = "private, max-age=86400, immutable"
# Long enough for a player to come back to the link for other parts of the video.
REDIRECT_SECONDS = 3600
REDIRECT = {
    307: {"description": "With `RESULT_REDIRECT`: the object store has it, and opens it for an hour, or `LINK_TTL`"}
}
ERRORS = documented(
    errors.TaskNotFound,
    errors.InvalidParameter,
    errors.ArtifactNotFound,
    errors.RangeNotSatisfiable,
    errors.NotReady,
    errors.TaskGone,
    errors.LedgerUnavailable,
    errors.StorageUnavailable,
)


def signed_link(
    expires: Annotated[str | None, Query(description="Until when the link opens, in seconds since 1970")] = None,
    signature: Annotated[str | None, Query(description="What `result_url` carries in the place of a key")] = None,
) -> None:
    """For the OpenAPI document: app/middleware/auth.py has read them."""


router = create_router([needs_key, Depends(signed_link)], tags=["results"])


@router.get(
    "/results/{task_id}",
    summary="Download the video",
    response_class=Response,
    responses=ERRORS
    | REDIRECT
    | {
        200: {"content": {"video/mp4": {}}},
        206: {"description": "The range that was asked for"},
        304: {"description": "The copy is still good"},
    },
)
@router.head("/results/{task_id}", include_in_schema=False)
def video(task_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """The MP4. Understands Range, If-Range and If-None-Match. 410 says why there is no video and never will be.
    A `result_url` with `expires` and `signature` needs no key."""
    return artifact_response(services, caller, request, task_id, "video", "mp4", "video/mp4")


@router.get(
    "/results/{task_id}/thumbnail",
    summary="Download the first frame",
    response_class=Response,
    responses=ERRORS
    | REDIRECT
    | {
        200: {"content": {"image/jpeg": {}}},
        206: {"description": "The range that was asked for"},
        304: {"description": "The copy is still good"},
    },
)
@router.head("/results/{task_id}/thumbnail", include_in_schema=False)
def thumbnail(task_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """The first frame as a JPEG."""
    return artifact_response(services, caller, request, task_id, "thumbnail", "jpg", "image/jpeg")


def artifact_response(
    services: Services, caller: Caller, request: Request, task_id: str, name: str, suffix: str, media_type: str
) -> Response:
    task = services.ledger.task(task_id, caller.sees)
    require_result(services, task)
    made = services.ledger.artifacts(task_id)
    if name not in made:  # made before there was such a thing
        raise errors.ArtifactNotFound(f"the task has no {name}")
    key = made[name].key
    if services.settings.result_redirect and request.method == "GET":  # a signed link is for one method
        link = services.storage.link(key, min(REDIRECT_SECONDS, services.settings.link_ttl))
        return RedirectResponse(link, headers={"Cache-Control": "no-store"})
    # An attempt's key is written once, so the key names the bytes.
    etag = f'"{task_id}-{name}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": CACHE,
        "Content-Disposition": f'inline; filename="kinora-{task_id}.{suffix}"',
    }
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    size = services.storage.size(key)
    unchanged = request.headers.get("if-range", etag) == etag
    asked = request.headers.get("range") if request.method == "GET" and unchanged else None
    part = parse_range(asked, size)
    start, end = part or (0, size)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    status = 206 if part else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(services.storage.stream(key, start, end), status, headers, media_type)
