"""vLLM's serving classes over one AsyncLLM, and which of their methods answers which operation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.loader.adapters.vllm.tokenizing import tokenizing_short_texts_at_once
from services.loader.core.parsing import Parsing


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOperation:
    """A route of vLLM's server: its request's type, and the serving object and method that answer it.

    ``generates``: it asks the engine for something; ``has_nulls``: its answers name fields without a value.
    """

    request: Any
    serving: Any
    method: str
    generates: bool = True
    has_nulls: bool = True

    @property
    def method_module(self) -> str:
        """Return where its errors are logged."""
        return type(self.serving).__module__


def build_operations(llm: Any, parsing: Parsing) -> tuple[Any, Mapping[str, ApiOperation]]:
    """Return vLLM's renderer, and the operations by name. Any: vllm has no types."""
    from pydantic import TypeAdapter, create_model
    from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
    from vllm.entrypoints.scale_out.render.serving import ServingRender
    from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest
    from vllm.entrypoints.serve.tokenize.serving import ServingTokenization
    from vllm.renderers.online_renderer import OnlineRenderer

    path = llm.model_config.model
    models = OpenAIServingModels(llm, [BaseModelPath(name=path, model_path=path)])
    template: dict[str, Any] = {
        "chat_template": parsing.chat_template,
        "chat_template_content_format": "auto",
        "request_logger": None,
    }
    parsers: dict[str, Any] = {
        "enable_auto_tools": parsing.tool_parser is not None,
        "tool_parser": parsing.tool_parser,
        "reasoning_parser": parsing.reasoning_parser or "",
    }
    renderer = OnlineRenderer(
        llm.model_config, tokenizing_short_texts_at_once(llm.renderer), **template, **parsers
    )
    both: dict[str, Any] = {"online_renderer": renderer}
    chat = OpenAIServingChat(llm, models, "assistant", **both, **template, **parsers)
    completion = OpenAIServingCompletion(llm, models, request_logger=None, **both)
    responses = OpenAIServingResponses(llm, models, **both, **template, **parsers)
    messages = AnthropicServingMessages(
        llm, models, "assistant", disabled_thinking_effort="none", **both, **template, **parsers
    )
    tokenization = ServingTokenization(models, renderer, **template)

    def asks(kind: Any, serving: Any, method: str, **options: bool) -> ApiOperation:
        return ApiOperation(request=TypeAdapter(kind), serving=serving, method=method, **options)

    return renderer, {
        "chat": asks(ChatCompletionRequest, chat, "create_chat_completion"),
        "chat_tokens": asks(
            create_model("ChatFromTokens", __base__=ChatCompletionRequest, tokens=(list[int], ...)),
            chat,
            "create_chat_completion",
        ),
        "completion": asks(CompletionRequest, completion, "create_completion"),
        "response": asks(ResponsesRequest, responses, "create_responses"),
        "message": asks(AnthropicMessagesRequest, messages, "create_messages", has_nulls=False),
        "count_tokens": asks(
            AnthropicCountTokensRequest, messages, "count_tokens", generates=False, has_nulls=False
        ),
        "tokenize": asks(TokenizeRequest, tokenization, "create_tokenize", generates=False),
        "detokenize": asks(DetokenizeRequest, tokenization, "create_detokenize", generates=False),
        "render_chat": asks(
            ChatCompletionRequest,
            ServingRender(models, renderer),
            "render_chat_request",
            generates=False,
        ),
    }
