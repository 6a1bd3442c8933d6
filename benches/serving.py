"""A serving stack for benches: Postgres, NATS, registry, gateway and the real loader process."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benches.adapters import Recipe, make_adapters, register_in_bulk, store_in_bulk
from benches.machine import ROOT
from mint_common.adapters_format import BaseFacts, read_base_facts
from mint_common.claims import RevisionRef
from mint_common.client.engine import EngineClient
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.ids import TenantId
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.postgres import postgres_dsn, prepare_postgres
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.app import open_stack
from services.standalone.core.plan import BaseAt, Topology
from services.standalone.settings import read_standalone_settings

TINY = ROOT / "bases" / "tiny"
SERVICES = frozenset({"registry", "loader", "gateway"})
KV_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A running stack, and every way into it."""

    folder: StateFolder
    gateway_url: str
    loader_url: str
    api_key: str
    engine: EngineClient
    registry: RegistryClient
    tenant_id: TenantId
    facts: BaseFacts

    async def publish(
        self, policy: str, count: int, recipe: Recipe | None = None, *, seed: int = 0
    ) -> list[RevisionRef]:
        """Make a policy with revisions 1..count, none of them loaded; its requests are to ``policy@n``."""
        record = await self.registry.create_policy(
            self.tenant_id, name=policy, base=self.facts.name, rank=8, alpha=8, seed=0
        )
        chosen = recipe or Recipe()
        made = make_adapters(self.facts, record.policy_id, count, chosen, seed=seed)
        refs = store_in_bulk(self.folder.blobs, made)
        await register_in_bulk(self._dsn(), record.policy_id, refs)
        return refs

    def pids(self, part: str) -> list[int]:
        """Return a part's process and its children: a loader's is the engine."""
        run = self.folder.read_run()
        assert run is not None
        pid = run.parts[part].pid
        assert pid is not None
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]

    def rss_bytes(self, *parts: str) -> int:
        """Return the resident memory of some parts."""
        return sum(psutil.Process(pid).memory_info().rss for part in parts for pid in self.pids(part))

    def _dsn(self) -> str:
        home = self.folder.root / "postgres"
        return postgres_dsn(prepare_postgres(home), self.folder.read_state().ports["postgres"])


@contextlib.asynccontextmanager
async def open_serving(overrides: Mapping[str, str]) -> AsyncIterator[Serving]:
    """Start a stack in a folder of its own and remove it afterwards; ``overrides`` are MINT_* variables."""
    with scratch_folder() as root:
        folder = StateFolder(root=root / "state")
        folder.create()
        environ = {"MINT_LOADER_KV_CACHE_BYTES": str(KV_BYTES), "MINT_TELEMETRY_LOG_LEVEL": "WARNING"}
        settings = read_standalone_settings({**os.environ, **environ, **overrides})
        base = BaseAt(name="tiny", folder=str(TINY))
        opening = open_stack(
            folder, [base], port=free_port(), settings=settings, topology=Topology(services=SERVICES)
        )
        async with opening as stack:
            await stack.supervisor.all_ready()
            ports, token = folder.read_state().ports, folder.secrets().internal_token
            async with (
                InternalHttp(f"http://127.0.0.1:{ports['loader-tiny']}", token=token) as loader,
                InternalHttp(f"http://127.0.0.1:{ports['registry']}", token=token) as registry_http,
            ):
                registry = RegistryClient(registry_http)
                owner = await registry.verify_key(stack.api_key)
                yield Serving(
                    folder=folder,
                    gateway_url=stack.gateway_url,
                    loader_url=f"http://127.0.0.1:{ports['loader-tiny']}",
                    api_key=stack.api_key,
                    engine=EngineClient(loader),
                    registry=registry,
                    tenant_id=owner.tenant_id,
                    facts=read_base_facts(TINY),
                )


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that other users may enter (Postgres does not run as root), and remove it."""
    root = Path(tempfile.mkdtemp(prefix="mint-bench-"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
