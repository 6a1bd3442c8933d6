"""What names meant a moment ago, so that a warm request asks the registry nothing.

Invariants: an entry is believed at most ``lease_seconds``, whatever the bus does or fails to do; what is
forgotten while an answer is on its way is not brought back by that answer; nothing grows with the number of
names ever asked for. What does not exist is never remembered: it may exist a moment later.
"""

from collections import OrderedDict
from dataclasses import dataclass

from mint_common.catalog import Resolution
from mint_common.ids import PolicyId, TenantId

Key = tuple[TenantId, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    resolution: Resolution
    asked_at: float


class ResolutionCache:
    """At most ``capacity`` resolutions by tenant and model name; the least recently used one goes first."""

    def __init__(self, *, capacity: int, lease_seconds: float) -> None:
        self._capacity = capacity
        self._lease_seconds = lease_seconds
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._of_policy: dict[PolicyId, set[Key]] = {}
        self._ids: dict[Key, PolicyId] = {}
        self._forgotten: OrderedDict[PolicyId, int] = OrderedDict()
        self._changes = 0
        self._oldest_change = 0

    def __len__(self) -> int:
        """Return how many names are remembered."""
        return len(self._entries)

    def get(self, key: Key, *, now: float) -> Resolution | None:
        """Return what a name meant, asked less than a lease ago."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now - entry.asked_at >= self._lease_seconds:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.resolution

    def ask(self) -> int:
        """Return a ticket to take before the registry is asked, and to hand to `put` with its answer."""
        return self._changes

    def put(self, key: Key, resolution: Resolution, *, ticket: int, now: float) -> None:
        """Remember an answer that was asked for at ``now``, unless its policy was forgotten since."""
        policy_id = resolution.policy_id
        changed_at = self._oldest_change
        if policy_id is not None:
            changed_at = max(changed_at, self._forgotten.get(policy_id, 0))
        if ticket < changed_at:
            return
        self._drop(key)
        self._entries[key] = _Entry(resolution=resolution, asked_at=now)
        if policy_id is not None and resolution.policy_name is not None:
            self._of_policy.setdefault(policy_id, set()).add(key)
            self._ids[key[0], resolution.policy_name] = policy_id
        while len(self._entries) > self._capacity:
            self._drop(next(iter(self._entries)))

    def forget(self, policy_id: PolicyId) -> None:
        """Forget all names of a policy, and answers about it that are on their way."""
        self._changes += 1
        self._forgotten.pop(policy_id, None)
        self._forgotten[policy_id] = self._changes
        while len(self._forgotten) > self._capacity:
            self._oldest_change = self._forgotten.popitem(last=False)[1]
        for key in list(self._of_policy.get(policy_id, ())):
            self._drop(key)

    def forget_named(self, tenant_id: TenantId, policy: str) -> None:
        """Do the same for a tenant's policy by id or name."""
        known = self._ids.get((tenant_id, policy), PolicyId(policy))
        self.forget(known)

    def clear(self) -> None:
        """Forget everything, and every answer that is on its way."""
        self._changes += 1
        self._oldest_change = self._changes
        self._entries.clear()
        self._of_policy.clear()
        self._ids.clear()
        self._forgotten.clear()

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None or entry.resolution.policy_id is None:
            return
        policy_id = entry.resolution.policy_id
        keys = self._of_policy[policy_id]
        keys.discard(key)
        if not keys:
            del self._of_policy[policy_id]
            self._ids.pop((key[0], str(entry.resolution.policy_name)), None)
