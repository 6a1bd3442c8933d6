"""What became of training operations, asked of the trainer that has the policy.

Nothing is kept here: a request id names its operation, so that any gateway answers for it after any restart.
"""

from mint_common.client.trainer import TrainerDirectory
from mint_common.errors import MintError, NotFound
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from mint_common.training import Done, Outcome, Pending, Refused
from services.gateway.core.tinker.futures import FutureFailed, FutureGone, FuturePending, FutureState
from services.gateway.core.tinker.ids import OperationId, parse_request_id
from services.gateway.core.tinker.outputs import write_result
from services.gateway.core.tinker.records import TrainingRun
from services.gateway.ports import TinkerRuns

AGAIN_SECONDS = 0.25
AWAY = "the trainer does not answer: it may be restarting"


class TrainingFutures:
    """See `services.gateway.ports.TinkerFutures`."""

    def __init__(self, runs: TinkerRuns, trainers: TrainerDirectory, clock: Clock) -> None:
        self._runs = runs
        self._trainers = trainers
        self._clock = clock

    async def outcome(
        self, request_id: str, tenant_id: TenantId, *, wait_seconds: float, as_protobuf: bool
    ) -> FutureState:
        """Return an operation's answer, or what it waits for. A trainer that is away is waited for."""
        operation = parse_request_id(request_id)
        run = await self._runs.run_of_policy(operation.policy_id)
        if run is None or run.tenant_id != tenant_id:
            raise FutureGone(request_id=request_id[:100])
        outcome = await self._ask(run, operation, until=self._clock.monotonic() + wait_seconds)
        match outcome:
            case FuturePending():
                return outcome
            case Pending():
                return FuturePending(reason=outcome.reason)
            case Refused():
                message = str(outcome.error.get("message", "the operation failed"))
                return FutureFailed(message=message, category="user" if outcome.is_users else "server")
            case Done():
                return write_result(outcome.result, operation, model_id=run.model_id, as_protobuf=as_protobuf)

    async def _ask(
        self, run: TrainingRun, operation: OperationId, *, until: float
    ) -> Outcome | FuturePending:
        while True:
            left = max(0.0, until - self._clock.monotonic())
            try:
                trainer = await self._trainers.find(run.base)
                return await trainer.outcome(run.policy_id, operation.seq, wait_seconds=left)
            except NotFound as error:
                raise FutureGone(request_id=str(operation)[:100]) from error
            except MintError as error:
                if not error.retryable:
                    raise
                if left <= AGAIN_SECONDS:
                    return FuturePending(queue_state="paused_capacity", reason=AWAY)
            await self._clock.sleep(AGAIN_SECONDS)
