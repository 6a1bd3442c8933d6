"""A whole trainer on real Postgres, NATS and a blob folder, over the tiny base."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import pytest

from mint_common.blobs.localfs import LocalBlobs
from mint_common.blobs.marker import mark
from mint_common.bus.nats import NatsBus, connect_nats
from mint_common.claims import Claim, RevisionRef
from mint_common.datasets.formats import Format
from mint_common.events import (
    Event,
    JobSpec,
    LoraSpec,
    PolicyParked,
    RevisionExported,
    TrainingFailed,
    WaveCompleted,
)
from mint_common.events.codec import decode
from mint_common.events.job import JobData, JobFile
from mint_common.events.subjects import subjects_of
from mint_common.ids import BaseName, JobId, PolicyId, TenantId, WaveId, derive_id
from mint_common.records import Group, Sample, WaveRecord, encode_blob
from mint_common.runtime.dispatch import publish_event
from mint_common.runtime.ledger_postgres import event_message
from mint_common.settings import (
    AlgorithmSettings,
    BlobSettings,
    HttpSettings,
    InternalSettings,
    NatsSettings,
    PostgresSettings,
    RegistryPeer,
    TelemetrySettings,
)
from services.standalone.adapters.launch import free_port
from services.trainer.app import Trainer, open_trainer
from services.trainer.handlers.lease_term import OperationSettings
from services.trainer.settings import TrainerSettings

TINY = Path(__file__).parents[3] / "bases" / "tiny"
LORA = LoraSpec(rank=8, alpha=16.0, targets=("down_proj", "q_proj", "v_proj"), seed=0)
SPEC = JobSpec(
    algorithm="grpo",
    task="mode:copy",
    steps=4,
    prompts_per_step=2,
    group_size=4,
    max_new_tokens=8,
    temperature=1.0,
    learning_rate=2e-3,
    kl_coefficient=0.0,
    clip_norm=1.0,
    seed=0,
)

CONSTANTS = {"idle_seconds", "result_seconds", "tenant_operations"}
"""What tests change that no setting does."""


FILE = replace(
    SPEC,
    algorithm="sft",
    task="",
    group_size=1,
    kl_coefficient=0.1,
    schedule="linear",
    warmup_steps=1,
    data=JobData(
        training=JobFile(
            file_id="file-1",
            filename="rows.jsonl",
            content=Claim(uri="files/1", sha256="0" * 64, size_bytes=1),
            format=Format.CHAT,
            rows=8,
        ),
        epochs=1,
        on_long="refuse",
        grader=None,
        evaluation=None,
    ),
)


def masked(record: WaveRecord) -> WaveRecord:
    """Return a record as it is made of a file: not sampled, and the second token of an answer not trained."""

    def answer(sample: Sample) -> Sample:
        count = len(sample.tokens)
        trained = ((0, 1), (2, count)) if count > 2 else ((0, 1),)
        return replace(sample, trained=trained, logprobs=())

    groups = [replace(group, samples=tuple(map(answer, group.samples))) for group in record.groups]
    return replace(record, groups=tuple(groups))


def make_record(wave_id: WaveId, *, seed: int, skipped: bool = False) -> WaveRecord:
    """Return a record of random tokens."""
    rng = random.Random(seed)

    def sample(reward: float) -> Sample:
        tokens = tuple(rng.randrange(264) for _ in range(rng.randint(2, 8)))
        logprobs = tuple(rng.uniform(-6.0, -4.0) for _ in tokens)
        return Sample(tokens=tokens, logprobs=logprobs, reward=reward, text="")

    groups = tuple(
        Group(
            prompt_tokens=tuple(rng.randrange(264) for _ in range(6)),
            samples=tuple(sample(0.0 if skipped else float(n % 2)) for n in range(4)),
        )
        for _ in range(2)
    )
    return WaveRecord(wave_id=wave_id, revision=None, groups=groups)


@dataclass(slots=True, kw_only=True)
class Stage:
    """What surrounds a trainer: the bus and the blobs, and everything that it has published."""

    bus: NatsBus
    blobs: LocalBlobs
    settings: TrainerSettings
    seen: list[Event]
    news: asyncio.Condition

    async def wave(
        self,
        step: int,
        *,
        policy: str = "policy_a",
        job: str = "",
        record_seed: int | None = None,
        revision: RevisionRef | None = None,
        change: Callable[[WaveRecord], WaveRecord] = lambda record: record,
        skipped: bool = False,
        base: str = "tiny",
        lora: LoraSpec = LORA,
        spec: JobSpec = SPEC,
        validation: Claim | None = None,
    ) -> WaveCompleted:
        """Store a record and return its event."""
        job = job or f"job_{policy}"
        wave_id = WaveId(derive_id("wave", policy, job, step))
        record = make_record(wave_id, seed=record_seed or step, skipped=skipped)
        record = change(replace(record, revision=revision.digest if revision else None))
        claim = await self.blobs.put(f"waves/{wave_id}/record", encode_blob(record))
        return WaveCompleted(
            tenant_id=TenantId("default"),
            base=BaseName(base),
            wave_id=wave_id,
            job_id=JobId(job),
            policy_id=PolicyId(policy),
            step=step,
            revision=revision,
            record=claim,
            validation=validation,
            reward_mean=0.5,
            lora=lora,
            spec=spec,
        )

    async def validation(
        self, *, seed: int = 99, change: Callable[[WaveRecord], WaveRecord] = masked
    ) -> Claim:
        """Store rows that a job is validated on."""
        record = change(make_record(WaveId("validation"), seed=seed))
        return await self.blobs.put(f"jobs/validation/{seed}-{change.__name__}", encode_blob(record))

    async def publish(self, event: Event, *, copy: str = "") -> None:
        """Publish an event; ``copy`` gets one past the bus's deduplication."""
        if not copy:
            await publish_event(self.bus, event, cause=event.id, now=0.0)
            return
        # What an event led to is not repeated before its first publication has been noted.
        while await self.rows("SELECT 1 FROM trainer.mint_outbox WHERE published_at IS NULL"):
            await asyncio.sleep(0.02)
        message = event_message(event, cause=event.id, now=0.0)
        await self.bus.publish(replace(message, id=f"{message.id}-{copy}"))

    async def expect(self, count: int) -> Sequence[Event]:
        """Return the first ``count`` events of the trainer, when they are there."""
        async with asyncio.timeout(90), self.news:
            await self.news.wait_for(lambda: len(self.seen) >= count)
        return self.seen[:count]

    async def exported(self, count: int) -> list[RevisionExported]:
        """Return the first ``count`` events, all of which must be exports."""
        events = await self.expect(count)
        assert all(isinstance(event, RevisionExported) for event in events), events
        return [event for event in events if isinstance(event, RevisionExported)]

    async def snapshots(self) -> list[str]:
        """Return the keys of all stored snapshots."""
        return [key async for key in self.blobs.list("training/") if "/snapshots/" in key]

    async def settled(self, policy: str, *, step: int, snapshots: int = 1) -> None:
        """Wait until a policy is stored as it is after so many steps, by default in its one snapshot."""
        query = """
            SELECT 1 FROM trainer.training
            WHERE policy_id = $1 AND step = $2 AND snapshot_position = position
        """
        folder = f"training/{policy}/snapshots/"
        async with asyncio.timeout(30):
            while not (
                await self.rows(query, policy, step)
                and len([key async for key in self.blobs.list(folder)]) == snapshots
            ):
                await asyncio.sleep(0.02)

    async def rows(self, query: str, *values: object) -> list[asyncpg.Record]:
        """Read the trainer's tables."""
        connection = await asyncpg.connect(self.settings.postgres.dsn)
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()

    @asynccontextmanager
    async def trainer(self, **changes: float | str | Path) -> AsyncIterator[Trainer]:
        """Run a trainer in this process until the block ends."""
        constants = {name: changes.pop(name) for name in CONSTANTS & changes.keys()}
        limits = OperationSettings(**constants)  # type: ignore[arg-type]  # the test's
        settings = self.settings.model_copy(update=changes)
        async with open_trainer(settings, limits=limits) as trainer:
            runs = (trainer.take_waves, trainer.relay.run, trainer.terms.run)
            work = [asyncio.ensure_future(run()) for run in runs]
            try:
                yield trainer
            finally:
                await _end(work)


