"""What an assistant can do here, as tools of the Model Context Protocol, and videos as resources.

app/dialects/mcp/server.py imports this at the first request for /mcp: the protocol's library takes as long to load as
the rest of the app.
"""

from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Annotated, Any, NamedTuple

from fastapi import Request
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool

from app.errors import code_and_message
from app.intake.accept import accept
from app.intake.source import read_text
from app.intake.submission import Submission
from app.routes import engines, status
from app.routes.engines import EngineList
from app.routes.status import TaskPage, TaskStatus
from app.services import Caller, Links, Services, links_of
from app.strict_json import read_json
from app.tasks import follow, require_result
from app.upload_size import largest_upload
from app.validation import invalid_parameter
from core.config.settings import Settings
from core.errors import InvalidParameter, KinoraError, TaskNotFound
from core.ids import ID_PATTERN
from core.requests.clip import ClipRequest, Whole
from core.status import Status
from core.task import Dialect

MOST_SECONDS = 60  # of one wait: many clients give a tool a minute
LARGEST_VIDEO = 4_000_000  # of which its exchange holds seven copies until the client has read it

INSTRUCTIONS = """Kinora makes a short video out of a picture. make_video answers at once with a task_id; wait_for_task
waits for it, again and again if need be; then the video is the resource kinora://videos/{task_id}, and at result_url.
list_engines says what each engine can do, and which parameters it takes."""

TaskId = Annotated[str, Field(pattern=ID_PATTERN, description="As make_video gave it")]


class SessionManagers(NamedTuple):
    """What answers requests, by what the client can read. The `run()` of each may be entered once."""

    streaming: StreamableHTTPSessionManager
    """With notifications of progress, as server-sent events."""
    json: StreamableHTTPSessionManager


def create_session_managers(settings: Settings) -> SessionManagers:
    """Build the server with its tools."""
    server = Tools("kinora", title="Kinora", instructions=INSTRUCTIONS, subscriptions=False)
    for tool in (make_video, get_task, wait_for_task, cancel_task, list_tasks, list_engines):
        server.tool()(tool)
    server.resource("kinora://videos/{task_id}", name="video", description="The MP4 of a task", mime_type="video/mp4")(
        video
    )
    # Host and Origin are app/middleware/browser_guard.py's, for all routes.
    theirs = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    limit = largest_upload(settings.max_upload_mb)
    managers = []
    for in_json in (False, True):
        server.streamable_http_app(
            stateless_http=True, json_response=in_json, transport_security=theirs, max_request_body_size=limit
        )
        managers.append(server.session_manager)
    return SessionManagers(*managers)


