"""What a publication does to the keeping of bytes: its folder is no garbage, and it heals what was lost."""

from collections.abc import Sequence

from mint_common.errors import Unavailable
from mint_common.events import RevisionExported, RevisionHealed
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.adapters.rows import ref_of
from services.registry.core.custody import folder_of, healed

_TAKE = "DELETE FROM garbage WHERE prefix = ANY($1) RETURNING is_going"
_HEAL = """
    UPDATE revisions SET fault = NULL, changes = changes + 1, manifest_uri = given.uri,
        manifest_sha256 = given.sha256, manifest_size_bytes = given.size_bytes
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
        AS given (policy_id, digest, uri, sha256, size_bytes)
    WHERE revisions.policy_id = given.policy_id AND revisions.digest = given.digest AND fault IS NOT NULL
    RETURNING revisions.*
"""


async def vouch_for(
    connection: PostgresConnection, exports: Sequence[RevisionExported]
) -> list[RevisionHealed]:
    """Take the folders of checked exports into the catalog, in the caller's transaction, before their rows.

    Returns what tells of the revisions that they heal. Raises Unavailable for a folder that is being removed.
    """
    folders = [folder_of(export.manifest) for export in exports]
    if any(row["is_going"] for row in await connection.fetch(_TAKE, folders)):
        # Its bytes were there a moment ago: a repetition finds them gone, and says so.
        raise Unavailable(what="the export's folder", problem="it is being removed as garbage")
    rows = await connection.fetch(
        _HEAL,
        [export.policy_id for export in exports],
        [export.digest for export in exports],
        [export.manifest.uri for export in exports],
        [export.manifest.sha256 for export in exports],
        [export.manifest.size_bytes for export in exports],
    )
    by_key = {(export.policy_id, export.digest): export for export in exports}
    return [
        healed(by_key[row["policy_id"], row["digest"]], ref_of(row), sequence=row["changes"]) for row in rows
    ]
