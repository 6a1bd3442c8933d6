"""Other APIs than chat over tokens that were sampled before: their requests as chat, their answers of tokens.

Both conversions are vLLM's: a request goes through its serving class, whose engine brings the given tokens.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

_STEPS = 64
"""Tokens of a stream that are converted before other requests have the event loop."""
_TEMPLATE = ("tools", "tool_choice", "chat_template_kwargs", "reasoning_effort")
"""Fields of a chat request that its template reads, beside the messages."""


def replayed(kind: Any) -> Any:
    """Return the request type that carries a request of another, and its answer's tokens. Any: of vllm."""
    from pydantic import create_model

    return create_model(
        f"Replayed{kind.__name__}",
        model=(str, ...),
        request=(kind, ...),
        prompt_token_ids=(list[int], ...),
        token_ids=(list[int], ...),
        logprobs=(list[float], ...),
        finish_reason=(str, ...),
    )


class ServingReplay:
    """A serving object of vLLM's around given tokens. Any, here and below: vllm has no types."""

    def __init__(self, serving: Any) -> None:
        self._serving = serving
        self.models = serving.models
        self.engine_client: Any = None

    async def prepare_response(self, request: Any, _raw_request: None) -> Any:
        """Return a request of OpenAI's Responses as one of chat."""
        from vllm.entrypoints.openai.responses.utils import construct_input_messages, construct_tool_dicts

        refusal = self._serving._validate_create_responses_input(request)  # noqa: SLF001  # vLLM's own check
        if refusal is not None:
            return refusal
        renderer = self._serving.online_renderer
        messages = construct_input_messages(
            request_instructions=request.instructions, request_input=request.input
        )
        tools = construct_tool_dicts(
            request.tools,
            request.tool_choice,
            exclude_tools_when_tool_choice_none=renderer.exclude_tools_when_tool_choice_none,
        )
        template = {
            "tools": tools,
            "tool_choice": request.tool_choice if tools else None,
            "chat_template_kwargs": renderer.effective_chat_template_kwargs(request),
        }
        return _chat_of(messages, template, request.max_output_tokens)

    async def prepare_message(self, request: Any, _raw_request: None) -> Any:
        """Return a request of Anthropic's Messages as one of chat."""
        chat = self._serving.to_chat_completion_request(
            request,
            merge_inline_system=self._serving._merge_inline_system,  # noqa: SLF001  # as its own calls
        )
        template = {name: getattr(chat, name) for name in _TEMPLATE}
        return _chat_of(chat.messages, template, chat.max_completion_tokens or chat.max_tokens)

    async def replay_response(self, request: Any, _raw_request: None) -> Any:
        """Return the response that the tokens are."""
        return await self._answered("create_responses", request)

    async def replay_message(self, request: Any, _raw_request: None) -> Any:
        """Return the message that the tokens are."""
        return await self._answered("create_messages", request)

    async def _answered(self, method: str, replayed: Any) -> Any:
        from pydantic import create_model
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        serving = copy(self._serving)
        serving.models = self.models
        serving.engine_client = _SampledBefore(self.engine_client, replayed)
        serving.online_renderer = _RenderedBefore(serving.online_renderer, replayed.prompt_token_ids)
        replayed.request.model = replayed.model
        result = await getattr(serving, method)(replayed.request, None)
        if isinstance(result, ErrorResponse):
            return result
        answered = create_model("Answered", answer=(Any, None), events=(str, ""))
        if hasattr(result, "__aiter__"):
            return answered(events="".join([_event(each) async for each in result]))
        return answered(answer=result)


@dataclass(frozen=True, slots=True)
class _RenderedBefore:
    """A renderer whose prompts are given."""

    renderer: Any
    prompt: Sequence[int]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.renderer, name)

    async def render_chat(self, request: Any, **options: Any) -> Any:
        """Render a conversation."""
        rendered = await self.renderer.render_chat(request, **options)
        if isinstance(rendered, tuple):
            self._replace(*rendered[1])
        return rendered

    async def render_responses(self, request: Any, **options: Any) -> Any:
        """Render the input of a response."""
        rendered = await self.renderer.render_responses(request, **options)
        if hasattr(rendered, "engine_input"):
            self._replace(rendered.engine_input)
        return rendered

    def _replace(self, prompt: Any) -> None:
        prompt["prompt_token_ids"] = list(self.prompt)
        prompt.pop("prompt", None)


@dataclass(frozen=True, slots=True)
class _SampledBefore:
    """An engine that brings tokens which are given, as vLLM's does those that it samples."""

    engine: Any
    sampled: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **_set_by_vllm: Any
    ) -> AsyncGenerator[Any, None]:
        """Yield the outputs of a request."""
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
        from vllm.v1.engine.output_processor import OutputProcessor

        sampled = self.sampled
        processor = OutputProcessor(self.engine.renderer.tokenizer, log_stats=False)
        request = EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=prompt["prompt_token_ids"],
            mm_features=None,
            sampling_params=sampling_params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
            external_req_id=request_id,
        )
        processor.add_request(request, None)
        count = len(sampled.token_ids)
        step = count if sampling_params.output_kind == RequestOutputKind.FINAL_ONLY else 1
        for at in range(0, count, step):
            end = at + step
            output = EngineCoreOutput(
                request_id=request_id,
                new_token_ids=sampled.token_ids[at:end],
                new_logprobs=None if sampling_params.logprobs is None else _logprobs(sampled, at, end),
                finish_reason=FinishReason[sampled.finish_reason.upper()] if end >= count else None,
            )
            for each in processor.process_outputs([output]).request_outputs:
                yield each
            if not end % _STEPS:
                await asyncio.sleep(0)


def _logprobs(sampled: Any, begin: int, end: int) -> Any:
    """Return the log-probabilities of tokens; their ranks are not known."""
    import numpy as np
    from vllm.v1.outputs import LogprobsLists

    return LogprobsLists(
        np.array(sampled.token_ids[begin:end])[:, None],
        np.array(sampled.logprobs[begin:end], dtype=np.float32)[:, None],
        np.zeros(len(sampled.token_ids[begin:end]), dtype=np.int64),
    )


def _chat_of(messages: Sequence[Any], template: dict[str, Any], max_tokens: int | None) -> Any:
    from pydantic import create_model

    chat = create_model(
        "Chat", messages=(list[Any], ...), template=(dict[str, Any], ...), max_tokens=(int | None, None)
    )
    said = {name: value for name, value in template.items() if value is not None}
    return chat(messages=[_plain(each) for each in messages], template=said, max_tokens=max_tokens)


def _plain(message: Any) -> dict[str, Any]:
    """Return a message as one of chat: Responses have names of their own for parts that are texts."""
    content = message.get("content")
    if not isinstance(content, str) and content is not None:
        parts = [dict(part) for part in content]
        content = [{"type": "text", "text": part["text"]} if "text" in part else part for part in parts]
    calls = message.get("tool_calls")
    return {
        **message,
        **({} if content is None else {"content": content}),
        **({} if calls is None else {"tool_calls": list(calls)}),
    }


def _event(event: Any) -> str:
    if isinstance(event, str):
        return event
    return f"event: {event.type}\ndata: {event.model_dump_json(by_alias=True)}\n\n"