class Tools(MCPServer):
    """Refuses what no tool takes with a code, as everywhere."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        with refusals():
            await self._check(name, arguments, context.request_context.request)
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, ToolError):  # the library has put words of its own before it
                raise error.__cause__ from error
            if isinstance(error.__cause__, ValidationError):
                refused = invalid_parameter(error.__cause__.errors())
                raise ToolError(": ".join(code_and_message(refused))) from error.__cause__
            raise

    async def _check(self, name: str, arguments: dict[str, Any], request: Request) -> None:
        """Raises InvalidParameter for an argument that is there twice, or that the tool does not know."""
        read_json(await request.body())
        known = next((tool.input_schema["properties"] for tool in await self.list_tools() if tool.name == name), None)
        for argument in arguments:
            if known is not None and argument not in known:
                raise InvalidParameter(f"{argument} is not a known argument of {name}", param=argument)


class RequestContext:
    """What a request is answered with: as a route is given it."""

    def __init__(self, context: Context[Any, Request]) -> None:
        request: Any = context.request_context.request
        self.request: Request = request
        self.services: Services = request.app.state.services
        self.caller: Caller = request.state.caller
        self.links: Links = links_of(request, self.services)


def make_video(
    context: Context[Any, Request],
    picture: Annotated[
        str, Field(description="JPEG, PNG, WebP, AVIF, HEIC, GIF or BMP: a URL, a data: URL, or base64")
    ],
    clip: Annotated[ClipRequest | None, Field(description="What is left out comes from the engine's entry")] = None,
) -> TaskStatus:
    """Make a short video out of a picture. Answers at once; wait_for_task tells when it is done."""
    asked = RequestContext(context)
    with refusals():
        source = read_text(asked.request.state.file_of(picture), asked.services.settings, "picture")
        submission = Submission(source, clip or ClipRequest(), dialect=Dialect.MCP)
        task_id = accept(asked.services, asked.caller, submission)
        return status.status(task_id, asked.services, asked.caller, asked.links)


def get_task(context: Context[Any, Request], task_id: TaskId) -> TaskStatus:
    """Where a task is: its progress, when it will be done, how it ended, and where its video is."""
    asked = RequestContext(context)
    with refusals():
        return status.status(task_id, asked.services, asked.caller, asked.links)


async def wait_for_task(
    context: Context[Any, Request],
    task_id: TaskId,
    seconds: Annotated[Whole, Field(ge=1, le=MOST_SECONDS, description="At most so long")] = 50,
) -> TaskStatus:
    """Wait until a task has ended, with notifications of its progress. Where it still runs then, wait again."""
    asked = RequestContext(context)
    with refusals():
        await run_in_threadpool(asked.services.ledger.task, task_id, asked.caller.sees)
        with asked.services.waiting.slot(asked.caller.owner):
            asked.request.state.upload.close()  # its place is for others while this one waits
            await tell_progress(context, asked.request, task_id, seconds)
        return await run_in_threadpool(status.status, task_id, asked.services, asked.caller, asked.links)


async def tell_progress(context: Context[Any, Request], request: Request, task_id: str, seconds: float) -> None:
    """Until the task has ended, `seconds` are over or the service ends. Progress only ever rises, as the protocol wants
    it."""
    highest = -1
    async with aclosing(follow(request, task_id, seconds)) as snapshots:
        async for snapshot in snapshots:
            if snapshot.progress > highest:
                highest = snapshot.progress
                await context.report_progress(highest, total=100)


def cancel_task(context: Context[Any, Request], task_id: TaskId) -> TaskStatus:
    """End a task. One that has ended stays as it is."""
    asked = RequestContext(context)
    with refusals():
        return status.cancel(task_id, asked.services, asked.caller, asked.links)


def list_tasks(
    context: Context[Any, Request],
    in_state: Annotated[Status | None, Field(description="Only those in this state")] = None,
    after: Annotated[str | None, Field(pattern=ID_PATTERN, description="The last task of the page before")] = None,
    limit: Annotated[Whole, Field(ge=1, le=200)] = 20,
) -> TaskPage:
    """The tasks of the caller's key, newest first."""
    asked = RequestContext(context)
    with refusals():
        return status.tasks(asked.services, asked.caller, asked.links, in_state, after, limit)


def list_engines(context: Context[Any, Request]) -> EngineList:
    """What makes videos here: each engine with its limits, its defaults, and whether it can run."""
    with refusals():
        return engines.engines(RequestContext(context).services)


def video(context: Context[Any, Request], task_id: str) -> bytes:
    asked = RequestContext(context)
    try:
        task = asked.services.ledger.task(task_id, asked.caller.sees)
        require_result(asked.services, task)
        key = asked.services.ledger.artifacts(task_id)["video"].key
        size = asked.services.storage.size(key)
        if size > LARGEST_VIDEO:
            link = asked.links.result(task_id, task.owner)
            raise ResourceError(
                f"the video has {size} bytes, and a resource at most {LARGEST_VIDEO}: get it from {link}"
            )
        return asked.services.storage.read(key)
    except KinoraError as error:
        kind = ResourceNotFoundError if isinstance(error, TaskNotFound) else ResourceError
        raise kind(": ".join(code_and_message(error))) from error


@contextmanager
def refusals() -> Iterator[None]:
    """The same codes as everywhere."""
    try:
        yield
    except KinoraError as error:
        raise ToolError(": ".join(code_and_message(error))) from error
