"""Outcomes of training operations, asked of the trainer that has the policy.

Nothing is stored here: a request id names its operation, so any gateway can answer for it, also after a
restart.
"""

import asyncio
from contextlib import AsyncExitStack, suppress

from mint_common.client.trainer import TrainerClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import MintError, NotFound
from mint_common.events import RevisionRejected
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate
from mint_common.training import Done, Exported, Outcome, Pending, Refused
from services.gateway.adapters.sampling_sessions_postgres import PostgresSamplingSessions
from services.gateway.adapters.tinker_exports import ExportDecisions, ExportLost
from services.gateway.adapters.tinker_postgres import PostgresTinkerRuns
from services.gateway.core.tinker.futures import FutureFailed, FutureGone, FuturePending, FutureState
from services.gateway.core.tinker.ids import OperationId, parse_request_id
from services.gateway.core.tinker.outputs import write_export, write_result
from services.gateway.core.tinker.records import TrainingRun
from services.gateway.core.tinker.sampling_sessions import SamplingOpening

AGAIN_SECONDS = 0.25
POLLS, TENANT_POLLS = 4096, 512
"""Maximum concurrent polls at trainers, and per tenant: each holds a connection of this gateway."""
AWAY = "the trainer does not answer; it may be restarting"
UNDECIDED = "the registry has not checked the export yet"


class TrainingFutures:
    """Answers for training operations, whose request ids begin with ``op:``. The answers are durable."""

    def __init__(
        self,
        runs: PostgresTinkerRuns,
        trainers: TrainerDirectory,
        exports: ExportDecisions,
        sampling_sessions: PostgresSamplingSessions,
        clock: Clock,
    ) -> None:
        self._runs = runs
        self._trainers = trainers
        self._exports = exports
        self._sampling_sessions = sampling_sessions
        self._clock = clock
        self._polls = FairGate(POLLS, limit=TENANT_POLLS)

    async def outcome(
        self, request_id: str, tenant_id: TenantId, *, wait_seconds: float, as_protobuf: bool
    ) -> FutureState:
        """Return an operation's answer, FuturePending if it takes longer than the wait. Repeatable.

        Waits for a trainer that is down. Raises FutureGone for an operation that is unknown or another
        tenant's.
        """
        operation = parse_request_id(request_id)
        run = await self._runs.run_of_policy(operation.policy_id)
        if run is None or run.tenant_id != tenant_id:
            raise FutureGone(request_id=request_id[:100])
        until = self._clock.monotonic() + wait_seconds
        outcome = await self._ask(run, operation, until=until)
        match outcome:
            case FuturePending():
                return outcome
            case Pending():
                return FuturePending(reason=outcome.reason)
            case Refused():
                message = str(outcome.error.get("message", "the operation failed"))
                return FutureFailed(message=message, category="user" if outcome.is_users else "server")
            case Done(result=Exported() as exported):
                return await self._tell_export(run, operation, exported, until=until)
            case Done():
                return write_result(outcome.result, operation, model_id=run.model_id, as_protobuf=as_protobuf)

    async def _ask(
        self, run: TrainingRun, operation: OperationId, *, until: float
    ) -> Outcome | FuturePending:
        while True:
            left = max(0.0, until - self._clock.monotonic())
            try:
                trainer = await self._trainers.find(run.base)
                return await self._ask_in_turn(trainer, run, operation, until=until)
            except NotFound as error:
                raise FutureGone(request_id=str(operation)[:100]) from error
            except MintError as error:
                if not error.retryable:
                    raise
                if left <= AGAIN_SECONDS:
                    return FuturePending(queue_state="paused_capacity", reason=AWAY)
            await self._clock.sleep(AGAIN_SECONDS)

    async def _ask_in_turn(
        self, trainer: TrainerClient, run: TrainingRun, operation: OperationId, *, until: float
    ) -> Outcome:
        """Wait at the trainer, which holds a connection, in turn; without a turn, ask without waiting."""
        async with AsyncExitStack() as stack:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, until - self._clock.monotonic())):
                    await stack.enter_async_context(self._polls.turn(run.tenant_id))
            left = max(0.0, until - self._clock.monotonic())
            return await trainer.outcome(run.policy_id, operation.seq, wait_seconds=left)

    async def _tell_export(
        self, run: TrainingRun, operation: OperationId, export: Exported, *, until: float
    ) -> FutureState:
        """Answer when the registry has made a revision of an export and the requested sampler is open."""
        left = max(0.0, until - self._clock.monotonic())
        try:
            decision = await self._exports.of(
                run, export, wait_seconds=left, remind=lambda: self._remind(run, operation)
            )
        except ExportLost:
            return FutureFailed(message="the registry has not decided about the export", category="server")
        if decision is None:
            return FuturePending(reason=UNDECIDED)
        if isinstance(decision, RevisionRejected):
            return FutureFailed(message=f"the export was refused: {decision.reason}", category="server")
        sampling_session_id = None
        if operation.kind in {"open", "inflight"}:
            opening = SamplingOpening(
                tenant_id=run.tenant_id,
                session_id=run.session_id,
                seq=int(operation.detail),
                base=run.base,
                base_model=run.base_model,
                revision=decision,
                model_id=run.model_id,
                policy_id=run.policy_id,
                kind="inflight" if operation.kind == "inflight" else "snapshot",
            )
            sampling_session_id = await self._sampling_sessions.open(opening)
        return write_export(export, operation, model_id=run.model_id, sampling_session_id=sampling_session_id)

    async def _remind(self, run: TrainingRun, operation: OperationId) -> None:
        trainer = await self._trainers.find(run.base)
        await trainer.repeat_export(run.policy_id, operation.seq)
