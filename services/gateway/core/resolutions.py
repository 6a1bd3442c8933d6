"""Cached resolutions of model names, so that a warm request does not call the registry.

Invariants: an entry is used for ``lease_seconds`` at most, whatever happens on the bus, or for
`GRACE_SECONDS` while the registry does not answer, unless it is known to be stale; an answer in flight while
its policy is forgotten is not cached; memory is bounded. Names that do not exist are not cached. After a move
the former revision may answer while the new one is loading: only while the former is ready and the new one is
not, and until ``until`` at the longest. Once the new one has answered, the former never does.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from mint_common.catalog import Resolution
from mint_common.ids import Digest, PolicyId, TenantId
from mint_common.names import number_or_digest

Key = tuple[TenantId, str]

GRACE_SECONDS = 60.0
"""Time that a cached answer is used while the registry is down: longer than its restart."""


def is_fixed(model: str) -> bool:
    """Return whether a name means one revision for good: it has a number or a digest."""
    policy, _, revision = model.rpartition("@")
    return bool(policy) and number_or_digest(revision) is not None


IsReady = Callable[[Resolution], bool]
"""Whether some engine is known to have a resolution's revision in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameBinding:
    """What a name resolved to at ``asked_at``; ``former`` may answer instead ``until`` then.

    ``changed_at``: when the name may have moved, so that the entry is stale.
    """

    target: Resolution
    asked_at: float
    changed_at: float | None = None
    former: Resolution | None = None
    until: float = 0.0

    @property
    def answering(self) -> Resolution:
        """Return the resolution that answers."""
        return self.former or self.target


def rebind(
    known: NameBinding | None,
    found: Resolution,
    *,
    asked_at: float,
    lease_seconds: float,
    switch_seconds: float,
) -> NameBinding:
    """Return the binding after a new answer of the registry, given the previous binding.

    A second move does not extend the deadline of the first.
    """
    fresh = NameBinding(target=found, asked_at=asked_at)
    if known is None or known.target.policy_id != found.policy_id:
        return fresh  # the name belongs to another policy now, which has not answered yet
    if found.revision == known.answering.revision:
        return fresh
    if known.former is not None:
        return replace(fresh, former=known.former, until=known.until)
    if found.revision == known.target.revision:
        return fresh
    # Past its lease an entry may be stale, so date the switch from lease expiry.
    changed_at = min(asked_at, known.asked_at + lease_seconds)
    if known.changed_at is not None:
        changed_at = min(changed_at, known.changed_at)
    return replace(fresh, former=known.target, until=changed_at + switch_seconds)


