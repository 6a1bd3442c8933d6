"""Answers of the model door, as OpenAI's API and vLLM's token server give them."""

from collections.abc import Iterator

import msgspec

from services.rollout.core.door.requests import ChatRequest, Json, TokensRequest
from services.rollout.core.trajectories import ModelCall


def text_tokens(call: ModelCall) -> tuple[int, ...]:
    """Return the sampled tokens that have a text: all but the stop token."""
    return call.completion[:-1] if call.reason == "stop" else call.completion


def reading_request(call: ModelCall, request: ChatRequest) -> Json:
    """Return what has the loader read sampled tokens as a chat message, with its tool calls and texts.

    It reads a token even of an answer that has none but its stop token, whose message is not used then.
    """
    content = [
        {"token_id": token, "logprob": logprob}
        for token, logprob in zip(call.completion, call.logprobs, strict=True)
    ]
    choice: Json = {
        "index": 0,
        "token_ids": text_tokens(call) or call.completion,
        "finish_reason": call.reason,
        "logprobs": {"content": content} if request.logprobs else None,
    }
    return {
        "model": request.model,
        "generate_response": {"request_id": "", "prompt_token_ids": call.prompt, "choices": [choice]},
        "chat_request": {
            "model": request.model,
            "messages": [{"role": "user", "content": ""}],
            **request.template,
        },
    }


def message_of(call: ModelCall, read: Json) -> Json:
    """Return the assistant's message: as read where it has tool calls or reasoning, else the plain text."""
    found = read["message"]
    calls, reasoning = found.get("tool_calls") or [], found.get("reasoning")
    if not text_tokens(call) or not (calls or reasoning):
        return {"role": "assistant", "content": call.text}
    message: Json = {"role": "assistant", "content": found.get("content")}
    if reasoning:
        message["reasoning"] = message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message


def chat_answer(
    request: ChatRequest, call: ModelCall, message: Json, logprobs: object, *, name: str, created: int
) -> Json:
    """Return a chat completion; ``logprobs`` are those of the tokens with their texts, or None."""
    choice: Json = {
        "index": 0,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": "tool_calls" if message.get("tool_calls") else call.reason,
        "stop_reason": None,
    }
    answer: Json = {
        "id": name,
        "object": "chat.completion",
        "created": created,
        "model": request.model,
        "choices": [choice],
        "usage": usage_of(call),
    }
    if request.return_token_ids:
        choice["token_ids"] = list(call.completion)
        answer["prompt_token_ids"] = list(call.prompt)
    return answer


def usage_of(call: ModelCall) -> Json:
    """Return how many tokens a call has."""
    return {
        "prompt_tokens": len(call.prompt),
        "completion_tokens": len(call.completion),
        "total_tokens": len(call.tokens),
    }


def chat_events(answer: Json, *, with_usage: bool) -> Iterator[bytes]:
    """Yield a whole answer as the events of a stream: the message, its end, and its usage if requested."""
    (choice,) = answer["choices"]
    head = {
        **{name: answer[name] for name in ("id", "created", "model")},
        "object": "chat.completion.chunk",
    }
    delta = dict(choice["message"])
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": index, **each} for index, each in enumerate(calls)]
    said: Json = {"index": 0, "delta": delta, "logprobs": choice["logprobs"], "finish_reason": None}
    first: Json = {**head, "choices": [said]}
    if "token_ids" in choice:
        said["token_ids"] = choice["token_ids"]
        first["prompt_token_ids"] = answer["prompt_token_ids"]
    ended: Json = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    events: list[Json] = [first, {**head, "choices": [ended]}]
    if with_usage:
        events.append({**head, "choices": [], "usage": answer["usage"]})
    yield from (b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)
    yield b"data: [DONE]\n\n"


def tokens_answer(request: TokensRequest, call: ModelCall, *, name: str) -> Json:
    """Return the answer of vLLM's token server: each token has one log-probability, named by its id."""
    content = [
        {"token": f"token_id:{token}", "token_id": token, "logprob": logprob, "top_logprobs": []}
        for token, logprob in zip(call.completion, call.logprobs, strict=True)
    ]
    choice: Json = {
        "index": 0,
        "token_ids": list(call.completion),
        "finish_reason": call.reason,
        "logprobs": None if request.sampling_params.logprobs is None else {"content": content},
    }
    answer: Json = {
        "request_id": name,
        "model": request.model,
        "choices": [choice],
        "usage": usage_of(call),
    }
    if request.return_token_ids:
        answer["prompt_token_ids"] = list(call.prompt)
    return answer


def models_answer(name: str, *, max_context: int) -> Json:
    """Return the list of models: the episode's alone."""
    model = {"id": name, "object": "model", "created": 0, "owned_by": "mint", "root": name}
    return {"object": "list", "data": [{**model, "max_model_len": max_context}]}
