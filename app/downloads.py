"""What a step made, streamed from storage: whole, in part, or as a redirect to the object store."""

from fastapi import Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from app.conditions import Validators
from app.ranges import parse_range
from app.services import Caller, Services
from app.tasks import require_result
from core import errors
from core.storage import Storage

# A result never changes once it is there.
CACHE = "private, max-age=86400, immutable"
# Long enough for a player to come back to the link for other parts of the video.
REDIRECT_SECONDS = 3600


def artifact_response(
    services: Services, caller: Caller, request: Request, task_id: str, name: str, suffix: str, media_type: str
) -> Response:
    """Return the answer with the task's artifact of this name. Raises TaskNotFound, NotReady, TaskGone,
    ArtifactNotFound, PreconditionFailed, RangeNotSatisfiable, StorageUnavailable."""
    task = services.ledger.task(task_id, caller.sees)
    require_result(services, task)
    made = services.ledger.artifacts(task_id)
    if name not in made:  # made before there was such a thing
        raise errors.ArtifactNotFound(f"the task has no {name}")
    key = made[name].key
    # An attempt's key is written once, so the key names the bytes.
    version = Validators(f'"{task_id}-{name}"', task.finished_at)
    version.check(request.headers)
    headers = {
        **version.headers,
        "Accept-Ranges": "bytes",
        "Cache-Control": CACHE,
        "Content-Disposition": f'inline; filename="kinora-{task_id}.{suffix}"',
    }
    if version.is_known(request.headers):
        return Response(status_code=304, headers=headers)
    if services.settings.result_redirect and request.method == "GET":  # a signed link is for one method
        link = services.storage.link(key, min(REDIRECT_SECONDS, services.settings.link_ttl))
        return RedirectResponse(link, headers={"Cache-Control": "no-store"})
    return streamed(services.storage, key, request, version, headers, media_type)


def streamed(
    storage: Storage, key: str, request: Request, version: Validators, headers: dict[str, str], media_type: str
) -> Response:
    size = storage.size(key)
    is_rest = request.method == "GET" and version.is_rest(request.headers)
    part = parse_range(request.headers.get("range") if is_rest else None, size)
    start, end = part or (0, size)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    status = 206 if part else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(storage.stream(key, start, end), status, headers, media_type)
