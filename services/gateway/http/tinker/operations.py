"""Submit operations to the trainer: each is durable there before its future is returned."""

from fastapi import Response

from mint_common.catalog import PolicyRecord
from mint_common.errors import AlreadyExists, NotFound
from mint_common.ids import TenantId
from mint_common.training import Operation, Submission
from services.gateway.core.tinker.ids import (
    FutureKind,
    OperationId,
    model_id_of,
    parse_model_id,
    policy_name_of,
)
from services.gateway.core.tinker.records import ClientSession, Metadata, RunShape, TrainingRun
from services.gateway.core.tinker.training_requests import RunConflict
from services.gateway.http.tinker.bodies import answer
from services.gateway.http.tinker.context import Tinker

RETENTION = {"keep_last": 20, "keep_days": 7}
"""Retention of a run's revisions, since a run may export at each step. Revisions with a name, an alias or
a live sampler stay anyway.
"""


async def find_run(tinker: Tinker, model_id: str, tenant_id: TenantId) -> TrainingRun:
    """Return a tenant's training run. Raises NotFound, also for another tenant's."""
    parse_model_id(model_id)
    run = await tinker.runs.run(model_id)
    if run is None or run.tenant_id != tenant_id:
        raise NotFound(kind="training run", name=model_id)
    return run


async def submit(
    tinker: Tinker, run: TrainingRun, seq: int, operation: Operation, *, kind: FutureKind, detail: str = ""
) -> Response:
    """Submit an operation to the trainer of its run, and return its future."""
    trainer = await tinker.catalog.trainers.find(run.base)
    await trainer.submit(
        Submission(policy_id=run.policy_id, tenant_id=run.tenant_id, seq=seq, operation=operation)
    )
    request_id = OperationId(kind=kind, policy_id=run.policy_id, seq=seq, detail=detail)
    return answer({"request_id": str(request_id), "model_id": run.model_id})


async def open_run(
    tinker: Tinker,
    session: ClientSession,
    seq: int,
    shape: RunShape,
    *,
    metadata: Metadata | None = None,
    is_trained: bool = True,
) -> TrainingRun:
    """Return a session's training run, with its policy; both are made once.

    ``shape`` may be another run, whose shape is then used. Raises RunConflict.
    """
    policy = await _make_policy(tinker, session, seq, shape)
    wanted = TrainingRun(
        model_id=model_id_of(session.session_id, seq),
        session_id=session.session_id,
        tenant_id=session.tenant_id,
        policy_id=policy.policy_id,
        base=shape.base,
        base_model=shape.base_model,
        lora=shape.lora,
        train_attn=shape.train_attn,
        train_mlp=shape.train_mlp,
        is_trained=is_trained,
        metadata=metadata or {},
        created_at=tinker.clock.now(),
    )
    run = await tinker.runs.add_run(wanted)
    if (run.base, run.lora, run.is_trained) != (shape.base, shape.lora, is_trained):
        raise RunConflict(model_id=run.model_id)
    return run


async def _make_policy(tinker: Tinker, session: ClientSession, seq: int, shape: RunShape) -> PolicyRecord:
    name = policy_name_of(session.session_id, seq)
    try:
        return await tinker.catalog.registry.create_policy(
            session.tenant_id,
            name=name,
            base=shape.base,
            lora=shape.lora,
            described={"retention": RETENTION},
        )
    except AlreadyExists:
        return await tinker.catalog.registry.get_policy(session.tenant_id, name)
