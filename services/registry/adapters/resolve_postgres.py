"""Name -> revision in one statement, each step of which is a look-up by unique index.

It is asked once per user request that a gateway's memory does not answer, at any number of policies.
"""

from mint_common.ids import TenantId
from services.registry.core.names import DEFAULT_ALIAS, ModelName, is_policy_id

_RESOLVE = """
    SELECT policy.policy_id, policy.name, policy.base, revision.number, revision.digest, revision.state,
           revision.fault, revision.manifest_uri, revision.manifest_sha256, revision.manifest_size_bytes
    FROM policies policy
    LEFT JOIN revisions revision ON revision.policy_id = policy.policy_id AND revision.{selected}
    WHERE policy.tenant_id = $1 AND policy.{key} = $2
"""
_ALIAS = "number = (SELECT number FROM aliases WHERE policy_id = policy.policy_id AND alias = $3)"
_DEFAULT = """number = coalesce(
        (SELECT number FROM aliases WHERE policy_id = policy.policy_id AND alias = $3),
        (SELECT number FROM revisions newest WHERE newest.policy_id = policy.policy_id
             AND state = 'published' ORDER BY number DESC LIMIT 1),
        (SELECT number FROM revisions newest WHERE newest.policy_id = policy.policy_id
             AND state = 'quarantined' ORDER BY number DESC LIMIT 1))"""


def resolve_query(tenant_id: TenantId, name: ModelName) -> tuple[str, TenantId, str, str | int]:
    """Return the statement that finds a policy and the revision that a name selects, and its arguments.

    The revision's columns are null when the selector leads to nothing; no row means no policy.
    """
    selected: str
    argument: str | int
    if name.revision is not None:
        selected = "number = $3" if isinstance(name.revision, int) else "digest = $3"
        argument = name.revision
    elif name.alias is not None:
        selected, argument = _ALIAS, name.alias
    else:
        selected, argument = _DEFAULT, DEFAULT_ALIAS
    key = "policy_id" if is_policy_id(name.name) else "name"
    return _RESOLVE.format(selected=selected, key=key), tenant_id, name.name, argument
