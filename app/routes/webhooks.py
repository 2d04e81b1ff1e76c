"""/webhooks: who is told how tasks end, and what became of each telling."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from app.errors import documented
from app.router import create_router
from app.routes.status import to_datetime
from app.services import CallerDep, ServicesDep
from core import errors
from core.callbacks.deliveries import Delivery, DeliveryStatus
from core.callbacks.endpoints import FINAL_EVENTS, CallbackEvent, Endpoint, VideoEvent
from core.ids import ID_PATTERN
from core.outbound import MAX_URL, check_outbound_url

router = create_router(prefix="/webhooks", tags=["webhooks"])

ERRORS = documented(errors.InvalidParameter, errors.LedgerUnavailable)


class EndpointRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=MAX_URL, examples=["https://example.com/kinora"])
    events: Annotated[list[CallbackEvent], Field(min_length=1, max_length=len(CallbackEvent))] = FINAL_EVENTS


class EndpointInfo(BaseModel):
    endpoint_id: str = Field(examples=["01a1fd3450027302a9e88e163fd55fdb"])
    owner: str = Field(description="The id of the key whose tasks it is told of")
    url: str
    events: list[CallbackEvent]
    created_at: datetime
    disabled_at: datetime | None = Field(description="When it answered 410; registering it again switches it on")


class EndpointList(BaseModel):
    endpoints: list[EndpointInfo]


class Secret(BaseModel):
    secret: str = Field(description="For the verifying libraries of Standard Webhooks", examples=["whsec_…"])


class DeliveryInfo(BaseModel):
    delivery_id: str = Field(description="The header `webhook-id` of each try")
    task_id: str
    endpoint_id: str | None = Field(description="null: the task's own `callback_url`")
    url: str
    event: CallbackEvent | VideoEvent
    data: dict[str, Any]
    status: DeliveryStatus
    tries: int
    created_at: datetime
    next_try_at: datetime | None
    ended_at: datetime | None
    http_status: int | None = Field(description="What the last try was answered with")
    error: str | None = Field(description="Why the last try failed")


class DeliveryPage(BaseModel):
    deliveries: list[DeliveryInfo]
    next_after: str | None = Field(description="Give it as `after` for the next page; null on the last one")


@router.post(
    "",
    status_code=201,
    summary="Register an endpoint",
    responses=documented(errors.InvalidParameter, errors.DestinationForbidden, errors.LedgerUnavailable),
)
def register(asked: EndpointRequest, services: ServicesDep, caller: CallerDep) -> EndpointInfo:
    """It is told of what happens to tasks from now on. Registering a URL again changes its events."""
    check_outbound_url(asked.url, services.settings.fetch_allow, https_only=True)
    return describe_endpoint(services.ledger.endpoints.register(caller.owner, asked.url, list(asked.events)))


@router.get("", summary="List the endpoints", responses=documented(errors.LedgerUnavailable))
def endpoints(services: ServicesDep, caller: CallerDep) -> EndpointList:
    """Those of your key, an admin's key all; the oldest first."""
    return EndpointList(endpoints=[describe_endpoint(found) for found in services.ledger.endpoints.all(caller.sees)])


@router.get("/secret", summary="What callbacks are signed with", responses=documented(errors.LedgerUnavailable))
def secret(services: ServicesDep, caller: CallerDep) -> Secret:
    """Your key's, the same for every endpoint and `callback_url`. Whoever has it can forge callbacks: keep it safe."""
    return Secret(secret=services.ledger.endpoints.secret(caller.owner))


@router.get("/deliveries", summary="List the deliveries", responses=ERRORS)
def deliveries(
    services: ServicesDep,
    caller: CallerDep,
    status: Annotated[DeliveryStatus | None, Query(description="`dead` lists what never arrived")] = None,
    task_id: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only those of this task")] = None,
    after: Annotated[str | None, Query(pattern=ID_PATTERN, description="The last delivery of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> DeliveryPage:
    """Those of your key, an admin's key all; newest first, page by page."""
    found = services.ledger.deliveries.page(caller.sees, status=status, task_id=task_id, after=after, limit=limit + 1)
    page = found[:limit]
    return DeliveryPage(
        deliveries=[describe_delivery(delivery) for delivery in page],
        next_after=page[-1].delivery_id if len(found) > limit else None,
    )


@router.post(
    "/{delivery_id}/redeliver",
    summary="Tell it once more",
    responses=ERRORS | documented(errors.DeliveryNotFound),
)
def redeliver(delivery_id: str, services: ServicesDep, caller: CallerDep) -> DeliveryInfo:
    """Tries it at once and with the whole schedule again, whatever became of it before. Its id stays the same."""
    return describe_delivery(services.ledger.deliveries.redeliver(caller.sees, delivery_id))


@router.delete(
    "/{endpoint_id}",
    status_code=204,
    summary="Remove an endpoint",
    responses=ERRORS | documented(errors.EndpointNotFound),
)
def remove(endpoint_id: str, services: ServicesDep, caller: CallerDep) -> None:
    """It is told of nothing that happens from now on; what is under way to it is still tried."""
    services.ledger.endpoints.remove(caller.sees, endpoint_id)


def describe_endpoint(endpoint: Endpoint) -> EndpointInfo:
    times = {"created_at": to_datetime(endpoint.created_at), "disabled_at": to_datetime(endpoint.disabled_at)}
    return EndpointInfo.model_validate(vars(endpoint) | times)


def describe_delivery(delivery: Delivery) -> DeliveryInfo:
    times = {name: to_datetime(getattr(delivery, name)) for name in ("created_at", "next_try_at", "ended_at")}
    return DeliveryInfo.model_validate(vars(delivery) | times)
