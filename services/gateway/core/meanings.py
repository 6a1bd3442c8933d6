"""A name that starts to mean another revision: which of the two answers, and for how long.

Invariants: what answers is what the name means, or what it meant and answered with before; the former one
answers only while it is ready and the new one is not, and until ``until`` at the longest: `switch_seconds`
after the move, or a lease more if nobody told of it; once the new one has answered, the former never does
again by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from mint_common.catalog import Resolution

IsReady = Callable[[Resolution], bool]
"""Whether some engine has what a name means in memory, as far as is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a name means, as it was asked at ``asked_at``; ``former`` answers in its place ``until`` then.

    ``changed_at``: when the name may have begun to mean something else, so that it must be asked for anew.
    """

    target: Resolution
    asked_at: float
    changed_at: float | None = None
    former: Resolution | None = None
    until: float = 0.0

    @property
    def answering(self) -> Resolution:
        """Return what has answered in the name."""
        return self.former or self.target


def follow_up(
    known: Meaning | None, found: Resolution, *, asked_at: float, lease_seconds: float, switch_seconds: float
) -> Meaning:
    """Return what a name means now that the registry has said so, after what was known of it.

    A second move does not prolong the time that began with the first.
    """
    fresh = Meaning(target=found, asked_at=asked_at)
    if known is None or known.target.policy_id != found.policy_id:
        return fresh  # another policy, or none, that has got the name: nothing of it ever answered
    if found.revision == known.answering.revision:
        return fresh
    if known.former is not None:
        return replace(fresh, former=known.former, until=known.until)
    if found.revision == known.target.revision:
        return fresh
    # A lease after it was asked for nobody knows what it meant: word of a change may be of a later one.
    changed_at = min(asked_at, known.asked_at + lease_seconds)
    if known.changed_at is not None:
        changed_at = min(changed_at, known.changed_at)
    return replace(fresh, former=known.target, until=changed_at + switch_seconds)


def settle(meaning: Meaning, *, now: float, is_ready: IsReady) -> Meaning:
    """Let the target answer as soon as it is ready, its former is not any more, or the time is over."""
    if meaning.former is None:
        return meaning
    if now < meaning.until and is_ready(meaning.former) and not is_ready(meaning.target):
        return meaning
    return replace(meaning, former=None)
