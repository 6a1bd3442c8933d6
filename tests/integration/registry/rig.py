"""A registry on real Postgres, NATS and files, in this process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import httpx
from fastapi import FastAPI

from mint_common.adapters_format import AdapterFiles, BaseFacts, store_adapter
from mint_common.authority import CALLER_HEADER, Caller, write_caller
from mint_common.blobs.localfs import LocalBlobs
from mint_common.bus.nats import NatsBus, connect_nats
from mint_common.bus.port import Message
from mint_common.events import Event, RevisionExported, RevisionPublished, RevisionRejected
from mint_common.events.codec import decode
from mint_common.ids import JobId, PolicyId, TenantId, WaveId
from mint_common.runtime.dispatch import publish_event
from mint_common.runtime.ledger_postgres import event_message
from mint_common.runtime.postgres import open_pool
from mint_common.settings import (
    BlobSettings,
    HttpSettings,
    InternalSettings,
    NatsSettings,
    PostgresSettings,
    TelemetrySettings,
)
from services.registry.app import open_registry
from services.registry.settings import RegistrySettings
from tests.integration.tenants import caller_of
from tests.testing.adapters import make_adapter, make_base_facts

TOKEN = "between-us"
KEY = "tml-bootstrap-key-of-the-tests"
TENANT = TenantId("default")
BASE = make_base_facts(max_rank=4)
ANSWER_SECONDS = 60.0
ANN = caller_of(TENANT)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRegistry:
    """The registry, and what a trainer and a gateway would have beside it."""

    app: FastAPI
    http: httpx.AsyncClient
    bus: NatsBus
    blobs: LocalBlobs
    blob_folder: Path
    pool: asyncpg.Pool
    heard: AsyncIterator[Message]

    async def next_event(self) -> Event:
        """Return the next event that the registry told."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return decode((await anext(self.heard)).data)[1]

    async def wait_for(self, query: str, *args: object) -> None:
        """Wait until a query of the registry's tables answers true."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while not await self.pool.fetchval(query, *args):
                await asyncio.sleep(0.02)

    async def ask(
        self, method: str, path: str, body: object = None, *, status: int = 200, caller: Caller = ANN
    ) -> object:
        """Return the JSON of an answer with this status."""
        headers = {CALLER_HEADER: write_caller(caller)}
        answer = await self.http.request(method, f"/internal{path}", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def refused(
        self, method: str, path: str, body: object = None, *, status: int, caller: Caller = ANN
    ) -> dict[str, object]:
        """Return the error of an answer with this status."""
        answer = await self.ask(method, path, body, status=status, caller=caller)
        assert isinstance(answer, dict)
        error: dict[str, object] = answer["error"]
        return error

    async def make_policy(self, name: str = "p", *, rank: int = 2, base: BaseFacts = BASE) -> PolicyId:
        """Register the base, make a policy over it and return its id."""
        await self.ask("PUT", f"/bases/{base.name}", body_of(base))
        body = {"name": name, "base": base.name, "lora": {"rank": rank, "alpha": 4.0, "seed": 1}}
        policy = await self.ask("POST", f"/tenants/{TENANT}/policies", body, status=201)
        assert isinstance(policy, dict)
        return PolicyId(policy["policy_id"])

    async def export(
        self, policy_id: PolicyId, *, step: int = 1, export_id: str = "", files: AdapterFiles | None = None
    ) -> RevisionExported:
        """Store an adapter as a trainer does and return the event that tells of it."""
        made = files or make_adapter(BASE, policy_id=policy_id, step=step, seed=step)
        name = export_id or f"wave_{step}"
        return RevisionExported(
            tenant_id=TENANT,
            base=BASE.name,
            export_id=name,
            policy_id=policy_id,
            job_id=JobId("job_1"),
            wave_id=WaveId(name),
            digest=made.digest,
            manifest=await store_adapter(self.blobs, made, export_id=name),
            parent=made.manifest.parent,
            step=made.manifest.step,
            metrics={"loss": 0.25},
        )

    async def tell(self, *events: Event) -> None:
        """Publish what another service would."""
        for event in events:
            await publish_event(self.bus, event, cause="test", now=0.0)

    def bus_message(self, event: Event, copy: str) -> Message:
        """Return one more message of an event, which the bus does not know for a duplicate."""
        message = event_message(event, cause="test", now=0.0)
        return replace(message, id=f"{message.id}.{copy}")

    async def publish(self, policy_id: PolicyId, count: int) -> Sequence[RevisionPublished]:
        """Export that many revisions and return what the registry says of them."""
        published = []
        for step in range(1, count + 1):
            await self.tell(await self.export(policy_id, step=step))
            event = await self.next_event()
            assert isinstance(event, RevisionPublished), event
            published.append(event)
        return published

    async def rejected(self, event: RevisionExported) -> RevisionRejected:
        """Tell of an export and return the registry's refusal."""
        await self.tell(event)
        answer = await self.next_event()
        assert isinstance(answer, RevisionRejected), answer
        return answer


def body_of(facts: BaseFacts) -> dict[str, object]:
    """Return the JSON body that registers a base."""
    return {name: getattr(facts, name) for name in BaseFacts.__slots__}


def settings_of(*, dsn: str, nats_url: str, blob_folder: Path) -> RegistrySettings:
    """Return the settings of a registry for tests."""
    return RegistrySettings(
        nats=NatsSettings(url=nats_url),
        postgres=PostgresSettings(dsn=dsn),
        blobs=BlobSettings(url=blob_folder.as_uri()),
        telemetry=TelemetrySettings(),
        internal=InternalSettings(token=TOKEN),
        http=HttpSettings(),
        http_port=0,
        bootstrap_key=KEY,
    )


@asynccontextmanager
async def running(settings: RegistrySettings, blob_folder: Path) -> AsyncIterator[RunningRegistry]:
    """Run the registry's application and background work until the body ends."""
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(open_registry(settings))
        bus = await connect_nats(settings.nats.url, name="test")
        stack.push_async_callback(bus.close)
        subjects = [
            f"mint.{noun}.>" for noun in ("revision.published", "revision.rejected", "alias", "evaluation")
        ]
        heard = await stack.enter_async_context(bus.watch(subjects=subjects))
        pool = await open_pool(settings.postgres.dsn, schema="registry", max_size=2)
        stack.push_async_callback(pool.close)
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app.http),
            base_url="http://registry",
            headers={"x-mint-internal-token": TOKEN, CALLER_HEADER: write_caller(ANN)},
        )
        await stack.enter_async_context(http)
        work = [asyncio.create_task(app.dispatcher.run()), asyncio.create_task(app.relay.run())]
        try:
            yield RunningRegistry(
                app=app.http,
                http=http,
                bus=bus,
                blobs=LocalBlobs(blob_folder),
                blob_folder=blob_folder,
                pool=pool,
                heard=heard,
            )
        finally:
            for task in work:
                task.cancel()
            ended = await asyncio.gather(*work, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


def changed(export: RevisionExported, **fields: object) -> RevisionExported:
    """Return an export with some fields changed."""
    return replace(export, **fields)  # type: ignore[arg-type]  # fields by name