def settle(binding: NameBinding, *, now: float, is_ready: IsReady) -> NameBinding:
    """Drop the former once the target is ready, the former is not, or the deadline has passed."""
    if binding.former is None:
        return binding
    if now < binding.until and is_ready(binding.former) and not is_ready(binding.target):
        return binding
    return replace(binding, former=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answering revision; ``wanted`` is the target if it is not ready yet, set once per move."""

    answer: Resolution
    wanted: Resolution | None = None


class ResolutionCache:
    """LRU cache of at most ``capacity`` names by tenant and model name."""

    def __init__(
        self, *, capacity: int, lease_seconds: float, switch_seconds: float, is_ready: IsReady
    ) -> None:
        self._capacity = capacity
        self._lease_seconds = lease_seconds
        self._switch_seconds = switch_seconds
        self._is_ready = is_ready
        self._entries: OrderedDict[Key, NameBinding] = OrderedDict()
        self._of_policy: dict[PolicyId, set[Key]] = {}
        self._ids: dict[Key, PolicyId] = {}
        self._forgotten: OrderedDict[PolicyId, int] = OrderedDict()
        self._changes = 0
        self._oldest_change = 0

    def __len__(self) -> int:
        """Return how many names are cached, stale ones included."""
        return len(self._entries)

    def get(self, key: Key, *, now: float) -> Resolution | None:
        """Return the answering revision, if it was resolved within the lease."""
        entry = self._entries.get(key)
        if entry is None or entry.changed_at is not None or now - entry.asked_at >= self._lease_seconds:
            return None
        self._entries.move_to_end(key)
        if entry.former is None:
            return entry.target
        entry = self._entries[key] = settle(entry, now=now, is_ready=self._is_ready)
        return entry.answering

    def recent(self, key: Key, *, now: float) -> Resolution | None:
        """Return the answering revision while the registry is down, from an entry not known to be stale."""
        entry = self._entries.get(key)
        if entry is None or entry.changed_at is not None or now - entry.asked_at >= GRACE_SECONDS:
            return None
        return settle(entry, now=now, is_ready=self._is_ready).answering

    def behind(self, key: Key) -> int:
        """Return how many revisions the answering one is behind the target of a cached name."""
        entry = self._entries.get(key)
        if entry is None or entry.former is None:
            return 0
        former, target = entry.former.revision, entry.target.revision
        return abs(target.number - former.number) if former and target else 0

    def peek(self, key: Key) -> Resolution | None:
        """Return the last answering revision, however old."""
        entry = self._entries.get(key)
        return entry.answering if entry else None

    def ask(self) -> int:
        """Return a ticket: take it before asking the registry, and pass it to `put` with the answer."""
        return self._changes

    def put(self, key: Key, resolution: Resolution, *, ticket: int, asked_at: float, now: float) -> Found:
        """Return the answering revision of a name, given the registry's answer to a question at ``asked_at``.

        The answer is cached, unless its policy was forgotten since.
        """
        known = self._entries.get(key)
        if known is not None:
            known = settle(known, now=now, is_ready=self._is_ready)
            if known.changed_at is None and asked_at < known.asked_at:
                return Found(answer=known.answering)
        binding = rebind(
            known,
            resolution,
            asked_at=asked_at,
            lease_seconds=self._lease_seconds,
            switch_seconds=self._switch_seconds,
        )
        binding = settle(binding, now=now, is_ready=self._is_ready)
        if not self._is_overtaken(resolution, ticket):
            self._keep(key, binding)
        is_new = known is None or known.target.revision != resolution.revision
        wanted = resolution if binding.former is not None and is_new else None
        return Found(answer=binding.answering, wanted=wanted)

    def policy_id(self, tenant_id: TenantId, policy: str) -> PolicyId:
        """Return the id of a tenant's policy, given by id or by a name that is cached."""
        return self._ids.get((tenant_id, policy), PolicyId(policy))

    def forget(self, policy_id: PolicyId, *, at: float) -> None:
        """Mark the names of a policy that may change, and answers in flight, as stale since ``at``."""
        self._note_change(policy_id)
        for key in self._of_policy.get(policy_id, ()):
            if is_fixed(key[1]):
                continue
            entry = self._entries[key]
            changed_at = at if entry.changed_at is None else min(at, entry.changed_at)
            self._entries[key] = replace(entry, changed_at=changed_at)

    def withdraw(self, policy_id: PolicyId, digest: Digest | None = None) -> None:
        """Drop the names of a policy that a revision answers for; without a digest, all of them."""
        self._note_change(policy_id)
        for key in list(self._of_policy.get(policy_id, ())):
            entry = self._entries[key]
            involved = {each.revision.digest for each in (entry.target, entry.answering) if each.revision}
            if digest is None or digest in involved:
                self.drop(key)

    def drop(self, key: Key) -> None:
        """Drop a name."""
        entry = self._entries.pop(key, None)
        if entry is None or entry.target.policy_id is None:
            return
        policy_id = entry.target.policy_id
        keys = self._of_policy[policy_id]
        keys.discard(key)
        if not keys:
            del self._of_policy[policy_id]
            self._ids.pop((key[0], str(entry.target.policy_name)), None)

    def clear(self) -> None:
        """Forget everything, and every answer in flight."""
        self._changes += 1
        self._oldest_change = self._changes
        self._entries.clear()
        self._of_policy.clear()
        self._ids.clear()
        self._forgotten.clear()

    def _keep(self, key: Key, binding: NameBinding) -> None:
        self.drop(key)
        self._entries[key] = binding
        target = binding.target
        if target.policy_id is not None and target.policy_name is not None:
            self._of_policy.setdefault(target.policy_id, set()).add(key)
            self._ids[key[0], target.policy_name] = target.policy_id
        while len(self._entries) > self._capacity:
            self.drop(next(iter(self._entries)))

    def _is_overtaken(self, resolution: Resolution, ticket: int) -> bool:
        changed_at = self._oldest_change
        if resolution.policy_id is not None:
            changed_at = max(changed_at, self._forgotten.get(resolution.policy_id, 0))
        return ticket < changed_at

    def _note_change(self, policy_id: PolicyId) -> None:
        self._changes += 1
        self._forgotten.pop(policy_id, None)
        self._forgotten[policy_id] = self._changes
        while len(self._forgotten) > self._capacity:
            self._oldest_change = self._forgotten.popitem(last=False)[1]
