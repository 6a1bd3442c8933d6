"""Where revisions come from: a line back to the first, and what was trained from here."""

from collections.abc import Mapping, Sequence

from mint_common.catalog import Lineage, LineageNode, RevisionRecord
from mint_common.ids import PolicyId

MOST_NODES = 1000


def lineage_of(
    policy_id: PolicyId,
    revision: RevisionRecord,
    related: Sequence[RevisionRecord],
    aliases: Mapping[int, Sequence[str]],
) -> Lineage:
    """Return a graph of a revision, its ancestors and its children, by number.

    ``related`` may lack ancestors: a line longer than `MOST_NODES` is cut, and `complete` says so.
    """
    known = {each.digest: each for each in (revision, *related)}
    nodes = sorted(known.values(), key=lambda each: each.number)
    return Lineage(
        revision=revision.number,
        nodes=tuple(_node(policy_id, each, aliases.get(each.number, ())) for each in nodes),
        complete=len(nodes) < MOST_NODES,
    )


def _node(policy_id: PolicyId, revision: RevisionRecord, aliases: Sequence[str]) -> LineageNode:
    wave = revision.wave_id
    return LineageNode(
        number=revision.number,
        digest=revision.digest,
        parent=revision.parent,
        step=revision.step,
        state=revision.state,
        job_id=revision.job_id,
        wave_id=wave,
        # Where the trainer keeps the state that it exported from, until it has committed a later step.
        checkpoint=None if wave is None else f"checkpoints/{policy_id}/{revision.step}-{wave}",
        aliases=tuple(aliases),
        created_at=revision.created_at,
    )
