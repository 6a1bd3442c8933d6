"""OpenAI requests as generation requests: what to generate from, and how to sample."""

from collections.abc import Mapping
from dataclasses import dataclass

from mint_common.errors import InvalidField
from mint_common.generation import ChatMessage, Sampling
from services.gateway.core.bounds import check_between, check_positive
from services.gateway.core.openai.field_shapes import MAX_ALTERNATIVES, MAX_CHOICES, MAX_STOPS
from services.gateway.core.openai.fields import DEFAULT_COMPLETION_TOKENS, ContextExceeded
from services.gateway.core.openai.requests import ChatBody, ChatTurn, CompletionBody, SamplingFields

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "store": (None, False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInput:
    """What to generate from: exactly one of the three is given."""

    text: str | None = None
    tokens: tuple[int, ...] | None = None
    messages: tuple[ChatMessage, ...] | None = None


def check_supported(body: SamplingFields) -> None:
    """Refuse a field that cannot take effect, unless its value asks for nothing."""
    for name, neutral in _NEUTRAL.items():
        value = getattr(body, name, None)
        if value not in neutral:
            raise InvalidField(field=name, problem=f"is not supported here, got {value!r}: leave it out")


def completion_inputs(body: CompletionBody) -> tuple[PromptInput, ...]:
    """Return the prompts of a completion request, in order."""
    prompt = body.prompt
    if isinstance(prompt, str):
        inputs = [PromptInput(text=prompt)]
    elif prompt and isinstance(prompt[0], int):
        inputs = [PromptInput(tokens=prompt)]
    else:
        check_choices(len(prompt))
        inputs = [PromptInput(text=p) if isinstance(p, str) else PromptInput(tokens=p) for p in prompt]  # type: ignore[arg-type]  # pydantic has checked every item
    if not inputs or not all(item.text or item.tokens for item in inputs):
        raise InvalidField(field="prompt", problem="must not be empty")
    if any(min(item.tokens) < 0 for item in inputs if item.tokens):
        raise InvalidField(field="prompt", problem="a token id must not be negative")
    return tuple(inputs)


def check_choices(prompts: int) -> None:
    """Refuse more prompts than one request may have. Raises InvalidField."""
    if prompts > MAX_CHOICES:
        raise InvalidField(field="prompt", problem=f"must be at most {MAX_CHOICES} prompts, got {prompts}")


def chat_input(body: ChatBody) -> PromptInput:
    """Return the conversation of a chat request; text parts are joined."""
    if not body.messages:
        raise InvalidField(field="messages", problem="must not be empty")
    return PromptInput(messages=tuple(_message(turn) for turn in body.messages))


def completion_limit(body: CompletionBody) -> int:
    """Return how many tokens a completion may have."""
    return (
        DEFAULT_COMPLETION_TOKENS
        if body.max_tokens is None
        else _checked_limit("max_tokens", body.max_tokens)
    )


def chat_limit(body: ChatBody) -> int | None:
    """Return how many tokens a chat answer may have; None is as many as the context has room for."""
    if body.max_completion_tokens is not None:
        return _checked_limit("max_completion_tokens", body.max_completion_tokens)
    return None if body.max_tokens is None else _checked_limit("max_tokens", body.max_tokens)


def room_for(prompt_tokens: int, *, max_context: int) -> int:
    """Return how many tokens fit behind a prompt. Raises ContextExceeded when none does."""
    if prompt_tokens >= max_context:
        raise ContextExceeded(found=prompt_tokens, max_context=max_context)
    return max_context - prompt_tokens


def completion_logprobs_wanted(body: CompletionBody) -> int | None:
    """Return the number of alternatives beside each token, or None for no log-probabilities."""
    if body.logprobs is not None:
        check_between("logprobs", body.logprobs, 0, MAX_ALTERNATIVES)
    return body.logprobs


def chat_logprobs_wanted(body: ChatBody) -> int | None:
    """Return the number of alternatives beside each token, or None for no log-probabilities."""
    top = body.top_logprobs or 0
    check_between("top_logprobs", top, 0, MAX_ALTERNATIVES)
    if not body.logprobs:
        if top:
            raise InvalidField(field="top_logprobs", problem="needs 'logprobs': true")
        return None
    return top


def plan_sampling(
    body: SamplingFields, *, max_new_tokens: int, logprobs: int | None, prompts: int
) -> Sampling:
    """Return how to sample each prompt. Raises InvalidField naming the first field that is out of bounds."""
    n = 1 if body.n is None else body.n
    temperature = 1.0 if body.temperature is None else body.temperature
    top_p = 1.0 if body.top_p is None else body.top_p
    check_between("n", n, 1, MAX_CHOICES)
    check_between("n", n * prompts, 1, MAX_CHOICES)
    check_between("temperature", temperature, 0, 2)
    check_positive("top_p", top_p, 1)
    check_between("top_k", body.top_k or 0, -1, 2**31 - 1)
    if body.seed is not None:
        check_between("seed", body.seed, 0, 2**63 - 1)
    if body.stream_options is not None and not body.stream:
        raise InvalidField(field="stream_options", problem="needs 'stream': true")
    return Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=max(body.top_k or 0, 0),
        seed=body.seed,
        n=n,
        stop=_stops(body.stop),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        whole=not body.stream,
    )


def _stops(stop: str | tuple[str, ...] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else stop or ()
    if len(stops) > MAX_STOPS or not all(stops):
        raise InvalidField(field="stop", problem=f"must be at most {MAX_STOPS} strings, none of them empty")
    return stops


def _checked_limit(field: str, value: int) -> int:
    if value < 1:
        raise InvalidField(field=field, problem=f"must be at least 1, got {value}")
    return value


def _message(turn: ChatTurn) -> ChatMessage:
    text = turn.content if isinstance(turn.content, str) else "".join(part.text for part in turn.content)
    # "developer" is the OpenAI API's newer word for the system's turn; chat templates know only the older.
    return ChatMessage(role="system" if turn.role == "developer" else turn.role, content=text)
