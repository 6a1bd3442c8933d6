"""``/v1/models``: every valid name for ``model``."""

import asyncio

from fastapi import APIRouter

from mint_common.json_types import JsonObject
from services.gateway.core.openai.listing import list_models, model_entry
from services.gateway.http.edge.context import ReadCaller
from services.gateway.http.edge.routes import OpenAIRoute
from services.gateway.http.mint.context import CatalogDep

router = APIRouter(prefix="/v1/models", tags=["openai"], route_class=OpenAIRoute)

MAX_ENTRIES = 1000
MAX_POLICIES = 100


@router.get("")
async def list_all(caller: ReadCaller, catalog: CatalogDep) -> JsonObject:
    """List bases, policies, aliases, and the revisions that a policy or an alias stands for.

    Other revisions are served by number too. A policy without a revision is not listed: it cannot answer yet.
    Neither is a base that is only trained, nor a policy over it.
    At most 100 policies and 1,000 entries are listed. `max_model_len` is the context that prompt and answer
    share.
    """
    bases, names = await asyncio.gather(
        catalog.registry.list_bases(), catalog.registry.list_names(caller.tenant_id, limit=MAX_POLICIES)
    )
    served = {base.name for base in bases if not base.trained_only}
    listed = list_models(
        served,
        [policy for policy in names if policy.base in served],
        contexts=catalog.engines.contexts(),
        limit=MAX_ENTRIES,
    )
    return {"object": "list", "data": listed}


@router.get("/{model:path}")
async def get_one(model: str, caller: ReadCaller, catalog: CatalogDep) -> JsonObject:
    """Return one model by any valid name; ``root`` is the model that the name resolves to."""
    found = await catalog.resolver.resolve(caller.tenant_id, model)
    root = found.revision.digest if found.revision else found.base
    return model_entry(
        model,
        created=0,
        root=root,
        parent=found.base if found.revision else None,
        max_context=catalog.engines.contexts().get(found.base),
    )
