"""Client of the registry: one typed method per route.

Every method raises the registry's own MintErrors (NotFound, InvalidField, ...), or Unavailable. A policy may
be given by id or by name. Lists come in pages: ``after`` is the last item's cursor as each method says.
"""

from collections.abc import AsyncIterable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import TypeVar

import msgspec

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.authority import Authority
from mint_common.catalog import (
    FULL_SCOPES,
    AliasMove,
    AliasRecord,
    CollectionReport,
    EvaluationRecord,
    IssuedKey,
    KeyOwner,
    KeyRecord,
    Lineage,
    OwnedRevision,
    PolicyFilter,
    PolicyRecord,
    Resolution,
    RevisionDiff,
    RevisionFilter,
    RevisionRecord,
    RevisionState,
    RuleRecord,
    Scope,
    TenantRecord,
)
from mint_common.client.http import InternalHttp, named, path_of, shortened
from mint_common.errors import NotFound, Unavailable
from mint_common.ids import BaseName, Digest, EvaluationId, PolicyId, TenantId

T = TypeVar("T")

_MOST_DIGESTS = 10_000


class RegistryClient:
    """The registry over internal HTTP."""

    def __init__(self, http: InternalHttp) -> None:
        self._http = http

    async def create_tenant(self, name: str) -> TenantRecord:
        """Create a tenant, or return the one of that name."""
        return _read(await self._http.post("/internal/tenants", {"name": name}), TenantRecord)

    async def list_tenants(self, *, limit: int = 100, after: str | None = None) -> list[TenantRecord]:
        """Return tenants by name; ``after`` is a tenant's name."""
        params = {"limit": limit, "after": after}
        return _read(await self._http.get("/internal/tenants", params), list[TenantRecord])

    async def create_key(
        self, tenant_id: TenantId, *, name: str, by: Authority, scopes: Sequence[Scope] = FULL_SCOPES
    ) -> IssuedKey:
        """Issue a new API key. Raises as `Authority.check_grant`, and Unauthorized when ``by`` is revoked."""
        body = {"name": name, "scopes": scopes, "by": by}
        return _read(await self._http.post(_keys(tenant_id), body), IssuedKey)

    async def list_keys(
        self, tenant_id: TenantId, *, limit: int = 1000, after: str | None = None
    ) -> list[KeyRecord]:
        """Return a tenant's keys by id, revoked ones too; ``after`` is a key's id."""
        params = {"limit": limit, "after": after}
        return _read(await self._http.get(_keys(tenant_id), params), list[KeyRecord])

    async def rotate_key(self, tenant_id: TenantId, key_id: str, *, by: Authority) -> IssuedKey:
        """Replace a key by a new one of the same id. Raises NotFound for a revoked one; as `create_key`."""
        path = _keys(tenant_id, named("key", key_id), "rotate")
        return _read(await self._http.post(path, {"by": by}), IssuedKey)

    async def revoke_key(self, tenant_id: TenantId, key_id: str, *, by: Authority) -> None:
        """Let a key open nothing any more. Idempotent. Raises NotFound, and as `create_key`."""
        await self._http.post(_keys(tenant_id, named("key", key_id), "revoke"), {"by": by})

    async def verify_key(self, key: str) -> KeyOwner:
        """Return whose key it is. Raises Unauthorized."""
        return _read(await self._http.post("/internal/keys/verify", {"key": key}), KeyOwner)

    async def put_base(self, facts: BaseFacts) -> BaseFacts:
        """Register a base. A repeat is a no-op; another digest under the name raises InvalidField."""
        return _read(await self._http.put(path_of("internal", "bases", facts.name), facts), BaseFacts)

    async def get_base(self, name: BaseName) -> BaseFacts:
        """Return a base's facts."""
        return _read(await self._http.get(path_of("internal", "bases", named("base", name))), BaseFacts)

    async def list_bases(self) -> list[BaseFacts]:
        """Return all bases by name."""
        return _read(await self._http.get("/internal/bases"), list[BaseFacts])

    async def create_policy(
        self,
        tenant_id: TenantId,
        *,
        name: str,
        base: BaseName,
        rank: int,
        alpha: float,
        seed: int,
        targets: tuple[str, ...] | None = None,
        described: Mapping[str, object] | None = None,
    ) -> PolicyRecord:
        """Create a policy; ``targets`` None means all of the base. Raises InvalidField, AlreadyExists.

        ``described`` may have a description, labels and retention, as `change_policy` takes them.
        """
        lora: dict[str, object] = {"rank": rank, "alpha": alpha, "seed": seed}
        if targets is not None:
            lora["targets"] = list(targets)
        body = {"name": name, "base": base, "lora": lora, **(described or {})}
        return _read(await self._http.post(_policies(tenant_id), body), PolicyRecord)

    async def list_policies(
        self,
        tenant_id: TenantId,
        wanted: PolicyFilter | None = None,
        *,
        limit: int = 100,
        after: str | None = None,
    ) -> list[PolicyRecord]:
        """Return policies by name, or by time when a time selects them; ``after`` is a policy's name."""
        params: dict[str, str | float | None] = {"limit": limit, "after": after}
        if wanted is not None:
            params |= {
                "base": wanted.base,
                "labels": ",".join(f"{label}={value}" for label, value in wanted.labels) or None,
                "created_after": wanted.created_after,
                "created_before": wanted.created_before,
            }
        return _read(await self._http.get(_policies(tenant_id), params), list[PolicyRecord])

    async def change_policy(
        self,
        tenant_id: TenantId,
        policy: PolicyId | str,
        change: Mapping[str, object],
        *,
        expected: int | None = None,
    ) -> PolicyRecord:
        """Describe a policy otherwise: description, labels (merged; None removes), retention.

        ``expected`` is its ``changed`` that the change was made for. Raises PreconditionFailed.
        """
        body = {**change, "expected": expected}
        return _read(await self._http.patch(_policies(tenant_id, policy), body), PolicyRecord)

    async def get_policy(self, tenant_id: TenantId, policy: PolicyId | str) -> PolicyRecord:
        """Return a policy."""
        return _read(await self._http.get(_policies(tenant_id, policy)), PolicyRecord)

    async def list_revisions(
        self,
        tenant_id: TenantId,
        policy: PolicyId | str,
        wanted: RevisionFilter | None = None,
        *,
        limit: int = 100,
        after: int | None = None,
    ) -> list[RevisionRecord]:
        """Return revisions by number; ``after`` is a revision's number."""
        params = {"limit": limit, "after": after, **(asdict(wanted) if wanted else {})}
        path = _policies(tenant_id, policy, "revisions")
        return _read(await self._http.get(path, params), list[RevisionRecord])

    async def get_revision(
        self, tenant_id: TenantId, policy: PolicyId | str, revision: int | Digest
    ) -> RevisionRecord:
        """Return a revision by number or digest."""
        path = _policies(tenant_id, policy, "revisions", named("revision", str(revision)))
        return _read(await self._http.get(path), RevisionRecord)

    async def upload_revision(
        self,
        tenant_id: TenantId,
        policy: PolicyId | str,
        body: AsyncIterable[bytes],
        *,
        step: int = 0,
        parent: int | Digest | None = None,
    ) -> RevisionRecord:
        """Publish the adapter in a tar stream as a revision. Raises UploadRefused."""
        path = _policies(tenant_id, policy, "revisions")
        answer = await self._http.post_stream(path, body, {"step": step, "parent": parent})
        return _read(answer, RevisionRecord)

    async def find_owned(self, tenant_id: TenantId, digests: Sequence[Digest]) -> list[OwnedRevision]:
        """Return which of these digests are a tenant's, of which policies."""
        path = path_of("internal", "tenants", tenant_id, "revisions", "find")
        found: list[OwnedRevision] = []
        for start in range(0, len(digests), _MOST_DIGESTS):
            body = {"digests": digests[start : start + _MOST_DIGESTS]}
            found += _read(await self._http.post(path, body), list[OwnedRevision])
        return found

    async def set_revision_state(
        self, tenant_id: TenantId, policy: PolicyId | str, revision: int | Digest, state: RevisionState
    ) -> RevisionRecord:
        """Retire or restore a revision. Raises RevisionInUse when an alias points at it."""
        path = _policies(tenant_id, policy, "revisions", named("revision", str(revision)), "state")
        return _read(await self._http.post(path, {"state": state}), RevisionRecord)

    async def list_rules(self, tenant_id: TenantId, policy: PolicyId | str) -> list[RuleRecord]:
        """Return a policy's promotion rules."""
        return _read(await self._http.get(_policies(tenant_id, policy, "rules")), list[RuleRecord])

    async def create_rule(
        self, tenant_id: TenantId, policy: PolicyId | str, rule: Mapping[str, str | float | None]
    ) -> RuleRecord:
        """Add a promotion rule: alias, suite, metric, at_least, max_drop, roll_back_below, actor."""
        return _read(await self._http.post(_policies(tenant_id, policy, "rules"), rule), RuleRecord)

    async def remove_rule(self, tenant_id: TenantId, policy: PolicyId | str, rule_id: str) -> None:
        """Remove a promotion rule. Raises NotFound."""
        await self._http.delete(_policies(tenant_id, policy, "rules", named("rule", rule_id)))

    async def list_history(
        self,
        tenant_id: TenantId,
        policy: PolicyId | str,
        alias: str,
        *,
        limit: int = 100,
        before: int | None = None,
    ) -> list[AliasMove]:
        """Return an alias's moves, newest first; ``before`` is a move's sequence."""
        path = _policies(tenant_id, policy, "aliases", named("alias", alias), "history")
        return _read(await self._http.get(path, {"limit": limit, "before": before}), list[AliasMove])

    async def protect_alias(
        self, tenant_id: TenantId, policy: PolicyId | str, alias: str, *, protected: bool
    ) -> AliasRecord:
        """Let only admins and rules move an alias, or everybody again."""
        path = _policies(tenant_id, policy, "aliases", named("alias", alias), "protect")
        return _read(await self._http.post(path, {"protected": protected}), AliasRecord)

    async def list_aliases(
        self, tenant_id: TenantId, policy: PolicyId | str, *, limit: int = 1000, after: str | None = None
    ) -> list[AliasRecord]:
        """Return a policy's aliases by name, without their histories; ``after`` is an alias's name."""
        path = _policies(tenant_id, policy, "aliases")
        return _read(await self._http.get(path, {"limit": limit, "after": after}), list[AliasRecord])

    async def get_alias(self, tenant_id: TenantId, policy: PolicyId | str, alias: str) -> AliasRecord:
        """Return an alias with its history."""
        path = _policies(tenant_id, policy, "aliases", named("alias", alias))
        return _read(await self._http.get(path), AliasRecord)

    async def move_alias(
        self,
        tenant_id: TenantId,
        policy: PolicyId | str,
        alias: str,
        *,
        revision: int | Digest,
        actor: str,
        reason: str = "",
        expected: Digest | str | None = None,
        is_admin: bool = True,
    ) -> AliasRecord:
        """Point an alias at a revision.

        ``expected`` is what it must point at now ("": it must not exist yet; None: whatever). Raises
        PreconditionFailed.
        """
        path = _policies(tenant_id, policy, "aliases", named("alias", alias))
        body: dict[str, object] = {
            "revision": revision,
            "actor": actor,
            "reason": reason,
            "is_admin": is_admin,
        }
        if expected is not None:
            body["expected"] = expected
        return _read(await self._http.put(path, body), AliasRecord)

    async def roll_back_alias(
        self,
        tenant_id: TenantId,
        policy: PolicyId | str,
        alias: str,
        *,
        actor: str,
        reason: str = "",
        expected: Digest | None = None,
        is_admin: bool = True,
    ) -> AliasRecord:
        """Point an alias at what it pointed at before its current target; repeated, it goes further back.

        Raises PreconditionFailed when ``expected`` is not the current target, InvalidField when there is
        nothing further back.
        """
        path = _policies(tenant_id, policy, "aliases", alias, "rollback")
        body: dict[str, object] = {"actor": actor, "reason": reason, "is_admin": is_admin}
        if expected is not None:
            body["expected"] = expected
        return _read(await self._http.post(path, body), AliasRecord)

    async def record_evaluation(
        self,
        tenant_id: TenantId,
        policy: PolicyId | str,
        *,
        revision: int | Digest,
        suite: str,
        metric: str,
        value: float,
        n: int,
        actor: str,
        stderr: float | None = None,
    ) -> EvaluationRecord:
        """Record a score of a revision. Repeating what an actor said last records nothing."""
        body = {
            "revision": revision,
            "suite": suite,
            "metric": metric,
            "value": value,
            "n": n,
            "stderr": stderr,
            "actor": actor,
        }
        path = _policies(tenant_id, policy, "evaluations")
        return _read(await self._http.post(path, body), EvaluationRecord)

    async def list_evaluations(
        self,
        tenant_id: TenantId,
        policy: PolicyId | str,
        *,
        limit: int = 100,
        after: EvaluationId | None = None,
    ) -> list[EvaluationRecord]:
        """Return evaluations, oldest first; ``after`` is an evaluation's id."""
        path = _policies(tenant_id, policy, "evaluations")
        return _read(await self._http.get(path, {"limit": limit, "after": after}), list[EvaluationRecord])

    async def get_lineage(
        self,
        tenant_id: TenantId,
        policy: PolicyId | str,
        revision: Digest,
        *,
        ancestors: int | None = None,
        descendants: int | None = None,
    ) -> Lineage:
        """Return the graph around a revision, given by number or digest, as far as trainings are given."""
        path = _policies(tenant_id, policy, "revisions", named("revision", revision), "lineage")
        steps = {"ancestors": ancestors, "descendants": descendants}
        return _read(await self._http.get(path, steps), Lineage)

    async def get_diff(
        self, tenant_id: TenantId, policy: PolicyId | str, revision: Digest, *, against: str | None
    ) -> RevisionDiff:
        """Compare a revision with another one, or with its parent."""
        path = _policies(tenant_id, policy, "revisions", named("revision", revision), "diff")
        return _read(await self._http.get(path, {"against": against}, patient=True), RevisionDiff)

    async def resolve(self, tenant_id: TenantId, model: str) -> Resolution:
        """Return what a model name means now. Raises NotFound; never falls back to the base."""
        if shortened(model) != model:
            raise NotFound(kind="model", name=shortened(model))
        path = path_of("internal", "tenants", tenant_id, "resolve")
        return _read(await self._http.get(path, {"model": model}), Resolution)

    async def collect(self, *, used: Collection[Digest], dry_run: bool, limit: int) -> CollectionReport:
        """Let go of what nobody uses, at most ``limit`` things, or only say what would go."""
        body = {"used": sorted(used), "dry_run": dry_run, "limit": limit}
        return _read(await self._http.post("/internal/collection", body, patient=True), CollectionReport)


def _keys(tenant_id: TenantId, *parts: str) -> str:
    return path_of("internal", "tenants", tenant_id, "keys", *parts)


def _policies(tenant_id: TenantId, policy: str | None = None, *parts: str) -> str:
    place = () if policy is None else (named("policy", policy), *parts)
    return path_of("internal", "tenants", tenant_id, "policies", *place)


def _read(answer: object, shape: type[T]) -> T:
    try:
        return msgspec.convert(answer, type=shape)
    except msgspec.ValidationError as error:
        raise Unavailable(what="the registry", problem=f"unreadable answer: {error}") from error
