"""Features of a base: the limits and capabilities common to all its engines."""

from collections.abc import Collection
from dataclasses import dataclass

from mint_common.generation import EngineInfo
from mint_common.ids import BaseName
from mint_common.inference.fields import MAX_ALTERNATIVES


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFeatures:
    """Limits and capabilities common to all engines of a base at the moment.

    ``max_context`` counts the tokens of a prompt and its answer, ``max_completions`` the answers of a request
    (``n``), ``max_top_logprobs`` the alternatives of a token. Without ``chat`` the base has no chat template:
    it continues prompts. ``tool_parser`` and ``reasoning_parser`` are vLLM's names, null where calls of tools
    and thoughts are not taken out of the text. ``dtypes`` are those that the engines compute in.
    """

    base: BaseName
    engines: int
    max_context: int
    max_completions: int
    max_top_logprobs: int
    chat: bool
    tool_parser: str | None
    reasoning_parser: str | None
    dtypes: tuple[str, ...]


def features_of(base: BaseName, engines: Collection[EngineInfo]) -> BaseFeatures:
    """Return the features of a base from the descriptions of its engines, at least one."""
    return BaseFeatures(
        base=base,
        engines=len(engines),
        max_context=min(engine.max_context for engine in engines),
        max_completions=min(engine.max_completions for engine in engines),
        max_top_logprobs=MAX_ALTERNATIVES,
        chat=all(engine.has_chat_template for engine in engines),
        tool_parser=_shared({engine.tool_parser for engine in engines}),
        reasoning_parser=_shared({engine.reasoning_parser for engine in engines}),
        dtypes=tuple(sorted({engine.dtype for engine in engines})),
    )


def _shared(parsers: Collection[str]) -> str | None:
    return next(iter(parsers)) or None if len(parsers) == 1 else None
