"""GET /results/{task_id}: the MP4 and its thumbnail, streamed from storage."""

from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.responses import Response

from app.downloads import artifact_response
from app.errors import documented
from app.router import create_router
from app.services import CallerDep, ServicesDep, needs_key
from core import errors

REDIRECT = {
    307: {"description": "With `RESULT_REDIRECT`: the object store has it, and opens it for an hour, or `LINK_TTL`"}
}
ERRORS = documented(
    errors.TaskNotFound,
    errors.InvalidParameter,
    errors.ArtifactNotFound,
    errors.PreconditionFailed,
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
def video(task_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """The MP4. Understands Range and the conditions of RFC 9110. 410 says why there is no video and never will be.
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
def thumbnail(task_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """The first frame as a JPEG."""
    return artifact_response(services, caller, request, task_id, "thumbnail", "jpg", "image/jpeg")
