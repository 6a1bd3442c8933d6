"""The routes of vLLM's own server that describe it: health, version, load, tokenizer.

Invariant: a caller learns of its own tenant's load only.
"""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response

from mint_common.generation import CallFacts
from mint_common.ids import new_id
from mint_common.inference.operations import ApiOperation
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.gateway.http.edge.context import InferCaller, ReadCaller
from services.gateway.http.edge.reference import VERSION
from services.gateway.http.edge.routes import OpenAIRoute
from services.gateway.http.mint.context import CatalogDep
from services.gateway.http.openai.admission import MAX_MODEL_CHARACTERS
from services.gateway.http.openai.context import INFERENCE

router = APIRouter(tags=["openai"], route_class=OpenAIRoute)
open_router = APIRouter(tags=["openai"])

_UNWELL: dict[int | str, dict[str, object]] = {
    503: {"description": "No engine answers, or this gateway stops"}
}


@open_router.post("/ping", response_class=Response, responses=_UNWELL)
@open_router.get("/ping", response_class=Response, responses=_UNWELL)
@open_router.get("/health", response_class=Response, responses=_UNWELL)
async def health(request: Request, catalog: CatalogDep) -> Response:
    """Answer 200 while an engine answers, without a body. Needs no key; asks no other service."""
    is_well = catalog.engines.contexts() and not request.app.state.in_hand.is_draining
    return Response(status_code=200 if is_well else 503)


@router.get("/version")
async def show_version(_caller: ReadCaller) -> dict[str, str]:
    """Return MinT's version."""
    return {"version": VERSION}


@router.get("/load")
async def show_load(caller: ReadCaller, request: Request) -> dict[str, int]:
    """Return how many prompts of your tenant this gateway has at engines; those of others do not count."""
    return {"server_load": INFERENCE.of(request).open_prompts.of(caller.tenant_id)}


@router.get(ApiOperation.TOKENIZER_INFO.path)
async def describe_tokenizer(
    caller: InferCaller,
    request: Request,
    catalog: CatalogDep,
    model: Annotated[str | None, Query(max_length=MAX_MODEL_CHARACTERS)] = None,
) -> Response:
    """Return the configuration of a model's tokenizer; `model` may be omitted while one base is served."""
    model = model or await catalog.only_base()
    target = await catalog.resolver.resolve(caller.tenant_id, model)
    facts = CallFacts(model=model, request_id=new_id("call"), tenant_id=caller.tenant_id, revision=None)
    body = msgspec.json.encode({"model": model})
    async with cancelled_on_disconnect(request):
        answer = await catalog.engines.serve(target.base, ApiOperation.TOKENIZER_INFO, body, facts)
        try:
            return Response(await answer.whole(), media_type="application/json")
        finally:
            answer.close()
