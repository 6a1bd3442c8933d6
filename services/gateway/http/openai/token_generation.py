"""``POST /inference/v1/generate``, in vLLM's form for RL trainers: see `core.openai.token_generation`."""

from fastapi import APIRouter, Request, Response

from mint_common.answer_ids import answer_id
from mint_common.errors import InvalidField
from mint_common.examples import json_body
from mint_common.generation import ENGINE_HEADER, REVISION_HEADER
from mint_common.inference.operations import ApiOperation
from mint_common.inference.sizes import check_answer_bytes, check_context, entries_of, json_bytes
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.gateway.core.openai.token_generation import (
    generate_answer,
    in_clients_words,
    plan_generate,
    read_generate,
)
from services.gateway.http.edge.bodies import answered
from services.gateway.http.edge.context import InferCaller
from services.gateway.http.mint.context import CATALOG
from services.gateway.http.openai.admission import AdmittedRoute
from services.gateway.http.openai.context import INFERENCE
from services.gateway.http.openai.relay import check_answers

router = APIRouter(tags=["openai"], route_class=AdmittedRoute)


@router.post(
    ApiOperation.GENERATE.path,
    openapi_extra=json_body(
        {
            "model": "counter@prod",
            "token_ids": [53, 35, 55],
            "sampling_params": {"max_tokens": 8, "temperature": 0.7, "logprobs": 1},
        }
    ),
)
async def generate(request: Request, caller: InferCaller) -> Response:
    """Continue a prompt of token ids; the answer is token ids, each with its log-probability.

    Nothing is tokenized. `sampling_params` has two fields of MinT's own beside vLLM's: `logprobs_mode`
    (`raw`, or `processed` for those at the temperature) and `return_routed_experts`.
    """
    catalog, limits = CATALOG.of(request), INFERENCE.of(request)
    body = read_generate(await request.body())
    target = await catalog.resolver.resolve(caller.tenant_id, body.model)
    engine = await catalog.engines.describe(target.base)
    check_context("token_ids", body.token_ids, engine.max_context)
    plan = plan_generate(
        body,
        request_id=answer_id(target.revision),
        tenant_id=caller.tenant_id,
        revision=target.revision,
        max_context=engine.max_context,
    )
    sampling = plan.sampling
    size_bytes = json_bytes(
        tokens=sampling.n * sampling.max_new_tokens, entries=entries_of(sampling.logprobs)
    )
    lower = ("sampling_params.max_tokens", "sampling_params.n", "sampling_params.logprobs")
    check_answer_bytes(size_bytes, limits.max_answer_bytes, lower=lower)
    answered(request).enter_context(limits.open_prompts.counted(caller.tenant_id, sampling.n))
    answered(request).enter_context(limits.open_answers.counted(caller.tenant_id, size_bytes))
    try:
        async with cancelled_on_disconnect(request):
            sampled = await catalog.engines.sample(target.base, plan)
    except InvalidField as error:
        raise in_clients_words(error) from error
    named = sampled.revision or f"base:{target.base}"
    check_answers(named, target)
    answer = generate_answer(
        body, sampled, request_id=plan.request_id, routed_layers=engine.routed_layers, named=named
    )
    headers = {REVISION_HEADER: named, ENGINE_HEADER: sampled.engine_id}
    return Response(answer, media_type="application/json", headers=headers)
