"""``POST /v1/completions`` and ``POST /v1/chat/completions``."""

from dataclasses import replace

from fastapi import APIRouter, Request, Response

from services.gateway.core.openai.dialects import ChatDialect, CompletionDialect
from services.gateway.core.openai.requests import ChatBody, CompletionBody
from services.gateway.core.openai.sampling import (
    PromptInput,
    chat_input,
    chat_limit,
    chat_logprobs_wanted,
    check_supported,
    completion_inputs,
    completion_limit,
    completion_logprobs_wanted,
    plan_sampling,
    room_for,
)
from services.gateway.http.edge.context import Gateway, GatewayDep, HeldDep, InferCaller
from services.gateway.http.openai.admission import AdmittedRoute
from services.gateway.http.openai.answering import CompletionCall, answer

router = APIRouter(prefix="/v1", tags=["openai"], route_class=AdmittedRoute)


@router.post("/completions")
async def complete(
    body: CompletionBody, request: Request, caller: InferCaller, gateway: GatewayDep, held: HeldDep
) -> Response:
    """Complete one or more prompts."""
    check_supported(body)
    inputs = completion_inputs(body)
    wanted = completion_logprobs_wanted(body)
    limit = completion_limit(body)
    call = CompletionCall(
        body=body,
        tenant_id=caller.tenant_id,
        sampling=plan_sampling(body, max_new_tokens=limit, logprobs=wanted, prompts=len(inputs)),
        target=await gateway.resolver.resolve(caller.tenant_id, body.model),
        inputs=inputs,
        dialect=CompletionDialect(logprobs=wanted),
        lower=("max_tokens", "n") if wanted is None else ("logprobs", "max_tokens", "n"),
    )
    return await answer(call, request=request, gateway=gateway, held=held)


@router.post("/chat/completions")
async def chat(
    body: ChatBody, request: Request, caller: InferCaller, gateway: GatewayDep, held: HeldDep
) -> Response:
    """Answer a conversation through the base's chat template."""
    check_supported(body)
    conversation = chat_input(body)
    wanted = chat_logprobs_wanted(body)
    limit = chat_limit(body)
    call = CompletionCall(
        body=body,
        tenant_id=caller.tenant_id,
        sampling=plan_sampling(body, max_new_tokens=limit or 1, logprobs=wanted, prompts=1),
        target=await gateway.resolver.resolve(caller.tenant_id, body.model),
        inputs=(conversation,),
        dialect=ChatDialect(logprobs=wanted),
        lower=("max_tokens", "n") if wanted is None else ("top_logprobs", "max_tokens", "n"),
    )
    if limit is None:
        call = await _fill_context(call, conversation, gateway)
    return await answer(call, request=request, gateway=gateway, held=held)


async def _fill_context(call: CompletionCall, conversation: PromptInput, gateway: Gateway) -> CompletionCall:
    """Let the answer take all of the context that the conversation leaves."""
    base = call.target.base
    engine = await gateway.engines.find(base)
    tokens = await engine.tokenize(messages=conversation.messages, tenant_id=call.tenant_id)
    room = room_for(len(tokens), max_context=(await gateway.engines.describe(base)).max_context)
    return replace(
        call,
        inputs=(PromptInput(tokens=tokens),),
        sampling=replace(call.sampling, max_new_tokens=room),
    )
