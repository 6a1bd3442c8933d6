"""Handle completed waves: append a pass, a step and an export to the policy's log.

Invariants: a wave is accepted once (ledger, and the order of a job's steps), when its policy has no waiting
operations; its operations, its row and the event's cause are committed together. Their commit emits the
outcome.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from weakref import WeakValueDictionary

from mint_common.claims import Claim
from mint_common.errors import AlreadyHandled
from mint_common.events import Event, TrainingFailed, WaveCancelled, WaveCompleted
from mint_common.ids import PolicyId
from mint_common.records import WaveRecord
from mint_common.runtime.retries import Bury
from mint_common.tenant_budget import TenantBudget
from mint_common.training import PolicyTaken
from services.trainer import metrics
from services.trainer.core.algorithms.algorithm import ManagedAlgorithm
from services.trainer.core.batch import Batch
from services.trainer.core.layout_check import check_fits, check_layout
from services.trainer.core.minibatches import minibatch_count
from services.trainer.core.mismatch_rules import MismatchChoice
from services.trainer.core.operations import writer_of
from services.trainer.core.record_check import check_origin, check_record, validation_batch
from services.trainer.core.refusals import RecordInvalid, TrainingRefused, WaveStopped
from services.trainer.core.wave_operations import check_turn, intake_of, plan_wave
from services.trainer.handlers.drivers import Drivers
from services.trainer.handlers.executor import beside, read_record
from services.trainer.handlers.lease_term import OperationParts
from services.trainer.handlers.terms import Terms

MAX_WAVE_READS = 3
"""Maximum ends of the process while a wave's records are read, before its job fails."""

_log = logging.getLogger(__name__)
_EARLY_SECONDS = 25.0
"""Time that a wave waits here for those of its job before it; then it is delivered again."""
_LOOK_SECONDS = 1.0
"""Interval at which a wave that waits for another one checks that its term goes on."""


