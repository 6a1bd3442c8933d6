"""The events of a wave's export: its revision, and the comparison of its tokens with their sampler."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.events import RevisionExported, WaveCompared
from mint_common.ids import PolicyId, derive_id
from mint_common.records import encode_blob, wave_blob_key
from mint_common.training import Result, Stepped
from services.trainer import metrics
from services.trainer.core.batch import SamplePlace
from services.trainer.core.operations import TrainingSession
from services.trainer.core.policy_work import StateExport
from services.trainer.core.wave_batch import WavePassed, wave_logprobs
from services.trainer.core.wave_operations import WaveExport, export_metrics
from services.trainer.handlers.parking import Parking

_log = logging.getLogger(__name__)


class Comparisons:
    """The log-probabilities of one policy's passes, from the pass until its wave is exported or refused."""

    def __init__(self, blobs: Blobs, parking: Parking) -> None:
        self._blobs = blobs
        self._parking = parking
        self._passes: dict[int, Mapping[SamplePlace, bytes]] = {}

    def note(self, seq: int, passed: WavePassed) -> None:
        """Keep the log-probabilities of a pass."""
        self._passes[seq] = passed.compared

    def take(self, seqs: Iterable[int]) -> list[Mapping[SamplePlace, bytes]]:
        """Return the log-probabilities of passes, in the passes' order, and forget them."""
        return [self._passes.pop(seq) for seq in sorted(seqs) if seq in self._passes]

    async def stored(self, session: TrainingSession, wave: WaveExport) -> list[WaveCompared]:
        """Store the log-probabilities of a wave's passes; return their event, or none."""
        found = wave_logprobs(wave.wave_id, self.take(wave.measured))
        if found is None:
            return []
        data = encode_blob(found)
        key = wave_blob_key(session.policy_id, wave.job_id, name=wave.wave_id, kind="logprobs", data=data)
        claim = await self._parking.until_done(partial(self._blobs.put_new, key, data))
        return [
            WaveCompared(
                tenant_id=session.tenant_id,
                base=session.base,
                wave_id=wave.wave_id,
                job_id=wave.job_id,
                policy_id=session.policy_id,
                logprobs=claim,
            )
        ]


def exported_event(
    session: TrainingSession,
    export: StateExport,
    manifest: Claim,
    *,
    export_id: str,
    wave: WaveExport | None,
    measured: Sequence[Result],
) -> RevisionExported:
    """Return the event of an export; ``measured`` are the results of its wave's passes and steps."""
    return RevisionExported(
        tenant_id=session.tenant_id,
        base=session.base,
        export_id=export_id,
        policy_id=session.policy_id,
        job_id=wave.job_id if wave else None,
        wave_id=wave.wave_id if wave else None,
        digest=export.adapter.digest,
        manifest=manifest,
        parent=export.parent,
        step=export.step,
        metrics=export_metrics(wave, measured, export_seconds=export.seconds) if wave else {},
    )


def note_trained(exported: RevisionExported, measured: Sequence[Result]) -> None:
    """Count and log a wave that was trained on; without a step nothing could be learnt."""
    is_step = any(isinstance(result, Stepped) for result in measured)
    metrics.STEPS.labels("trained" if is_step else "skipped").inc()
    metrics.TOKENS.inc(exported.metrics.get("tokens", 0.0))
    metrics.STEP_SECONDS.observe(exported.metrics["seconds"])
    if "ratio_max_error" in exported.metrics:
        metrics.RATIO_ERROR.observe(exported.metrics["ratio_max_error"])
    _log.info(
        "wave trained",
        extra={
            "policy_id": exported.policy_id,
            "wave_id": exported.wave_id,
            "step": exported.step,
            "digest": exported.digest,
            **{f"metric_{name}": value for name, value in exported.metrics.items()},
        },
    )


def export_id_of(policy_id: PolicyId, seq: int) -> str:
    """Return the name of an operation's export, which is also the cause of its event."""
    return derive_id("export", policy_id, seq)
