"""The gateway's real application, in process: keys of single scopes, and nothing behind its routes.

Whatever a route asks of a port answers `Reached`: the request has passed everything that stands before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args
from urllib.parse import unquote

import msgspec
from fastapi import FastAPI

from mint_common.catalog import KeyOwner, Scope
from mint_common.errors import MintError, Unauthorized
from mint_common.ids import TenantId
from mint_common.runtime.fair_gate import FairGate
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.key_checks import KeyChecks
from services.gateway.core.audit import AuditRow
from services.gateway.core.callers import KeyMemory
from services.gateway.core.episode_keys import EpisodeKeys
from services.gateway.core.idempotency import KeyedRequest, StoredAnswer, TakenKey
from services.gateway.http.mint.context import ForwardLimits
from services.gateway.http.public import build_http
from tests.testing.clock import ManualClock

SCOPES: tuple[Scope, ...] = get_args(Scope)
TENANT = TenantId("ten_a")


class Reached(MintError):
    """A route has begun its work."""

    code = "reached"
    http_status = 418


class Beyond:
    """Every port: each use of it ends the request."""

    def __getattr__(self, name: str) -> "Beyond":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: object, **__: object) -> Any:  # whatever a port returns
        raise Reached


class Registry(Beyond):
    """Knows a key of each scope, called as the scope, and one of all scopes: ``all``."""

    def __init__(self) -> None:
        self.owners = {
            scope: KeyOwner(tenant_id=TENANT, key_id=f"key_{scope}", name=scope, scopes=(scope,))
            for scope in SCOPES
        }
        self.owners["all"] = KeyOwner(tenant_id=TENANT, key_id="key_all", name="all", scopes=SCOPES)
        self.verified: list[str] = []

    async def verify_key(self, key: str) -> KeyOwner:
        """Return whose key it is."""
        self.verified.append(key)
        if key not in self.owners:
            raise Unauthorized(problem="This API key is not known.")
        return self.owners[key]


class Requests(Beyond):
    """Has one answer for every Idempotency-Key, once it is set, and keeps the audit log."""

    def __init__(self) -> None:
        self.stored: StoredAnswer | None = None
        self.rows: list[AuditRow] = []

    async def begin(self, request: KeyedRequest) -> StoredAnswer | TakenKey:
        """Return the first answer."""
        return self.stored or TakenKey(first_at=0.0, is_repeat=False)

    async def release(self, request: KeyedRequest) -> None:
        """End a lease."""

    async def abandon(self, request: KeyedRequest) -> None:
        """Give a key back."""

    async def log(self, tenant_id: TenantId, row: AuditRow) -> None:
        """Keep a row."""
        self.rows.append(row)


class OpenAdmission:
    """Lets everybody pass."""

    def enter_warm(self) -> None:
        """Count nobody."""

    def leave_warm(self) -> None:
        """Count nobody."""

    async def admit(self, _tenant_id: TenantId) -> None:
        """Let a request pass at once."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a request was answered."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def code(self) -> object:
        """Return the error's code, in whatever shape."""
        found = self.json()
        return found.get("code") if "code" in found else found.get("error", {}).get("code")

    def json(self) -> Any:
        """Return the JSON that it is."""
        return msgspec.json.decode(self.body) if self.body else {}


@dataclass(frozen=True, kw_only=True)
class Rig:
    """The application, what it speaks to, and a client that sends a target as it stands."""

    http: FastAPI
    registry: Registry = field(default_factory=Registry)
    requests: Requests = field(default_factory=Requests)
    clock: ManualClock = field(default_factory=ManualClock)

    async def ask(
        self, method: str, target: str, *keys: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> Answer:
        """Send a request with each key as a bearer, like uvicorn hands it on."""
        path, _, query = target.partition("?")
        sent = [("host", "evil.example"), ("content-type", "application/json")]
        sent += [("authorization", f"Bearer {key}") for key in keys]
        length = [] if any(name == "content-length" for name, _ in headers) else [str(len(body))]
        sent += [*(("content-length", value) for value in length), *headers]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        messages: list[dict[str, Any]] = []
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            messages.append(message)

        await self.http(scope, receive, send)
        raw = messages[0]["headers"]
        return Answer(
            status=messages[0]["status"],
            body=b"".join(message.get("body", b"") for message in messages[1:]),
            headers={name.decode(): value.decode() for name, value in raw},
        )


def forward_limits() -> ForwardLimits:
    """Return limits of requests to another service, as `app.run` has them."""
    return ForwardLimits(short=FairGate(256, limit=32), long=TenantBudget(what="comparisons", limit=72))


def share(http: FastAPI, gateway: Any) -> None:
    """Let one object stand for every part of the gateway; tests find it as ``gateway``."""
    gateway.catalog = gateway
    for part in ("gateway", "edge", "inference", "catalog", "jobs", "events", "webhooks", "tinker"):
        setattr(http.state, part, gateway)


def make_rig() -> Rig:
    """Return the application with nothing behind it."""
    rig = Rig(http=build_http(ready=lambda: True))
    gateway: Any = Beyond()  # its ports are what nobody names below
    gateway.registry, gateway.requests, gateway.clock = rig.registry, rig.requests, rig.clock
    gateway.keys = KeyChecks(rig.registry, KeyMemory(ttl_seconds=10, capacity=100), rig.clock)
    gateway.is_warm = lambda _tenant_id, _model: True
    gateway.cold_admission = OpenAdmission()
    gateway.in_hand = TenantBudget(what="requests", limit=4)
    gateway.streams = TenantBudget(what="event streams", limit=2)
    gateway.limits = gateway.of_agents = forward_limits()
    gateway.episode_keys = EpisodeKeys(secret=b"secret")
    gateway.arriving = TenantBudget(what="files", limit=4)
    gateway.downloads = TenantBudget(what="downloads", limit=2)
    gateway.bodies = TenantBudget(total=64 << 20, share=1, first_fits=False)
    gateway.key_bodies = TenantBudget()
    gateway.admission = gateway.body_admission = gateway.cold_admission
    share(rig.http, gateway)
    return rig
