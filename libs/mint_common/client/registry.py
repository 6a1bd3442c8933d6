"""Client of the registry: methods for the services' own requests, and `forward` for users' requests.

Every method raises the registry's own MintErrors (NotFound, InvalidField, ...), or Unavailable. A policy may
be given by id or by name.
"""

import logging
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Sequence

import msgspec

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.authority import DECIDED_HEADER, Caller, caller_headers
from mint_common.catalog import (
    AliasRecord,
    CollectionReport,
    KeyOwner,
    KeyRecord,
    OwnedRevision,
    PolicyNames,
    PolicyRecord,
    Resolution,
    RevisionRecord,
)
from mint_common.client.http import InternalHttp, named, path_of, shortened
from mint_common.errors import MintError, NotFound
from mint_common.events import LoraSpec
from mint_common.ids import BaseName, Digest, PolicyId, TenantId, pack_digests
from mint_common.lora import check_served
from mint_common.members import Beat, Member
from mint_common.runtime.clock import Clock

_MAX_DIGESTS = 10_000

_log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.2, 5.0


class RegistryClient:
    """The registry over internal HTTP."""

    def __init__(self, http: InternalHttp, *, lookups: InternalHttp | None = None) -> None:
        """``lookups``: connections for keys and names alone, which other calls cannot fill."""
        self._http = http
        self._lookups = lookups or http
        self._read = http.read

    async def forward(
        self,
        method: str,
        parts: Sequence[str],
        caller: Caller,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes | AsyncIterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        is_long: bool = False,
        cause: str | None = None,
        decided_at: float | None = None,
    ) -> tuple[int, bytes]:
        """Forward a caller's request to a path below ``/internal``; see `InternalHttp.forward`."""
        sent = {**(headers or {}), **caller_headers(caller, cause)}
        if decided_at is not None:
            sent[DECIDED_HEADER] = repr(decided_at)
        path = path_of("internal", *parts)
        return await self._http.forward(method, path, query=query, body=body, headers=sent, is_long=is_long)

    async def verify_key(self, key: str) -> KeyOwner:
        """Return the owner of a key. Raises Unauthorized."""
        return self._read(await self._lookups.post("/internal/keys/verify", {"key": key}), KeyOwner)

    async def get_key(self, tenant_id: TenantId, key_id: str) -> KeyRecord:
        """Return a key of a tenant, a revoked one too. Raises NotFound."""
        path = path_of("internal", "tenants", tenant_id, "keys", key_id)
        return self._read(await self._http.get(path), KeyRecord)

    async def put_base(self, facts: BaseFacts) -> BaseFacts:
        """Register a base. A repeat is a no-op; another digest under the name raises InvalidField."""
        return self._read(await self._http.put(path_of("internal", "bases", facts.name), facts), BaseFacts)

    async def get_base(self, name: BaseName) -> BaseFacts:
        """Return a base's facts."""
        return self._read(await self._http.get(path_of("internal", "bases", named("base", name))), BaseFacts)

    async def check_served(self, name: BaseName) -> None:
        """Raise InvalidField for a base that is trained and not served."""
        check_served(await self.get_base(name), field="model")

    async def list_bases(self) -> list[BaseFacts]:
        """Return all bases by name."""
        return self._read(await self._http.get("/internal/bases"), list[BaseFacts])

    async def beat(self, beat: Beat) -> None:
        """Renew a member's row. Raises MemberReplaced."""
        path = path_of("internal", "members", beat.kind, beat.member_id)
        said = msgspec.to_builtins(beat)
        del said["kind"], said["member_id"]
        await self._http.put(path, said)

    async def leave(self, beat: Beat) -> None:
        """Remove the row of a member that ends. Idempotent."""
        await self._http.delete(path_of("internal", "members", beat.kind, beat.member_id, beat.epoch))

    async def members(self) -> list[Member]:
        """Return the engines and trainers that have been heard of lately."""
        return self._read(await self._http.get("/internal/members"), list[Member])

    async def create_policy(
        self,
        tenant_id: TenantId,
        *,
        name: str,
        base: BaseName,
        lora: LoraSpec | Mapping[str, float],
        described: Mapping[str, object] | None = None,
    ) -> PolicyRecord:
        """Create a policy; a LoRA without targets has all of the base. Raises InvalidField, AlreadyExists.

        ``described`` may have a description, labels and retention, as `change_policy` takes them.
        """
        body = {"name": name, "base": base, "lora": lora, **(described or {})}
        return self._read(await self._http.post(_policies(tenant_id), body), PolicyRecord)

    async def list_names(self, tenant_id: TenantId, *, limit: int) -> list[PolicyNames]:
        """Return the names of a tenant's first policies that have a revision, with 1,000 aliases at most."""
        path = path_of("internal", "tenants", tenant_id, "names")
        return self._read(await self._http.get(path, {"limit": limit}), list[PolicyNames])

    async def get_policy(self, tenant_id: TenantId, policy: PolicyId | str) -> PolicyRecord:
        """Return a policy."""
        return self._read(await self._http.get(_policies(tenant_id, policy)), PolicyRecord)

    async def get_revision(
        self, tenant_id: TenantId, policy: PolicyId | str, revision: int | str
    ) -> RevisionRecord:
        """Return a revision by number, digest or `names.BEST`."""
        path = _policies(tenant_id, policy, "revisions", named("revision", str(revision)))
        return self._read(await self._http.get(path), RevisionRecord)

    async def upload_revision(
        self, tenant_id: TenantId, policy: PolicyId | str, body: AsyncIterable[bytes], *, step: int = 0
    ) -> RevisionRecord:
        """Publish the adapter in a tar stream as a revision. Raises UploadRefused."""
        path = _policies(tenant_id, policy, "revisions")
        _, answer = await self._http.forward("POST", path, query=[("step", str(step))], body=body)
        return self._read(msgspec.json.decode(answer), RevisionRecord)

    async def find_owned(self, tenant_id: TenantId, digests: Sequence[Digest]) -> list[OwnedRevision]:
        """Return a tenant's revisions that have one of these digests."""
        path = path_of("internal", "tenants", tenant_id, "revisions", "find")
        found: list[OwnedRevision] = []
        for start in range(0, len(digests), _MAX_DIGESTS):
            body = {"digests": digests[start : start + _MAX_DIGESTS]}
            found += self._read(await self._http.post(path, body), list[OwnedRevision])
        return found

    async def find_by_prefix(self, tenant_id: TenantId, prefix: str) -> list[OwnedRevision]:
        """Return a tenant's first 100 revisions whose digest has this prefix."""
        path = path_of("internal", "tenants", tenant_id, "revisions")
        return self._read(await self._http.get(path, {"prefix": prefix}), list[OwnedRevision])

    async def list_aliases(self, tenant_id: TenantId, policy: PolicyId | str) -> list[AliasRecord]:
        """Return a policy's aliases by name, without their histories."""
        return self._read(await self._http.get(_policies(tenant_id, policy, "aliases")), list[AliasRecord])

    async def find_alias(self, tenant_id: TenantId, policy: PolicyId | str, alias: str) -> AliasRecord | None:
        """Return a policy's alias, if there is one. Raises NotFound for an unknown policy."""
        try:
            path = _policies(tenant_id, policy, "aliases", named("alias", alias))
            return self._read(await self._http.get(path), AliasRecord)
        except NotFound as error:
            if error.kind != "alias":
                raise
            return None

    async def move_alias(
        self,
        caller: Caller,
        policy: PolicyId | str,
        alias: str,
        *,
        revision: int | Digest,
        reason: str = "",
        cause: str | None = None,
        decided_at: float | None = None,
    ) -> None:
        """Point an alias at a revision, whatever it points at now: once for each ``cause``.

        A job's move gives way to newer ones than ``decided_at``, in seconds since the epoch.
        """
        parts = ("tenants", caller.tenant_id, "policies", policy, "aliases", named("alias", alias))
        body = msgspec.json.encode({"revision": revision, "reason": reason})
        await self.forward("PUT", parts, caller, body=body, cause=cause, decided_at=decided_at)

    async def record_evaluation(
        self,
        caller: Caller,
        policy_id: PolicyId,
        *,
        revision: Digest,
        suite: str,
        metric: str,
        value: float,
        n: int,
        stderr: float | None,
    ) -> None:
        """Record a score, signed by a caller. Repeating the caller's last one changes nothing."""
        score = {"suite": suite, "metric": metric, "value": value, "n": n, "stderr": stderr}
        body = msgspec.json.encode({"revision": revision, **score})
        parts = ("tenants", caller.tenant_id, "policies", policy_id, "evaluations")
        await self.forward("POST", parts, caller, body=body)

    async def resolve(self, tenant_id: TenantId, model: str) -> Resolution:
        """Return the current target of a model name. Raises NotFound; never falls back to the base."""
        if shortened(model) != model:
            raise NotFound(kind="model", name=shortened(model))
        path = path_of("internal", "tenants", tenant_id, "resolve")
        return self._read(await self._lookups.get(path, {"model": model}), Resolution)

    async def collect(self, *, used: Collection[Digest], dry_run: bool, limit: int) -> CollectionReport:
        """Remove unused items, at most ``limit``; with ``dry_run`` only list them."""
        query = [("dry_run", str(dry_run).lower()), ("limit", str(limit))]
        body = _parts(pack_digests(used))
        _, answer = await self._http.forward("POST", "/internal/collection", query=query, body=body)
        return self._read(msgspec.json.decode(answer), CollectionReport)


async def _parts(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def _policies(tenant_id: TenantId, policy: str | None = None, *parts: str) -> str:
    place = () if policy is None else (named("policy", policy), *parts)
    return path_of("internal", "tenants", tenant_id, "policies", *place)


class BaseRegistration:
    """Registers the facts of one base."""

    def __init__(self, *, registry: RegistryClient, facts: BaseFacts, clock: Clock) -> None:
        self.is_done = False
        self._registry = registry
        self._facts = facts
        self._clock = clock

    async def run(self) -> None:
        """Return when the registry has the facts, however long that takes. Raises what no retry mends."""
        delay_seconds = _FIRST_RETRY_SECONDS
        while not self.is_done:
            try:
                await self._registry.put_base(self._facts)
                self.is_done = True
            except MintError as error:
                if not error.retryable:
                    raise
                _log.info("the registry is not ready", extra={"retry_seconds": delay_seconds})
                await self._clock.sleep(delay_seconds)
                delay_seconds = min(2 * delay_seconds, _LAST_RETRY_SECONDS)
