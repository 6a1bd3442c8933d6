"""A trainer's service fed with the waves of a job on a file, as rollout would send them."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from benches.job_rows import Answered
from benches.stacks import open_bench_stack
from mint_common.blobs.localfs import LocalBlobs
from mint_common.bus.nats import NatsBus, connect_nats
from mint_common.bus.port import Message
from mint_common.claims import Claim, RevisionRef
from mint_common.datasets import Format
from mint_common.events import JobSpec, LoraSpec, RevisionExported, WaveCompleted
from mint_common.events.codec import decode
from mint_common.events.job import JobData, JobFile
from mint_common.events.subjects import subjects_of
from mint_common.ids import BaseName, JobId, PolicyId, TenantId, WaveId
from mint_common.records import Group, Sample, WaveRecord, encode_blob
from mint_common.runtime.dispatch import publish_event
from services.standalone.adapters.nats import nats_url

_SECONDS = 600.0


def record_of(wave_id: WaveId, rows: Sequence[Answered]) -> WaveRecord:
    """Return the record of rows."""
    groups = tuple(
        Group(
            prompt_tokens=row.prompt,
            samples=tuple(
                Sample(tokens=tokens, logprobs=(), reward=reward, text="")
                for tokens, reward in ((row.right, 1.0), (row.wrong, 0.0))
                if tokens is not None
            ),
        )
        for row in rows
    )
    return WaveRecord(wave_id=wave_id, revision=None, groups=groups)


@dataclass(slots=True, kw_only=True)
class JobWaves:
    """A job's waves, one after another. ``metrics`` are those of the newest revision."""

    bus: NatsBus
    blobs: LocalBlobs
    exports: AsyncIterator[Message]
    base: str
    lora: LoraSpec
    spec: JobSpec
    metrics: dict[str, float] = field(default_factory=dict)
    step: int = 0
    revision: RevisionRef | None = None
    validation: Claim | None = None

    async def validate_last_on(self, record: WaveRecord) -> None:
        """Validate the last step on rows."""
        self.validation = await self.blobs.put("bench/validation", encode_blob(record))

    async def train(self, batches: Sequence[Sequence[Answered]]) -> float:
        """Train a step on each batch; return the seconds from the first wave to the last revision.

        The step that is validated is behind a step of as long: what the validation takes is left out.
        """
        began = time.perf_counter()
        for batch in batches:
            await self._train(batch)
        return time.perf_counter() - began - self.metrics.get("valid_seconds", 0.0)

    async def _train(self, batch: Sequence[Answered]) -> None:
        self.step += 1
        wave_id = WaveId(f"wave_{self.step}")
        record = record_of(wave_id, batch)
        if self.revision is not None:
            record = WaveRecord(wave_id=wave_id, revision=self.revision.digest, groups=record.groups)
        claim = await self.blobs.put(f"waves/{wave_id}/record", encode_blob(record))
        wave = WaveCompleted(
            tenant_id=TenantId("default"),
            base=BaseName(self.base),
            wave_id=wave_id,
            job_id=JobId("job_bench"),
            policy_id=PolicyId("policy_bench"),
            step=self.step,
            revision=self.revision,
            record=claim,
            validation=self.validation if self.step == self.spec.steps else None,
            reward_mean=1.0,
            lora=self.lora,
            spec=self.spec,
        )
        await publish_event(self.bus, wave, cause=wave.id, now=time.time())
        async with asyncio.timeout(_SECONDS):
            exported = decode((await anext(self.exports)).data)[1]
        assert isinstance(exported, RevisionExported), exported
        assert exported.wave_id == wave_id
        self.revision = RevisionRef(digest=exported.digest, number=self.step, manifest=exported.manifest)
        self.metrics = dict(exported.metrics)


@asynccontextmanager
async def open_job_waves(
    base: str, lora: LoraSpec, numbers: dict[str, Any], *, steps: int
) -> AsyncIterator[JobWaves]:  # numbers: fields of a JobSpec
    """Start a trainer over a base, with all that it needs, for one job."""
    spec = JobSpec(
        task="",
        steps=steps,
        group_size=1,
        max_new_tokens=1,
        temperature=1.0,
        seed=0,
        data=JobData(
            training=JobFile(
                file_id="file-bench",
                filename="rows.jsonl",
                content=Claim(uri="files/bench", sha256="0" * 64, size_bytes=1),
                format=Format.CHAT,
                rows=steps,
            ),
            epochs=1,
            on_long="refuse",
            grader=None,
            evaluation=None,
        ),
        **numbers,
    )
    async with open_bench_stack(("registry", "trainer"), base=base) as stack:
        bus = await connect_nats(nats_url(stack.folder.root / "nats", stack.port("nats")), name="bench")
        async with bus.watch(subjects=[subjects_of(RevisionExported)]) as exports:
            yield JobWaves(
                bus=bus,
                blobs=LocalBlobs(stack.folder.blobs),
                exports=exports,
                base=base,
                lora=lora,
                spec=spec,
            )
        await bus.close()
