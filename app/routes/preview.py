"""GET /preview/{task_id}: what emerges while a task runs."""

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from app.conditions import Validators
from app.errors import documented
from app.router import create_router
from app.services import CallerDep, ServicesDep
from core import errors
from core.errors import PreviewMissing
from core.live_previews import LivePreviews

router = create_router(tags=["tasks"])

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The newest one", "content": {"image/webp": {}}},
    304: {"description": "There is no newer one"},
}
ERRORS = documented(errors.TaskNotFound, errors.PreviewMissing, errors.InvalidParameter, errors.LedgerUnavailable)


@router.get("/preview/{task_id}", summary="See what emerges", response_class=Response, responses=ANSWERS | ERRORS)
def preview(task_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """A small animated WebP of the frames as they are now. There is one only while the task runs, and not at once.
    Understands If-None-Match."""
    task = services.ledger.task(task_id, caller.sees)
    found = None if task.status.is_final else LivePreviews(services.queue.redis).get(task_id)
    if found is None:
        raise PreviewMissing(f"the task is {task.status} and shows nothing now")
    version = Validators(f'"{found.number}"')
    headers = {**version.headers, "Cache-Control": "no-store"}
    if version.is_known(request.headers):
        return Response(status_code=304, headers=headers)
    return Response(found.webp, headers=headers, media_type="image/webp")
