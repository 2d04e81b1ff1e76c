"""Signs callbacks, as Standard Webhooks has it."""

from datetime import UTC, datetime

from standardwebhooks import Webhook

from core.callbacks.deliveries import Delivery


def signed_headers(delivery: Delivery, body: str, secret: str) -> dict[str, str]:
    """Return the headers of a try: the same id at each, and a fresh timestamp."""
    at = datetime.now(UTC)
    return {
        "content-type": "application/json",
        "user-agent": "Kinora",
        "webhook-id": delivery.delivery_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(delivery.delivery_id, at, body),
    }
