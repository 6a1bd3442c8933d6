"""Lineage of a revision: its ancestors and descendants within a number of training steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mint_common.catalog import Lineage, LineageNode, RevisionRecord

MAX_NODES = 1000
MAX_STEPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """A revision and its distance from another, in trainings: -1 is its parent, 1 its child."""

    revision: RevisionRecord
    distance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The greatest distance of ancestors and of descendants, in trainings."""

    ancestors: int = MAX_STEPS
    descendants: int = 1

    @property
    def beyond(self) -> "Reach":
        """Return a reach one step longer, which shows whether anything is left out."""
        return Reach(ancestors=self.ancestors + 1, descendants=self.descendants + 1)


def lineage_of(
    revision: RevisionRecord,
    related: Sequence[Relative],
    reach: Reach,
    aliases: Mapping[int, Sequence[str]],
) -> Lineage:
    """Return a graph of a revision and its relatives within reach, by number.

    ``related`` are those within ``reach.beyond``, nearest first; beyond `MAX_NODES` in total the
    farthest are cut. `complete` is False if any were omitted.
    """
    near = [each for each in related if -reach.ancestors <= each.distance <= reach.descendants]
    itself = Relative(revision=revision, distance=0)
    known: dict[int, Relative] = {}
    for each in (itself, *near)[:MAX_NODES]:
        known.setdefault(each.revision.number, each)
    is_complete = len(near) == len(related) and len(near) < MAX_NODES
    nodes = [known[number] for number in sorted(known)]
    return Lineage(
        revision=revision.number,
        nodes=tuple(_node(each, aliases.get(each.revision.number, ())) for each in nodes),
        complete=is_complete,
    )


def _node(relative: Relative, aliases: Sequence[str]) -> LineageNode:
    revision = relative.revision
    return LineageNode(
        number=revision.number,
        digest=revision.digest,
        parent=revision.parent,
        step=revision.step,
        state=revision.state,
        job_id=revision.job_id,
        wave_id=revision.wave_id,
        aliases=tuple(aliases),
        created_at=revision.created_at,
        distance=relative.distance,
    )
