"""The number of a refused operation, read from its body as far as that can be parsed."""

import msgspec

from mint_common.errors import InvalidField, MintError
from services.gateway.core.tinker.ids import MAX_SEQ
from services.gateway.core.tinker.schema import read_message


class _Numbered(msgspec.Struct, frozen=True):
    model_id: str
    seq_id: int


def number_in(body: bytes, *, is_protobuf: bool) -> tuple[str, int] | None:
    """Return an operation's training run and number, whatever the rest of the body; None if it has none."""
    try:
        if is_protobuf:
            message = read_message("ForwardBackwardRequest", body)
            numbered = _Numbered(model_id=message.model_id, seq_id=message.seq_id)
        else:
            numbered = msgspec.json.decode(body, type=_Numbered)
    except (InvalidField, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return (numbered.model_id, numbered.seq_id) if 1 <= numbered.seq_id <= MAX_SEQ else None


def is_final(error: MintError) -> bool:
    """Return whether a client does not send the same request again."""
    return not error.retryable and error.http_status < 500