class WaveIntake:
    """Handlers of one base's trainer, of whose deliveries ``max_early`` may wait for earlier waves."""

    def __init__(
        self, parts: OperationParts, terms: Terms, mismatch: MismatchChoice, *, max_early: int
    ) -> None:
        self._parts = parts
        self._terms = terms
        self._mismatch = mismatch
        # Waves of one policy take turns: what one does is decided by what the one before it led to.
        self._turns: WeakValueDictionary[PolicyId, asyncio.Lock] = WeakValueDictionary()
        self._early = TenantBudget(what="the waves that wait for earlier ones", total=max_early)

    async def on_wave_completed(self, wave: WaveCompleted) -> Sequence[Event]:
        """Append a wave to its policy's log, or say why that is impossible."""
        await self._near_turn(wave)
        async with self._turns.setdefault(wave.policy_id, asyncio.Lock()):
            try:
                await self._take_in(wave)
            except (TrainingRefused, PolicyTaken) as refusal:
                await self._fail(wave, code=refusal.code, reason=str(refusal))
        return ()

    async def _near_turn(self, wave: WaveCompleted) -> None:
        """Wait a while for the waves before, where sampling runs ahead: they may be completed later.

        Raises Overloaded when too many wait: the others' deliveries are for waves whose turn it is.
        """
        if not wave.spec.staleness or await self._is_near(wave):
            return
        with self._early.counted(wave.tenant_id):
            clock, end = self._parts.clock, self._parts.clock.monotonic() + _EARLY_SECONDS
            while clock.monotonic() < end and not await self._is_near(wave):
                await clock.sleep(_EARLY_SECONDS / 100)

    async def _is_near(self, wave: WaveCompleted) -> bool:
        """Return whether a wave's predecessor was accepted, or the wave itself."""
        taken_step = await self._parts.store.taken_step(wave.job_id)
        return wave.step <= taken_step + 1 or await self._is_taken_in(wave)

    async def _take_in(self, wave: WaveCompleted) -> None:
        if await self._is_taken_in(wave):
            raise AlreadyHandled(cause=wave.id)
        drivers = await self._settled(wave.policy_id)
        session = await self._parts.store.session(wave.policy_id)
        if session is not None and not session.is_managed:
            raise PolicyTaken(policy_id=wave.policy_id, by=writer_of(is_managed=False))
        check_turn(session, wave, taken_step=await self._parts.store.taken_step(wave.job_id))
        check_fits(wave.lora, self._parts.policies.facts)
        check_layout(self._parts.policies.layout, wave.lora, self._parts.policies.facts)
        algorithm = self._parts.algorithms.of(wave.spec)
        problem = f"the trainer ended {MAX_WAVE_READS} times while it was read"
        refusal = RecordInvalid(where=wave.record.uri, problem=problem)
        async with self._parts.reads.counted(wave.wave_id, limit=MAX_WAVE_READS, refusal=refusal):
            record = await self._read_record(wave, algorithm)
            mismatch = self._mismatch.against({group.sampler_dtype for group in record.groups})
            config = algorithm.training.config(wave.spec.kl_coefficient, mismatch)
            pulls = algorithm.pulls(config)
            batch = await beside(wave.record, lambda: algorithm.build_batch(record, pulls=pulls))
            records = {wave.record: batch, **await self._validation(wave, algorithm)}
        gradient = wave.spec.gradient
        planned = plan_wave(
            wave,
            latest=session.digest if session else None,
            first_seq=session.next_seq if session else 0,
            can_learn=bool(batch.rows),
            config=config,
            pulls=pulls,
            minibatches=minibatch_count(batch, asked=gradient.minibatches if gradient else 1),
            now=self._parts.clock.now(),
        )
        await drivers.append(planned, intake_of(wave.wave_id), records=records, opens=session is None)

    async def _is_taken_in(self, wave: WaveCompleted) -> bool:
        """Return whether a wave was accepted, or released: its record may be gone then."""
        return await self._parts.ledger.is_known(intake_of(wave.wave_id))

    async def _settled(self, policy_id: PolicyId) -> Drivers:
        """Wait until a policy has no waiting operations. Raises Unavailable."""
        while True:
            drivers = await self._terms.drivers()
            if await drivers.settle(policy_id, seconds=_LOOK_SECONDS):
                return drivers

    async def _read_record(self, wave: WaveCompleted, algorithm: ManagedAlgorithm) -> WaveRecord:
        record = await read_record(self._parts.blobs, wave.record)
        revision = wave.revision.digest if wave.revision else None
        check_origin(record, wave_id=wave.wave_id, revision=revision)
        needs_logprobs = algorithm.needs_logprobs(record)
        facts = self._parts.policies.facts
        has_teacher = algorithm.described.has_teacher
        await beside(
            wave.record,
            lambda: check_record(record, facts, needs_logprobs=needs_logprobs, needs_teacher=has_teacher),
        )
        return record

    async def _validation(self, wave: WaveCompleted, algorithm: ManagedAlgorithm) -> dict[Claim, Batch]:
        """Return the validation record of the wave's step by its claim; it names no wave or revision."""
        if wave.validation is None:
            return {}
        record, facts = await read_record(self._parts.blobs, wave.validation), self._parts.policies.facts
        try:
            batch = await beside(wave.validation, lambda: validation_batch(algorithm, record, facts))
        except RecordInvalid as error:
            raise RecordInvalid(where=f"validation.{error.where}", problem=str(error.problem)) from error
        return {wave.validation: batch}

    async def on_wave_cancelled(self, wave: WaveCancelled) -> Sequence[Event]:
        """Prevent the training of a wave that is not accepted yet; end the pass of one that is."""
        with suppress(AlreadyHandled):
            async with self._parts.ledger.transaction(intake_of(wave.wave_id)):
                return ()
        drivers = await self._terms.drivers()
        if driver := drivers.find(wave.policy_id):
            driver.stop_wave(wave.wave_id, WaveStopped(wave_id=wave.wave_id))
        return ()

    async def on_wave_given_up(self, wave: WaveCompleted, decision: Bury) -> None:
        """Fail the job of a wave that cannot be accepted, for any reason."""
        await self._fail(wave, code=decision.code, reason=decision.reason)

    async def _fail(self, wave: WaveCompleted, *, code: str, reason: str) -> None:
        # It may have been taken in, or released, since it was looked at: its job has not failed then.
        if await self._is_taken_in(wave):
            return
        failed = TrainingFailed(
            tenant_id=wave.tenant_id,
            base=wave.base,
            wave_id=wave.wave_id,
            job_id=wave.job_id,
            policy_id=wave.policy_id,
            code=code,
            reason=reason,
        )
        async with self._parts.ledger.transaction(wave.id) as transaction:
            await transaction.emit(failed)
        metrics.STEPS.labels("failed").inc()
        _log.warning("wave refused", extra={"wave_id": wave.wave_id, "code": code})
