"""GET /status/{task_id}/events: what becomes of a task, as it happens."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.errors import documented
from app.events import SnapshotPoller
from app.router import create_router
from app.routes.status import CurrentStep, TaskError, current_step, task_error
from app.services import Caller, CallerDep, Links, LinksDep, ServicesDep
from core import errors
from core.errors import InvalidParameter
from core.ledger.snapshots import Snapshot
from core.status import Status

# Of the thousand connections that a process has.
HEARTBEAT_SECONDS = 15.0
SEPARATOR = "\n"

# The last move, how far the task was told to be (percent, step, attempt, phase), and the number of the last preview.
EVENT_ID = re.compile(r"(\d{1,18})\.(\d{1,3}\.\d{1,9}\.\d{1,9}\.[a-z_]{0,32})\.(\d{1,18})")

EXAMPLE = """event: progress
id: 812.42.1.1.denoise.3
data: {"task_id": "01a1fd3450027302a9e88e163fd55fdb", "status": "started", "progress": 42, "step": …}

"""
STREAM = {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The events", "content": STREAM},
    204: {"description": "`Last-Event-ID` is that of the last event there is: do not come back"},
}
ERRORS = documented(errors.TaskNotFound, errors.InvalidParameter, errors.QueueFull, errors.LedgerUnavailable)

router = create_router(tags=["tasks"])


class TaskEvent(BaseModel):
    """What `status` and `progress` tell."""

    task_id: str
    status: Status
    progress: int = Field(ge=0, le=100)
    step: CurrentStep | None
    error: TaskError | None
    result_url: str | None
    thumbnail_url: str | None


class PreviewEvent(BaseModel):
    task_id: str
    number: int
    preview_url: str


async def hold_slot(services: ServicesDep, caller: CallerDep) -> AsyncIterator[None]:
    """Until the stream has ended. Raises QueueFull."""
    with services.listeners.slot(caller.owner):
        yield


@router.get(
    "/status/{task_id}/events",
    summary="Follow a task",
    response_class=Response,
    responses=ANSWERS | ERRORS,
    dependencies=[Depends(hold_slot)],
)
def events(
    task_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    links: LinksDep,
    last_event_id: Annotated[str | None, Header(description="Of the last event that came: go on behind it")] = None,
) -> Response:
    """Server-sent events: `status` for each change of the state, `progress`, and `preview` when there is a new one to
    get. The stream ends after the `status` that is final, and once its key opens nothing any more."""
    services.ledger.task(task_id, caller.sees)
    snapshot = services.ledger.snapshots([task_id])[task_id]
    cursor = StreamCursor(links) if last_event_id is None else cursor_at(last_event_id, snapshot, links)
    if snapshot.status.is_final and cursor.move == snapshot.moves[-1].event_id:
        return Response(status_code=204)
    if request.method == "HEAD":  # whose answer would not end before its client leaves
        return Response(media_type="text/event-stream")
    poller: SnapshotPoller = request.app.state.poller
    return EventSourceResponse(stream(poller, caller, task_id, cursor), ping=HEARTBEAT_SECONDS, sep=SEPARATOR)


async def stream(
    poller: SnapshotPoller, caller: Caller, task_id: str, cursor: "StreamCursor"
) -> AsyncIterator[ServerSentEvent]:
    with poller.listen(task_id, caller) as subscription:
        while not poller.is_closed_to(caller):
            changed, snapshot = subscription.changed, subscription.snapshot
            if snapshot:
                for event in cursor.events_since(snapshot, subscription.preview):
                    yield event
                if snapshot.status.is_final:
                    return
            await changed.wait()


def cursor_at(event_id: str, snapshot: Snapshot, links: Links) -> "StreamCursor":
    """Raises InvalidParameter."""
    found = EVENT_ID.fullmatch(event_id)
    if not found or int(found[1]) not in [move.event_id for move in snapshot.moves]:
        message = f"Last-Event-ID must be the id of an event of this task; got {event_id[:80]!r}"
        raise InvalidParameter(message, param="Last-Event-ID")
    return StreamCursor(links, int(found[1]), found[2], int(found[3]))


@dataclass
class StreamCursor:
    """What one listener has received so far; together it is the id of the last event."""

    links: Links
    move: int = 0
    place: str = ""
    preview: int = 0

    def events_since(self, snapshot: Snapshot, preview: int | None) -> Iterator[ServerSentEvent]:
        for move in snapshot.moves:
            if move.event_id > self.move:
                then = snapshot.at(move)
                self.move, self.place = move.event_id, place_of(then)
                yield self._event("status", task_event(then, self.links))
        if snapshot.status.is_final:
            return
        if self.place != place_of(snapshot):
            self.place = place_of(snapshot)
            yield self._event("progress", task_event(snapshot, self.links))
        if preview and preview != self.preview:
            self.preview = preview
            url = self.links.preview(snapshot.task_id)
            yield self._event("preview", PreviewEvent(task_id=snapshot.task_id, number=preview, preview_url=url))

    def _event(self, name: str, data: BaseModel) -> ServerSentEvent:
        event_id = f"{self.move}.{self.place}.{self.preview}"
        return ServerSentEvent(data.model_dump_json(), event=name, id=event_id, sep=SEPARATOR)


def place_of(snapshot: Snapshot) -> str:
    """How far it is, as it stands in an event's id."""
    running = snapshot.running
    step = f"{running.position + 1}.{running.attempt}.{running.phase or ''}" if running else "0.0."
    return f"{snapshot.progress}.{step}"


def task_event(snapshot: Snapshot, links: Links) -> TaskEvent:
    running, result = snapshot.running, snapshot.has_result
    return TaskEvent(
        task_id=snapshot.task_id,
        status=snapshot.status,
        progress=snapshot.progress,
        step=running and current_step(running, of=snapshot.steps),
        error=snapshot.error and task_error(snapshot.error),
        result_url=links.result(snapshot.task_id, snapshot.owner) if result else None,
        thumbnail_url=links.result(snapshot.task_id, snapshot.owner, "/thumbnail") if result else None,
    )
