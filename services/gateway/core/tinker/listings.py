"""Sessions, training runs and checkpoints as clients read them."""

from collections.abc import Sequence
from datetime import UTC, datetime

from mint_common.json_types import JsonObject
from mint_common.training import CheckpointRecord, CheckpointSummary, PolicySummary
from services.gateway.core.tinker.ids import CheckpointPath
from services.gateway.core.tinker.records import ClientSession, TrainingRun
from services.gateway.core.tinker.session_search import status_of


def moment(at: float) -> str:
    """Return a time as ISO 8601."""
    return datetime.fromtimestamp(at, UTC).isoformat()


def cursor_json(*, limit: int, offset: int, total: int) -> JsonObject:
    """Return the position of a page in a list of ``total`` items."""
    return {"offset": offset, "limit": limit, "total_count": total}


def checkpoint_json(record: CheckpointRecord, *, model_id: str) -> JsonObject:
    """Return a ``Checkpoint``."""
    path = CheckpointPath(model_id=model_id, kind=record.kind, name=record.name)
    return {
        "checkpoint_id": path.checkpoint_id,
        "checkpoint_type": record.kind,
        "time": moment(record.created_at),
        "tinker_path": str(path),
        "size_bytes": record.claim.size_bytes,
        "public": record.is_public,
        "user_metadata": dict(record.metadata) or None,
        "expires_at": None if record.expires_at is None else moment(record.expires_at),
    }


def run_json(run: TrainingRun, summary: PolicySummary) -> JsonObject:
    """Return a ``TrainingRun``."""
    newest = [each.newest for each in summary.checkpoints]
    shown = {record.kind: checkpoint_json(record, model_id=run.model_id) for record in newest}
    last_request_at = summary.last_operation_at or run.created_at  # without one it only holds copies
    return {
        "training_run_id": run.model_id,
        "base_model": run.base_model,
        "model_owner": run.tenant_id,
        "is_lora": True,
        "lora_rank": run.lora.rank,
        "corrupted": False,
        "last_request_time": moment(last_request_at),
        "last_checkpoint": shown.get("training"),
        "last_sampler_checkpoint": shown.get("sampler"),
        "user_metadata": run.metadata or None,
    }


def session_json(
    session: ClientSession, *, checkpoints: Sequence[CheckpointSummary], now: float
) -> JsonObject:
    """Return a ``SessionSummary``."""
    return {
        "session_id": session.session_id,
        "created_at": moment(session.created_at),
        "owner": session.tenant_id,
        "project_id": session.project_id,
        "status": status_of(session, now=now),
        "checkpoints_count": sum(each.count for each in checkpoints),
        "checkpoint_storage_bytes": sum(each.size_bytes for each in checkpoints),
        "display_name": session.display_name,
        "user_metadata": session.metadata or None,
    }
