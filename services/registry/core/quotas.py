"""Quotas of a tenant in the catalog."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mint_common.adapters_format import Manifest
from mint_common.quotas import QuotaUse, check_quota, quota_use

_log = logging.getLogger(__name__)

Kind = Literal["policies", "keys", "adapters", "adapter_bytes"]

_SAID: Mapping[Kind, tuple[str, str]] = {
    "policies": ("policies", "an operator may allow more"),
    "keys": ("keys", "revoke some"),
    "adapters": ("stored adapters", "retire revisions, or set a retention"),
    "adapter_bytes": ("bytes of stored adapters", "retire revisions, or set a retention"),
}


def adapter_bytes(manifest: Manifest) -> int:
    """Return the size of an adapter's files."""
    return sum(proof.size_bytes for proof in manifest.files.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogQuotas:
    """A tenant's use, or its limits; a limit of 0 means none."""

    policies: int = 0
    keys: int = 0
    adapters: int = 0
    adapter_bytes: int = 0

    def with_own(self, own: Mapping[str, object]) -> "CatalogQuotas":
        """Return the quotas with a tenant's own values; one that is not a count is ignored."""
        counts = {kind: n for kind, n in own.items() if kind in _SAID and type(n) is int and n >= 0}
        if len(counts) < len(own):
            _log.error("quotas of a tenant ignored", extra={"kinds": sorted(own.keys() - counts.keys())})
        return replace(self, **counts)

    def check(self, usage: "CatalogQuotas", *kinds: Kind) -> None:
        """Refuse one more of these to a tenant. Raises QuotaExceeded."""
        for kind in kinds:
            limit, (what, remedy) = getattr(self, kind), _SAID[kind]
            if limit:
                check_quota(getattr(usage, kind), limit=limit, what=what, remedy=remedy)

    def uses(self, usage: "CatalogQuotas") -> list[QuotaUse]:
        """Return a tenant's use beside these limits."""
        return [quota_use(kind, getattr(usage, kind), limit=getattr(self, kind)) for kind in _SAID]


UNBOUNDED = CatalogQuotas()
