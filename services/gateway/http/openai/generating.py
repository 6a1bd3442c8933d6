"""The routes that vLLM answers."""

from fastapi import APIRouter, Request, Response

from mint_common.json_types import JsonObject
from services.gateway.core.examples import json_body
from services.gateway.core.openai.field_table import Endpoint
from services.gateway.http.edge.context import InferCaller
from services.gateway.http.openai.admission import AdmittedRoute, AnthropicRoute
from services.gateway.http.openai.relay import relay

router = APIRouter(tags=["openai"], route_class=AdmittedRoute)
anthropic_router = APIRouter(prefix="/v1/messages", tags=["anthropic"], route_class=AnthropicRoute)

_USER: JsonObject = {"role": "user", "content": "2 4 6 8"}


@router.post(
    "/v1/completions",
    openapi_extra=json_body(
        {"model": "counter@prod", "prompt": "2 4 6 8", "max_tokens": 8, "temperature": 0}
    ),
)
async def complete(request: Request, caller: InferCaller) -> Response:
    """Complete one or more prompts."""
    return await relay(Endpoint.COMPLETION, request, caller)


@router.post(
    "/v1/chat/completions",
    openapi_extra=json_body({"model": "counter@2", "messages": [_USER], "max_tokens": 8}),
)
async def chat(request: Request, caller: InferCaller) -> Response:
    """Answer a conversation through the base's chat template."""
    return await relay(Endpoint.CHAT, request, caller)


@router.post(
    "/v1/chat/completions/tokens",
    openapi_extra=json_body(
        {"model": "counter@2", "messages": [_USER], "tokens": [53, 35, 55], "max_tokens": 8}
    ),
)
async def chat_from_tokens(request: Request, caller: InferCaller) -> Response:
    """Answer a conversation whose prompt is `tokens`: nothing that was sampled is tokenized again.

    The messages tell the tools and their calls, and are not the prompt.
    """
    return await relay(Endpoint.CHAT_TOKENS, request, caller)


@router.post(
    "/v1/responses",
    openapi_extra=json_body({"model": "counter@2", "input": "2 4 6 8", "max_output_tokens": 8}),
)
async def respond(request: Request, caller: InferCaller) -> Response:
    """Answer an input, as OpenAI's Responses do; nothing is stored."""
    return await relay(Endpoint.RESPONSE, request, caller)


@router.post("/v1/chat/completions/render", openapi_extra=json_body({"model": "tiny", "messages": [_USER]}))
async def render_chat(request: Request, caller: InferCaller) -> Response:
    """Return the tokens and the sampling that a chat request comes to, and ask no engine for an answer."""
    return await relay(Endpoint.CHAT, request, caller, operation="render_chat", generates=False)


@router.post("/tokenize", openapi_extra=json_body({"model": "tiny", "prompt": "2 4 6 8"}))
async def tokenize(request: Request, caller: InferCaller) -> Response:
    """Return the token ids of a prompt, or of a conversation under the base's chat template."""
    return await relay(Endpoint.TOKENIZE, request, caller, generates=False)


@router.post("/detokenize", openapi_extra=json_body({"model": "tiny", "tokens": [58, 40]}))
async def detokenize(request: Request, caller: InferCaller) -> Response:
    """Return the text of token ids."""
    return await relay(Endpoint.DETOKENIZE, request, caller, generates=False)


@anthropic_router.post(
    "", openapi_extra=json_body({"model": "counter@2", "messages": [_USER], "max_tokens": 8})
)
async def send_message(request: Request, caller: InferCaller) -> Response:
    """Answer a conversation, as Anthropic's Messages do."""
    return await relay(Endpoint.MESSAGE, request, caller)


@anthropic_router.post("/count_tokens", openapi_extra=json_body({"model": "tiny", "messages": [_USER]}))
async def count_tokens(request: Request, caller: InferCaller) -> Response:
    """Return how many tokens a conversation has."""
    return await relay(Endpoint.COUNT_TOKENS, request, caller, generates=False)
