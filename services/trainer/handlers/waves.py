"""What the trainer does when a wave is complete.

Invariants: a wave is trained at most once (ledger, and the order of a job's steps); the session row, the
wave's row and the event are committed together; before that commit nothing of the policy's durable state is
touched, so a crash at any point repeats the step from the last committed checkpoint.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from mint_common.adapters_format import store_adapter
from mint_common.blobs.port import Blobs
from mint_common.errors import BlobCorrupt, BlobMissing, EventInvalid, Unavailable
from mint_common.events import Event, RevisionExported, TrainingFailed, WaveCompleted
from mint_common.ids import PolicyId
from mint_common.records import WaveRecord, decode_record
from mint_common.runtime.ledger import Ledger
from mint_common.runtime.retries import Bury
from mint_common.training import PolicyTaken
from services.trainer import metrics
from services.trainer.core.algorithms import ALGORITHMS, build_batch
from services.trainer.core.batch import Batch
from services.trainer.core.layout_check import layout_problem
from services.trainer.core.losses.mismatch import Mismatch
from services.trainer.core.record_check import check_record
from services.trainer.core.refusals import CheckpointLost, LoraInvalid, RecordInvalid, TrainingRefused
from services.trainer.core.session import Session, check_turn, is_elsewhere, open_session
from services.trainer.ports.policies import Policies, StepResult, StepSettings
from services.trainer.ports.waves import CheckpointStore, RevisionStates, SessionStore

_log = logging.getLogger(__name__)

Connection = TypeVar("Connection")


class WaveTraining(Generic[Connection]):
    """Handlers of one base's trainer."""

    def __init__(
        self,
        *,
        policies: Policies,
        sessions: SessionStore[Connection],
        checkpoints: CheckpointStore,
        revisions: RevisionStates,
        ledger: Ledger[Connection],
        blobs: Blobs,
        mismatch: Mismatch = "none",
    ) -> None:
        self._policies = policies
        self._sessions = sessions
        self._checkpoints = checkpoints
        self._revisions = revisions
        self._ledger = ledger
        self._blobs = blobs
        self._mismatch: Mismatch = mismatch
        # Waves of one policy take turns: a single writer, and no turn wasted on one that is not due yet.
        self._turns: WeakValueDictionary[PolicyId, asyncio.Lock] = WeakValueDictionary()

    async def on_wave_completed(self, wave: WaveCompleted) -> Sequence[Event]:
        """Train the policy on a wave and export it, or say why that is impossible."""
        async with self._turns.setdefault(wave.policy_id, asyncio.Lock()):
            await self._train(wave)
        return ()

    async def _train(self, wave: WaveCompleted) -> None:
        try:
            known = await self._sessions.get(wave.policy_id) or open_session(wave)
            check_turn(known, wave, trained_step=await self._sessions.trained_step(wave.job_id))
            self._check_layout(wave)
            batch = await self._read_batch(wave)
            session = await self._move(known, wave) if is_elsewhere(known, wave) else known
            await self._restore(session)
            stepped = await self._policies.step(
                wave.policy_id,
                batch,
                _settings(wave, self._mismatch),
                tenant_id=wave.tenant_id,
                parent=session.digest if batch.rows else session.parent,
            )
            await self._commit(wave, known, session, stepped)
        except (TrainingRefused, PolicyTaken) as refusal:
            await self._fail(wave, code=refusal.code, reason=str(refusal))

    def _check_layout(self, wave: WaveCompleted) -> None:
        found = layout_problem(self._policies.layout, wave.lora, self._policies.facts)
        if found is not None:
            raise LoraInvalid(field=found.field, problem=found.problem)

    async def _read_batch(self, wave: WaveCompleted) -> Batch:
        record = await self._read_record(wave)
        check_record(
            record,
            self._policies.facts,
            wave_id=wave.wave_id,
            revision=wave.revision.digest if wave.revision else None,
            needs_logprobs=ALGORITHMS[wave.spec.algorithm].is_sampled,
        )
        return build_batch(wave.spec.algorithm, record)

    async def _read_record(self, wave: WaveCompleted) -> WaveRecord:
        try:
            return decode_record(await self._blobs.get(wave.record))
        except (BlobMissing, BlobCorrupt, EventInvalid) as error:
            raise RecordInvalid(where=wave.record.uri, problem=str(error)) from error

    async def _move(self, session: Session, wave: WaveCompleted) -> Session:
        """Return the session at the revision that the wave was sampled at."""
        _log.info("session moved", extra={"policy_id": wave.policy_id, "wave_id": wave.wave_id})
        if wave.revision is None:
            return session.at_start()
        step, data = await self._revisions.at(wave.revision, session.lora, await self._read(session))
        checkpoint = await self._checkpoints.put(wave.policy_id, step=step, wave_id=wave.wave_id, data=data)
        return session.at(digest=wave.revision.digest, step=step, checkpoint=checkpoint)

    async def _read(self, session: Session) -> bytes | None:
        """Return the session's checkpoint, None before the first step."""
        if session.checkpoint is None:
            return None
        try:
            return await self._checkpoints.get(session.checkpoint)
        except (BlobMissing, BlobCorrupt) as error:
            if await self._sessions.get(session.policy_id) != session:
                raise Unavailable(what="the checkpoint", problem="another trainer moved on") from error
            raise CheckpointLost(uri=session.checkpoint.uri, problem=str(error)) from error

    async def _restore(self, session: Session) -> None:
        """Bring the policy into memory as the session's checkpoint has it, unless it is there."""
        if self._policies.holds(session.policy_id, session.checkpoint):
            return
        data = await self._read(session)
        await self._policies.restore(
            session.policy_id, session.lora, checkpoint=session.checkpoint, data=data
        )
        await self._checkpoints.prune(session.policy_id, below_step=session.step)

    async def _commit(
        self, wave: WaveCompleted, known: Session, session: Session, stepped: StepResult
    ) -> None:
        checkpoint = session.checkpoint
        if stepped.checkpoint is not None:
            checkpoint = await self._checkpoints.put(
                wave.policy_id, step=stepped.step, wave_id=wave.wave_id, data=stepped.checkpoint
            )
        manifest = await store_adapter(self._blobs, stepped.adapter, export_id=wave.wave_id)
        after = session.after(step=stepped.step, checkpoint=checkpoint, digest=stepped.adapter.digest)
        exported = RevisionExported(
            tenant_id=wave.tenant_id,
            base=wave.base,
            export_id=wave.wave_id,
            policy_id=wave.policy_id,
            job_id=wave.job_id,
            wave_id=wave.wave_id,
            digest=stepped.adapter.digest,
            manifest=manifest,
            parent=after.parent,
            step=stepped.step,
            metrics=dict(stepped.metrics),
        )
        async with self._ledger.transaction(wave.id) as transaction:
            await self._sessions.save(transaction.connection, known, after, wave)
            await transaction.emit(exported)
        for stale in {known.checkpoint, session.checkpoint} - {checkpoint, None}:
            if stale is not None:
                await self._checkpoints.delete(stale)
        metrics.STEPS.labels("trained" if stepped.checkpoint is not None else "skipped").inc()
        metrics.TOKENS.inc(stepped.metrics["tokens"])
        metrics.STEP_SECONDS.observe(stepped.metrics["seconds"])
        _log.info(
            "wave trained",
            extra={
                "policy_id": wave.policy_id,
                "wave_id": wave.wave_id,
                "step": stepped.step,
                "digest": stepped.adapter.digest,
                **{f"metric_{name}": value for name, value in stepped.metrics.items()},
            },
        )

    async def on_wave_given_up(self, wave: WaveCompleted, decision: Bury) -> None:
        """Fail the job of a wave that cannot be handled, whatever is wrong."""
        await self._fail(wave, code=decision.code, reason=decision.reason)

    async def _fail(self, wave: WaveCompleted, *, code: str, reason: str) -> None:
        failed = TrainingFailed(
            tenant_id=wave.tenant_id,
            base=wave.base,
            wave_id=wave.wave_id,
            job_id=wave.job_id,
            policy_id=wave.policy_id,
            code=code,
            reason=reason,
        )
        async with self._ledger.transaction(wave.id) as transaction:
            await transaction.emit(failed)
        metrics.STEPS.labels("failed").inc()
        _log.warning("wave refused", extra={"wave_id": wave.wave_id, "code": code})


def _settings(wave: WaveCompleted, mismatch: Mismatch) -> StepSettings:
    return StepSettings(
        algorithm=wave.spec.algorithm,
        learning_rate=wave.spec.learning_rate,
        kl_coefficient=wave.spec.kl_coefficient,
        clip_norm=wave.spec.clip_norm,
        mismatch=mismatch,
    )
