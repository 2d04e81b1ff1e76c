"""What a callback holds, by the dialect of its task: one file a dialect, and kinora.py for the rest."""

from typing import TYPE_CHECKING

from core.callbacks.endpoints import VideoEvent
from core.callbacks.payloads.kinora import Payload
from core.callbacks.payloads.openai import OpenAiPayload
from core.callbacks.payloads.replicate import ReplicatePayload
from core.task import Dialect

if TYPE_CHECKING:
    from core.callbacks.deliveries import Delivery

KINORA = Payload()
PAYLOADS: dict[str, Payload] = {Dialect.OPENAI: OpenAiPayload(), Dialect.REPLICATE: ReplicatePayload()}


def payload_in(dialect: str) -> Payload:
    """Return the payload of tasks that were asked for in this dialect, which a newer version may have named."""
    return PAYLOADS.get(dialect, KINORA)


def payload_of(delivery: "Delivery") -> Payload:
    """Return the payload by which a delivery was recorded, which says itself what it is."""
    if delivery.event in set(VideoEvent):
        return PAYLOADS[Dialect.OPENAI]
    return PAYLOADS[Dialect.REPLICATE] if "prediction" in delivery.data else KINORA
