"""The public schema of an upload: its body, and every refusal."""

from mint_common.adapters_format import Reason
from mint_common.errors import MintError, UploadRefused
from mint_common.json_types import JsonObject
from mint_common.uploads import FIXES, UPLOAD_CODES, UploadReason
from services.gateway.core.idempotency import IdempotencyConflict

TAR_BODY: JsonObject = {
    "requestBody": {
        "required": True,
        "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_TEXT: JsonObject = {"type": "string"}
_EXAMPLE = UploadRefused(
    reason=Reason.WRONG_RANK.value,
    problem="rank 32, policy 'copier' has 8",
    fix=FIXES[Reason.WRONG_RANK],
)
_CODES = ["invalid_field", IdempotencyConflict.code, *UPLOAD_CODES]
REFUSED: JsonObject = {
    "description": "Refused, or a wrong parameter (invalid_field): docs/reference/uploads.md has each code.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["code", "message", "retryable"],
                        "properties": {
                            "code": {"type": "string", "enum": _CODES},
                            "message": _TEXT,
                            "retryable": {"type": "boolean"},
                            "reason": _TEXT,
                            "problem": _TEXT,
                            "fix": _TEXT,
                        },
                    }
                },
            },
            "example": {"error": _EXAMPLE.to_payload()},
        }
    },
}


def stalled(error: MintError) -> UploadRefused:
    """Return the refusal of an upload whose body stalled."""
    return UploadRefused(
        reason=UploadReason.STALLED.value, problem=str(error), fix=FIXES[UploadReason.STALLED]
    )
