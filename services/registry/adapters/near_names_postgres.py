"""Names near to a model's name that resolves to nothing, for its refusal."""

import asyncpg

from mint_common.errors import NotFound
from mint_common.ids import TenantId
from mint_common.names import is_policy_id
from mint_common.near import near_names
from services.registry.adapters.rows import NEWEST
from services.registry.core.names import ModelName

NEIGHBOURS = 50
"""Names before and after the wrong one that are compared: a refusal costs the same in any catalog."""

_NAMES = """
    (SELECT name FROM policies WHERE tenant_id = $1 AND removed_at IS NULL AND name >= $2
        ORDER BY name LIMIT $3)
    UNION ALL (SELECT name FROM policies WHERE tenant_id = $1 AND removed_at IS NULL AND name < $2
        ORDER BY name DESC LIMIT $3)
    UNION ALL (SELECT name FROM bases WHERE $4 ORDER BY name LIMIT $3)
"""
_SELECTORS = f"""
    SELECT number, array(SELECT alias FROM live_aliases alias WHERE alias.policy_id = policy.policy_id
        ORDER BY alias LIMIT $3) AS aliases
    FROM policies policy {NEWEST} WHERE tenant_id = $1 AND policy.{{key}} = $2
"""  # noqa: S608  # a constant


async def with_near_names(
    pool: asyncpg.Pool, tenant_id: TenantId, asked: ModelName, error: NotFound
) -> NotFound:
    """Return a refusal of `PostgresCatalog.resolve` with the names that its user may have meant."""
    if type(error) is not NotFound:
        return error
    if error.kind in {"model", "policy"}:
        rows = await pool.fetch(_NAMES, tenant_id, asked.name, NEIGHBOURS, error.kind == "model")
        near = near_names(asked.name, [row["name"] for row in rows])
    else:
        key = "policy_id" if is_policy_id(asked.name) else "name"
        row = await pool.fetchrow(_SELECTORS.format(key=key), tenant_id, asked.name, NEIGHBOURS)
        aliases, latest = (row["aliases"], row["number"]) if row else ((), None)
        selectors = near_names(asked.alias or "", aliases)
        near = [f"{asked.name}@{selector}" for selector in selectors]
        near += [f"{asked.name}@{latest} (the latest)"] if latest else []
    return NotFound(**{**error.fields, "near": ", ".join(near)}) if near else error
