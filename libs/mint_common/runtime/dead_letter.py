"""Dead letters: events that could not be handled, kept on the bus under ``mint.dead.>`` with the reason."""

from mint_common.bus.port import Delivery, Message
from mint_common.runtime.retries import Bury

REASON_LIMIT = 500


def dead_letter(delivery: Delivery, *, durable: str, decision: Bury) -> Message:
    """Return the message that keeps a delivery: its bytes, its trace, and why it died."""
    message = delivery.message
    return Message(
        id=f"{message.id}.dead.{durable}",
        subject=f"mint.dead.{durable}.{_type_of(message.subject)}",
        data=message.data,
        headers={
            **message.headers,
            "Mint-Dead-Subject": message.subject,
            "Mint-Dead-Attempts": str(delivery.attempt),
            "Mint-Dead-Code": decision.code,
            # Header values are one line of ASCII.
            "Mint-Dead-Reason": ascii(decision.reason)[1:-1][:REASON_LIMIT],
        },
    )


def _type_of(subject: str) -> str:
    return ".".join(subject.split(".")[1:3])
