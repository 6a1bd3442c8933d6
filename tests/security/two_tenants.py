"""The gateway's whole HTTP over ports that only know two tenants' keys, and resolve names when told to."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI

from mint_common.authority import Authority, Caller
from mint_common.catalog import KeyOwner, Scope
from mint_common.errors import NotFound, Unauthorized
from mint_common.generation import EngineLimits
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.fair_gate import LoopGate
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.key_checks import KeyChecks
from services.gateway.core.callers import KeyMemory
from services.gateway.http.public import build_http
from tests.security.gateway_rig import share

MIB = 1 << 20


TENANTS = ("ann", "ben")
SCOPES: tuple[Scope, ...] = ("read", "infer", "train")


@dataclass
class Rig:
    """What a test sees of it. ``asked``: models that were resolved, each of which has reached its route."""

    body_bytes: int = 8 * MIB
    cold_requests: int = 64
    asked: list[str] = field(default_factory=list)
    resolves: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        clock = SystemClock()
        self.bodies = TenantBudget(total=self.body_bytes, share=1, first_fits=False)
        self.cold = TenantBudget(what="the line", total=self.cold_requests, share=1)
        self.large = TenantBudget(what="the line", total=64, share=1)
        self.verified: list[str] = []
        self.http: FastAPI = build_http(ready=lambda: True)
        keys = KeyMemory(ttl_seconds=60, capacity=10)
        for name in TENANTS:
            authority = Authority(tenant_id=TenantId(name), key_id=f"key-{name}", scopes=frozenset(SCOPES))
            keys.put(f"tml-{name}", Caller(authority=authority, name=name), now=clock.monotonic())
        gateway = SimpleNamespace(
            clock=clock,
            keys=KeyChecks(SimpleNamespace(verify_key=self._verify), keys, clock),
            requests=SimpleNamespace(log=self._log),
            engines=SimpleNamespace(limits=self._limits),
            resolver=SimpleNamespace(resolve=self._resolve),
            in_hand=TenantBudget(what="requests", limit=1000),
            bodies=self.bodies,
            key_bodies=TenantBudget(),
            cold_admission=LoopGate(callers=self.cold, share=0.001),
            body_admission=LoopGate(callers=self.large, share=0.001),
            admission=LoopGate(free=1),
            is_warm=lambda _tenant_id, model: model == "warm",
        )
        share(self.http, gateway)

    async def _verify(self, key: str) -> KeyOwner:
        self.verified.append(key)
        name = key.removeprefix("tml-")
        if name not in TENANTS:
            raise Unauthorized(problem="no such key")
        return KeyOwner(tenant_id=TenantId(name), key_id=f"key-{name}", name=name, scopes=SCOPES)

    async def _limits(self, _base: str) -> EngineLimits:
        return EngineLimits(max_context=2048, max_completions=128)

    async def _log(self, _tenant_id: TenantId, _row: object) -> None: ...

    async def _resolve(self, _tenant_id: TenantId, model: str) -> Any:
        self.asked.append(model)
        await self.resolves.wait()
        raise NotFound(kind="model", name=model)
