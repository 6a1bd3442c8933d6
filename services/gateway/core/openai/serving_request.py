"""The fields of an inference request that the gateway reads; the loader and vLLM check all others."""

from dataclasses import dataclass
from typing import Any

import msgspec

from mint_common.errors import InvalidField
from mint_common.inference.body import read_body
from mint_common.inference.fields import (
    MAX_CHOICES,
    Alternatives,
    Choices,
    StopTokens,
    TokenCount,
)
from mint_common.inference.operations import ApiOperation
from mint_common.json_reading import convert_json

DEFAULT_COMPLETION_TOKENS = 16
"""The OpenAI API's own default of ``max_tokens`` for completions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRequest:
    """The fields of a body that the gateway reads.

    ``model`` is empty where the only base is to answer; ``choices`` counts the answers to all prompts;
    ``max_tokens`` is None where only the context limits an answer; ``likeliest`` is the number of
    log-probabilities per token, None for none.
    """

    operation: ApiOperation
    model: str
    stream: bool
    choices: int
    max_tokens: int | None
    likeliest: int | None


class _Fields(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    n: Choices | None = None
    prompt: Any = None  # the loader checks both
    messages: Any = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    max_output_tokens: TokenCount | None = None
    logprobs: bool | Alternatives | None = None
    top_logprobs: Alternatives | None = None
    prompt_logprobs: Alternatives | None = None
    logprob_token_ids: StopTokens | None = None


def read_request(operation: ApiOperation, body: bytes) -> ServingRequest:
    """Return the fields of a body. Raises InvalidField."""
    fields: _Fields = convert_json(read_body(body), _Fields)
    if operation.is_anthropic and not fields.model:
        raise InvalidField(field="model", problem="is required")
    choices = (fields.n or 1) * _count_all_prompts(operation, fields)
    if choices > MAX_CHOICES:
        raise InvalidField(field="n", problem=f"must be at most {MAX_CHOICES} over all prompts")
    return ServingRequest(
        operation=operation,
        model=fields.model or "",
        stream=bool(fields.stream),
        choices=choices,
        max_tokens=_max_tokens(operation, fields),
        likeliest=_likeliest(operation, fields),
    )


def _count_all_prompts(operation: ApiOperation, fields: _Fields) -> int:
    if operation is ApiOperation.COMPLETION:
        return _count_prompts(fields.prompt)
    if operation is ApiOperation.CHAT_BATCH and isinstance(fields.messages, list):
        if len(fields.messages) > MAX_CHOICES:
            problem = f"must be at most {MAX_CHOICES} conversations, got {len(fields.messages)}"
            raise InvalidField(field="messages", problem=problem)
        return max(1, len(fields.messages))
    return 1


def _count_prompts(prompt: object) -> int:
    """Return how many prompts there are: texts, lists of tokens, or one of either."""
    if not isinstance(prompt, list):
        return 1
    if not prompt:
        raise InvalidField(field="prompt", problem="must not be empty")
    if isinstance(prompt[0], int):
        return 1
    if len(prompt) > MAX_CHOICES:
        problem = f"must be at most {MAX_CHOICES} prompts, got {len(prompt)}"
        raise InvalidField(field="prompt", problem=problem)
    return len(prompt)


def _max_tokens(operation: ApiOperation, fields: _Fields) -> int | None:
    given = (fields.max_completion_tokens, fields.max_output_tokens, fields.max_tokens)
    default = DEFAULT_COMPLETION_TOKENS if operation is ApiOperation.COMPLETION else None
    return next((limit for limit in given if limit is not None), default)


def _likeliest(operation: ApiOperation, fields: _Fields) -> int | None:
    """Return the maximum log-probabilities per token of the prompt or the answer."""
    chosen = len(fields.logprob_token_ids or ()) or None
    if operation.is_chat:
        own = (fields.top_logprobs or 0) if fields.logprobs else None
    else:
        own = fields.top_logprobs if operation is ApiOperation.RESPONSE else fields.logprobs
    return max((each for each in (fields.prompt_logprobs, chosen, own) if each is not None), default=None)