async def _end(work: Sequence[asyncio.Task[None]]) -> None:
    """Cancel until it works: `asyncio.wait_for` of Python 3.11 can swallow a cancellation (gh-86296)."""
    while pending := [task for task in work if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.5)
    await asyncio.gather(*work, return_exceptions=True)


def ref(exported: RevisionExported, number: int) -> RevisionRef:
    """Return the revision that the registry would make of an export."""
    return RevisionRef(digest=exported.digest, number=number, manifest=exported.manifest)


@pytest.fixture
async def stage(nats_url: str, database: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """Everything but the trainer itself."""
    settings = TrainerSettings(
        nats=NatsSettings(url=nats_url),
        postgres=PostgresSettings(dsn=database),
        blobs=BlobSettings(url=f"file://{tmp_path / 'blobs'}"),
        telemetry=TelemetrySettings(),
        peers=RegistryPeer(registry_url="http://127.0.0.1:9"),
        algorithms=AlgorithmSettings(),
        internal=InternalSettings(token="secret"),
        http=HttpSettings(),
        http_port=0,
        base_dir=TINY,
        # Digests are compared here; who else is in a batch may change the last bit.
        batch_policies=1,
    )
    bus = await connect_nats(nats_url, name="test")
    stage = Stage(
        bus=bus,
        blobs=LocalBlobs(tmp_path / "blobs"),
        settings=settings,
        seen=[],
        news=asyncio.Condition(),
    )
    await mark(stage.blobs)
    subjects = [subjects_of(RevisionExported), subjects_of(TrainingFailed), subjects_of(PolicyParked)]
    async with bus.watch(subjects=subjects) as messages:

        async def listen() -> None:
            async for message in messages:
                async with stage.news:
                    stage.seen.append(decode(message.data)[1])
                    stage.news.notify_all()

        listener = asyncio.create_task(listen())
        yield stage
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
    await bus.close()


@pytest.fixture
def missing_claim() -> Claim:
    """A claim of nothing."""
    return Claim(uri="waves/none/record", sha256="0" * 64, size_bytes=1)


@pytest.fixture
def environ(stage: Stage) -> dict[str, str]:
    """What both services need."""
    ports = {"registry": free_port(), "trainer": free_port()}
    return {
        "OMP_NUM_THREADS": "1",
        "MINT_NATS_URL": stage.settings.nats.url,
        "MINT_POSTGRES_DSN": stage.settings.postgres.dsn,
        "MINT_BLOBS_URL": stage.settings.blobs.url,
        "MINT_INTERNAL_TOKEN": "secret",
        "MINT_PEERS_REGISTRY_URL": f"http://127.0.0.1:{ports['registry']}",
        "MINT_REGISTRY_HTTP_PORT": str(ports["registry"]),
        "MINT_TRAINER_HTTP_PORT": str(ports["trainer"]),
        "MINT_TRAINER_BASE_DIR": str(TINY),
    }


async def trained(stage: Stage) -> list[tuple[int, ...]]:
    """Return each policy's steps, its waves, and its operations."""
    query = """
        SELECT step, (SELECT count(*) FROM trainer.waves WHERE waves.policy_id = training.policy_id),
            (SELECT count(*) FROM trainer.operations WHERE operations.policy_id = training.policy_id)
        FROM trainer.training ORDER BY policy_id
    """
    return [tuple(row) for row in await stage.rows(query)]
