"""A base's syntax of tool calls and reasoning: the parsers of vLLM that read it.

The family says what its models can write, the base's chat template whether they do: a reasoning parser
for a base that never closes a thought would hide its whole answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

AUTO, NONE = "auto", "none"

_GENERIC = "hermes"
"""JSON between tags: what models write that were taught no format of their own."""

Marks = Sequence[tuple[str, str]]
"""Texts to look for in a chat template, each with the parser that it calls for; the first match decides."""

_QWEN: Marks = (("<function=", "qwen3_coder"),)
_DEEPSEEK: Marks = (("```json", "deepseek_v3"), ("tool▁calls▁begin", "deepseek_v31"))
_GLM: Marks = (("<arg_key>", "glm47"),)
_TOOLS: Mapping[str, Marks] = {
    "LlamaForCausalLM": (("<|python_tag|>", "llama3_json"), ('"parameters":', "llama3_json")),
    "Qwen3ForCausalLM": _QWEN,
    "Qwen3MoeForCausalLM": _QWEN,
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "DeepseekV32ForCausalLM": (("DSML", "deepseek_v32"), *_DEEPSEEK),
    "Glm4MoeLiteForCausalLM": _GLM,
    "GlmMoeDsaForCausalLM": _GLM,
}
_REASONING: Mapping[str, str] = {
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3",
    "DeepseekV3ForCausalLM": "deepseek_r1",
    "DeepseekV32ForCausalLM": "deepseek_v3",
    "Glm4MoeLiteForCausalLM": "glm45",
    "GlmMoeDsaForCausalLM": "glm45",
}
_THOUGHT = "<think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsing:
    """Names of vLLM's parsers, None for none. ``chat_template`` None is the base's own."""

    tool_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None


def plan_parsing(
    architecture: str,
    *,
    base_template: str,
    tool_parser: str = AUTO,
    reasoning_parser: str = AUTO,
    chat_template: str | None = None,
) -> Parsing:
    """Return what reads a base's answers; `auto` is by its family and template."""
    template = chat_template or base_template
    if tool_parser == AUTO:
        marks = _TOOLS.get(architecture, ())
        tool_parser = next((parser for mark, parser in marks if mark in template), _GENERIC)
    if reasoning_parser == AUTO:
        reasoning_parser = _REASONING.get(architecture, NONE) if _THOUGHT in template else NONE
    return Parsing(
        tool_parser=_named(tool_parser),
        reasoning_parser=_named(reasoning_parser),
        chat_template=chat_template,
    )


def _named(parser: str) -> str | None:
    return None if parser == NONE else parser
