"""vLLM's serving classes over one AsyncLLM, and which of their methods answers which operation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mint_common.inference.operations import ApiOperation
from services.loader.adapters.vllm.openai.replay import ServingReplay, replayed
from services.loader.adapters.vllm.openai.tools import Renderers
from services.loader.adapters.vllm.tokenizing import tokenizing_short_texts_at_once
from services.loader.core.parsing import AUTO, FORCED, Parsing


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingMethod:
    """The implementation of an operation: vLLM's request type, and the name of a serving object's method.

    ``has_nulls``: its answers name fields without a value.
    """

    request: Any
    serving: Any
    name: str
    has_nulls: bool = True

    @property
    def method_module(self) -> str:
        """Return where its errors are logged."""
        return type(self.serving).__module__


def build_operations(llm: Any, parsing: Parsing) -> tuple[Renderers, Mapping[ApiOperation, ServingMethod]]:
    """Return vLLM's renderers, and what answers each operation. Any: vllm has no types."""
    from pydantic import TypeAdapter, create_model
    from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.entrypoints.openai.chat_completion.batch_serving import OpenAIServingChatBatch
    from vllm.entrypoints.openai.chat_completion.protocol import (
        BatchChatCompletionRequest,
        ChatCompletionRequest,
    )
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
    from vllm.entrypoints.scale_out.derender.serving import ServingDerender
    from vllm.entrypoints.scale_out.render.serving import ServingRender
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import DerenderChatRequest
    from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest
    from vllm.entrypoints.serve.tokenize.serving import ServingTokenization
    from vllm.renderers.online_derenderer import OnlineDerenderer
    from vllm.renderers.online_renderer import OnlineRenderer

    path = llm.model_config.model
    models = OpenAIServingModels(llm, [BaseModelPath(name=path, model_path=path)])
    template: dict[str, Any] = {
        "chat_template": parsing.chat_template,
        "chat_template_content_format": "auto",
        "request_logger": None,
    }
    level = parsing.tool_strict_level
    parsers: dict[str, Any] = {
        "tool_strict_level": AUTO if level == FORCED else level,
        "enable_auto_tools": parsing.tool_parser is not None,
        "tool_parser": parsing.tool_parser,
        "reasoning_parser": parsing.reasoning_parser or "",
    }
    renderer = OnlineRenderer(
        llm.model_config, tokenizing_short_texts_at_once(llm.renderer), **template, **parsers
    )
    reader = OnlineDerenderer(llm.model_config, llm.renderer, **template, **parsers)
    both: dict[str, Any] = {"online_renderer": renderer, "enable_prompt_tokens_details": True}
    chat = OpenAIServingChat(llm, models, "assistant", **both, **template, **parsers)
    batch = OpenAIServingChatBatch(llm, models, "assistant", **both, **template, **parsers)
    completion = OpenAIServingCompletion(llm, models, request_logger=None, **both)
    responses = OpenAIServingResponses(llm, models, **both, **template, **parsers)
    messages = AnthropicServingMessages(
        llm, models, "assistant", disabled_thinking_effort="none", **both, **template, **parsers
    )
    tokenization = ServingTokenization(models, renderer, **template)

    class TokenizerInfo(ServingTokenization):  # type: ignore[misc]  # vllm has no types
        async def describe(self, _request: Any, _raw_request: None) -> Any:
            """Return vLLM's description without paths of this machine."""
            told = await self.get_tokenizer_info()
            public = {name: value for name, value in told.model_dump().items() if not _is_path(name)}
            return type(told)(**public)

    class ChatReader(ServingDerender):  # type: ignore[misc]  # vllm has no types
        async def read(self, request: Any, _raw_request: None) -> Any:
            """Return the message that sampled tokens are."""
            return await self.derender_chat_response(request)

    def asks(kind: Any, serving: Any, name: str, *, has_nulls: bool = True) -> ServingMethod:
        return ServingMethod(request=TypeAdapter(kind), serving=serving, name=name, has_nulls=has_nulls)

    from_tokens = create_model("ChatFromTokens", __base__=ChatCompletionRequest, tokens=(list[int], ...))
    return Renderers.around(renderer, tool_strict_level=level), {
        ApiOperation.CHAT: asks(ChatCompletionRequest, chat, "create_chat_completion"),
        ApiOperation.CHAT_TOKENS: asks(from_tokens, chat, "create_chat_completion"),
        ApiOperation.CHAT_BATCH: asks(BatchChatCompletionRequest, batch, "create_batch_chat_completion"),
        ApiOperation.RENDER_CHAT: asks(
            ChatCompletionRequest, ServingRender(models, renderer), "render_chat_request"
        ),
        ApiOperation.READ_CHAT: asks(DerenderChatRequest, ChatReader(models, reader), "read"),
        ApiOperation.PREPARE_RESPONSE: asks(ResponsesRequest, ServingReplay(responses), "prepare_response"),
        ApiOperation.REPLAY_RESPONSE: asks(
            replayed(ResponsesRequest), ServingReplay(responses), "replay_response"
        ),
        ApiOperation.PREPARE_MESSAGE: asks(
            AnthropicMessagesRequest, ServingReplay(messages), "prepare_message"
        ),
        ApiOperation.REPLAY_MESSAGE: asks(
            replayed(AnthropicMessagesRequest), ServingReplay(messages), "replay_message", has_nulls=False
        ),
        ApiOperation.COMPLETION: asks(CompletionRequest, completion, "create_completion"),
        ApiOperation.RESPONSE: asks(ResponsesRequest, responses, "create_responses"),
        ApiOperation.MESSAGE: asks(AnthropicMessagesRequest, messages, "create_messages", has_nulls=False),
        ApiOperation.COUNT_TOKENS: asks(
            AnthropicCountTokensRequest, messages, "count_tokens", has_nulls=False
        ),
        ApiOperation.TOKENIZE: asks(TokenizeRequest, tokenization, "create_tokenize"),
        ApiOperation.DETOKENIZE: asks(DetokenizeRequest, tokenization, "create_detokenize"),
        ApiOperation.TOKENIZER_INFO: asks(
            create_model("TokenizerOf", model=(str, ...)),
            TokenizerInfo(models, renderer, **template),
            "describe",
        ),
    }


def _is_path(name: str) -> bool:
    return name == "name_or_path" or name.endswith(("_file", "_dir"))
