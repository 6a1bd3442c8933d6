"""The routes that vLLM answers."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from mint_common.authority import Caller
from mint_common.examples import json_body
from mint_common.inference.operations import ApiOperation
from mint_common.json_types import JsonObject
from services.gateway.http.edge.context import InferCaller
from services.gateway.http.openai.admission import AdmittedRoute, AnthropicRoute
from services.gateway.http.openai.relay import relay

Handler = Callable[[Request, Caller], Awaitable[Response]]
router = APIRouter(tags=["openai"], route_class=AdmittedRoute)
anthropic_router = APIRouter(tags=["anthropic"], route_class=AnthropicRoute)

_USER: JsonObject = {"role": "user", "content": "2 4 6 8"}


def _route(operation: ApiOperation, example: JsonObject) -> Callable[[Handler], Handler]:
    """Return the decorator that makes an endpoint the route of an operation."""
    routes = anthropic_router if operation.is_anthropic else router
    return routes.post(operation.path, openapi_extra=json_body(example))


@_route(
    ApiOperation.COMPLETION, {"model": "counter@prod", "prompt": "2 4 6 8", "max_tokens": 8, "temperature": 0}
)
async def complete(request: Request, caller: InferCaller) -> Response:
    """Complete one or more prompts."""
    return await relay(request, caller)


@_route(ApiOperation.CHAT, {"model": "counter@2", "messages": [_USER], "max_tokens": 8})
async def chat(request: Request, caller: InferCaller) -> Response:
    """Answer a conversation through the base's chat template."""
    return await relay(request, caller)


@_route(
    ApiOperation.CHAT_TOKENS,
    {"model": "counter@2", "messages": [_USER], "tokens": [53, 35, 55], "max_tokens": 8},
)
async def chat_from_tokens(request: Request, caller: InferCaller) -> Response:
    """Answer a conversation whose prompt is `tokens`, so that sampled text is not tokenized again.

    The messages only provide the tools and their calls.
    """
    return await relay(request, caller)


@_route(
    ApiOperation.CHAT_BATCH,
    {"model": "counter@2", "messages": [[_USER], [{"role": "user", "content": "a b"}]], "max_tokens": 8},
)
async def chat_in_batch(request: Request, caller: InferCaller) -> Response:
    """Answer several conversations, as vLLM does: choice n answers conversation n."""
    return await relay(request, caller)


@_route(ApiOperation.RESPONSE, {"model": "counter@2", "input": "2 4 6 8", "max_output_tokens": 8})
async def respond(request: Request, caller: InferCaller) -> Response:
    """Answer an input, as OpenAI's Responses do; nothing is stored."""
    return await relay(request, caller)


@_route(ApiOperation.RENDER_CHAT, {"model": "tiny", "messages": [_USER]})
async def render_chat(request: Request, caller: InferCaller) -> Response:
    """Return the tokens and the sampling parameters of a chat request, without sampling."""
    return await relay(request, caller)


@_route(ApiOperation.TOKENIZE, {"model": "tiny", "prompt": "2 4 6 8"})
async def tokenize(request: Request, caller: InferCaller) -> Response:
    """Return the token ids of a prompt, or of a conversation under the base's chat template."""
    return await relay(request, caller)


@_route(ApiOperation.DETOKENIZE, {"model": "tiny", "tokens": [58, 40]})
async def detokenize(request: Request, caller: InferCaller) -> Response:
    """Return the text of token ids."""
    return await relay(request, caller)


@_route(ApiOperation.MESSAGE, {"model": "counter@2", "messages": [_USER], "max_tokens": 8})
async def send_message(request: Request, caller: InferCaller) -> Response:
    """Answer a conversation, as Anthropic's Messages do."""
    return await relay(request, caller)


@_route(ApiOperation.COUNT_TOKENS, {"model": "tiny", "messages": [_USER]})
async def count_tokens(request: Request, caller: InferCaller) -> Response:
    """Return how many tokens a conversation has."""
    return await relay(request, caller)
