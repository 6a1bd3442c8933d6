"""A serving stack for benches: Postgres, NATS, registry, gateway and the real loader process."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benches.adapters import Recipe, make_adapters, register_in_bulk, store_in_bulk
from benches.bases import TINY
from benches.stacks import BenchStack, open_bench_stack
from mint_common.adapters_format import BaseFacts, read_base_facts
from mint_common.claims import RevisionRef
from mint_common.client.engine import EngineClient
from mint_common.client.registry import RegistryClient
from mint_common.ids import TenantId
from services.standalone.core.plan import BaseAt

SERVICES = ("registry", "loader", "gateway")
LOADER = "loader-tiny"
KV_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A running stack, and every way into it."""

    stack: BenchStack
    engine: EngineClient
    registry: RegistryClient
    tenant_id: TenantId
    facts: BaseFacts

    @property
    def gateway_url(self) -> str:
        """Return the gateway's address."""
        return self.stack.gateway_url

    @property
    def loader_url(self) -> str:
        """Return the loader's address."""
        return self.stack.url(LOADER)

    @property
    def api_key(self) -> str:
        """Return the first tenant's key."""
        return self.stack.api_key

    async def publish(
        self, policy: str, count: int, recipe: Recipe | None = None, *, seed: int = 0
    ) -> list[RevisionRef]:
        """Make a policy with revisions 1..count, none of them loaded; its requests are to ``policy@n``."""
        record = await self.registry.create_policy(
            self.tenant_id, name=policy, base=self.facts.name, lora={"rank": 8, "alpha": 8, "seed": 0}
        )
        chosen = recipe or Recipe()
        made = make_adapters(self.facts, record.policy_id, count, chosen, seed=seed)
        refs = store_in_bulk(self.stack.folder.blobs, made)
        await register_in_bulk(self.stack.dsn, record.policy_id, refs)
        return refs


@contextlib.asynccontextmanager
async def open_serving(overrides: Mapping[str, str], *, at: BaseAt | None = None) -> AsyncIterator[Serving]:
    """Start a stack of the tiny base, or of one ``at`` a folder; ``overrides`` are MINT_* variables."""
    base = at or BaseAt(name="tiny", folder=str(TINY))
    sizes = {"MINT_LOADER_KV_CACHE_BYTES": str(KV_BYTES)}
    async with (
        open_bench_stack(SERVICES, at=base, overrides={**sizes, **overrides}) as stack,
        stack.http(f"loader-{base.name}") as loader,
        stack.http("registry") as registry_http,
    ):
        registry = RegistryClient(registry_http)
        owner = await registry.verify_key(stack.api_key)
        yield Serving(
            stack=stack,
            engine=EngineClient(loader),
            registry=registry,
            tenant_id=owner.tenant_id,
            facts=read_base_facts(Path(base.folder)),
        )
