"""What endpoints are given."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from core.config import Settings
from core.ledger import Ledger
from core.queue import StepQueue
from core.storage import Storage

# Until callers have keys of their own, all are one.
ANYONE = ""


@dataclass(frozen=True)
class Services:
    settings: Settings
    ledger: Ledger
    storage: Storage
    queue: StepQueue


async def _services(request: Request) -> Services:  # async: a plain function would cost a change of thread
    services: Services = request.app.state.services
    return services


Given = Annotated[Services, Depends(_services)]
