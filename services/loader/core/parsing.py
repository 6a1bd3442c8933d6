"""A base's syntax of tool calls and reasoning: the parsers of vLLM that read it.

The base's chat template says what its models write: tool calls between marks that a parser looks for, and
whether they think at all. A reasoning parser for a base that never closes a thought would hide its whole
answer. Which parser reads a family's thoughts is in its name, which vLLM's parsers share.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

AUTO, NONE = "auto", "none"

FORCED = "forced"
"""The level of strictness at which the arguments of a tool that must be called follow their schema."""

HARMONY = "GptOssForCausalLM"
"""Architecture whose answers vLLM reads by harmony's parsers or by none."""

_GENERIC = "hermes"
"""JSON between tags: what models write that were taught no format of their own."""

TOOLS: Sequence[tuple[tuple[str, ...], str]] = (
    (("DSML",), "deepseek_v32"),
    (("tool▁calls▁begin", "```json"), "deepseek_v3"),
    (("tool▁calls▁begin",), "deepseek_v31"),
    (("<arg_key>",), "glm47"),
    (("<seed:tool_call>",), "seed_oss"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<|START_ACTION|>",), "cohere_command3"),
    (("<|tool_call_start|>",), "lfm2"),
    (("<|tool_call>",), "gemma4"),
    (("<start_function_call>",), "functiongemma"),
    (("<function_calls>",), "olmo3"),
    (("<function=",), "qwen3_coder"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|channel|>",), "openai"),
    (("<|python_start|>",), "llama4_pythonic"),
    (("<|python_tag|>",), "llama3_json"),
    (('{"name": function name, "parameters":',), "llama3_json"),
)
"""Texts of a chat template, all of one entry's, and their parser; the first entry that fits decides."""
OTHER_NAMES: Mapping[str, str] = {
    "DeepseekV3ForCausalLM": "deepseek_r1",
    "Glm4MoeForCausalLM": "glm45",
    "Glm4MoeLiteForCausalLM": "glm45",
    "GlmMoeDsaForCausalLM": "glm45",
    HARMONY: "openai_gptoss",
}
"""Reasoning parsers of architectures that vLLM does not name them after."""
_THOUGHTS = ("<think>", "[THINK]", "<seed:think>", "<|channel|>", "<|channel>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsing:
    """Names of vLLM's parsers, None for none. ``chat_template`` None is the base's own.

    ``tool_strict_level`` is `FORCED` or one of vLLM's: which tools' arguments follow their schemas.
    """

    tool_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None
    tool_strict_level: str = FORCED


def plan_parsing(
    architecture: str,
    *,
    base_template: str,
    reasoning_parsers: Collection[str],
    tool_parser: str = AUTO,
    reasoning_parser: str = AUTO,
    chat_template: str | None = None,
    tool_strict_level: str = FORCED,
) -> Parsing:
    """Return what reads a base's answers; `auto` is by its template and, among vLLM's parsers, its name."""
    template = chat_template or base_template
    if tool_parser == AUTO:
        found = (parser for marks, parser in TOOLS if all(mark in template for mark in marks))
        tool_parser = next(found, NONE if architecture == HARMONY else _GENERIC)
    if reasoning_parser == AUTO:
        thinks = any(mark in template for mark in _THOUGHTS)
        reasoning_parser = _named_after(architecture, reasoning_parsers) if thinks else NONE
    return Parsing(
        tool_parser=_named(tool_parser),
        reasoning_parser=_named(reasoning_parser),
        chat_template=chat_template,
        tool_strict_level=tool_strict_level,
    )


def _named_after(architecture: str, parsers: Collection[str]) -> str:
    if architecture in OTHER_NAMES:
        return OTHER_NAMES[architecture]
    plain = architecture.lower().replace("_", "")
    fitting = [parser for parser in parsers if plain.startswith(parser.replace("_", ""))]
    return max(fitting, key=len, default=NONE)


def _named(parser: str) -> str | None:
    return None if parser == NONE else parser
