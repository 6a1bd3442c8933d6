"""The one decision on keys, scopes and tenants.

The gateway makes it at every route; the registry makes it again in the statement that creates, rotates or
revokes a key. Invariant: in any order of creations, rotations and revocations, no request yields a key with a
scope that the request's key lacks.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from mint_common.catalog import KeyOwner, Scope
from mint_common.errors import Forbidden, InvalidField
from mint_common.ids import TenantId

CALLER_HEADER = "x-mint-caller"
"""Carries the caller of a request that one service hands on to another, as `write_caller` writes it."""
CAUSE_HEADER = "x-mint-cause"
"""Names what a service's own request follows from: one of the same cause has no effect the second time."""
DECIDED_HEADER = "x-mint-decided-at"
"""Says when a service's own request was decided on, in seconds since the epoch."""

_INCLUDED_IN_ADMIN: frozenset[Scope] = frozenset({"read", "infer", "train"})


def held_scopes(scopes: Collection[Scope]) -> frozenset[Scope]:
    """Return a key's scopes, with those that they include."""
    return frozenset(scopes) | (_INCLUDED_IN_ADMIN if "admin" in scopes else frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The tenant, id and scopes of a verified key."""

    tenant_id: TenantId
    key_id: str
    scopes: frozenset[Scope]

    @classmethod
    def of(cls, owner: KeyOwner) -> "Authority":
        """Return the authority of a key that the registry has verified."""
        return cls(tenant_id=owner.tenant_id, key_id=owner.key_id, scopes=frozenset(owner.scopes))

    def may(self, needed: Scope) -> bool:
        """Return whether the key holds a scope."""
        return needed in held_scopes(self.scopes)

    def check(self, needed: Scope) -> None:
        """Refuse scopes that the key does not hold. Raises Forbidden."""
        if not self.may(needed):
            found = ", ".join(sorted(self.scopes))
            raise Forbidden(problem=f"This takes a key with scope {needed!r}; this key has {found}.")

    def check_grant(self, scopes: Collection[Scope], *, tenant_id: TenantId) -> None:
        """Refuse to make a key with these scopes, or to rotate or revoke one. Raises Forbidden.

        It needs ``admin`` for a key of the caller's tenant, ``operator`` for another tenant's, and every
        scope of the key in question.
        """
        self.check("admin" if tenant_id == self.tenant_id and self.may("admin") else "operator")
        lacking = held_scopes(scopes) - held_scopes(self.scopes)
        if lacking:
            missing = ", ".join(sorted(lacking))
            problem = (
                f"A key changes and makes no key with more scopes than it has: this one lacks {missing}."
            )
            raise Forbidden(problem=problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The authority of a verified key, and its name, which is recorded as author."""

    authority: Authority
    name: str

    @property
    def tenant_id(self) -> TenantId:
        """Return the tenant that the key belongs to."""
        return self.authority.tenant_id

    @property
    def key_id(self) -> str:
        """Return the key's id."""
        return self.authority.key_id

    @property
    def is_admin(self) -> bool:
        """Return whether it may move protected aliases."""
        return self.authority.may("admin")

    @property
    def actor(self) -> str:
        """Return the name that histories carry."""
        return self.name or self.key_id


def write_caller(caller: Caller) -> str:
    """Return a caller as the text of a header, all of it ASCII."""
    return json.dumps(msgspec.to_builtins(caller))


def caller_headers(caller: Caller, cause: str | None) -> dict[str, str]:
    """Return the headers of a request that one service hands on to another."""
    return {CALLER_HEADER: write_caller(caller)} | ({} if cause is None else {CAUSE_HEADER: cause})


def read_caller(text: str) -> Caller:
    """Return the caller that `write_caller` wrote. Raises InvalidField."""
    try:
        return msgspec.json.decode(text, type=Caller)
    except msgspec.DecodeError as error:
        raise InvalidField(field=CALLER_HEADER, problem=str(error)) from error
