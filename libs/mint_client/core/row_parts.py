"""A row as parts to show: who says what, and whether it is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from mint_client.core.row_columns import Row
from mint_common.datasets import Format

MAX_SHOWN = 600
"""Characters of a part that are shown."""
Trained = Literal["", "wanted", "unwanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPart:
    """A part of a row; ``trained`` is "" for context."""

    name: str
    text: str
    trained: Trained = ""


def parts_of(row: Row, kind: Format) -> list[RowPart]:
    """Return the parts of a checked row, in the order of its text."""
    tools = row["input"].get("tools") if kind is Format.PAIRS else row.get("tools")
    return [*([RowPart(name="tools", text=_shown(tools))] if tools else []), *_spoken(row, kind)]


def _spoken(row: Row, kind: Format) -> list[RowPart]:
    match kind:
        case Format.TEXT:
            found = [RowPart(name="text", text=_shown(row["text"]), trained="wanted")]
        case Format.CHAT:
            found = [_said(message, _trained_in_chat(message)) for message in row["messages"]]
        case Format.REWARD:
            others = {name: value for name, value in row.items() if name not in {"messages", "tools"}}
            item = [RowPart(name=f"item.{name}", text=_shown(value)) for name, value in others.items()]
            found = [*_context(row["messages"]), *item]
        case Format.PAIRS:
            pair = _pair(row["preferred_output"], row["non_preferred_output"])
            found = [*_context(row["input"]["messages"]), *pair]
        case Format.PREFERENCE:
            found = [*_context(row["prompt"]), *_pair(row["chosen"], row["rejected"])]
        case Format.KTO:
            label: Trained = "wanted" if row["label"] else "unwanted"
            found = [*_context(row["prompt"]), *_answer(label, row["completion"], label)]
        case Format.COMPLETION:
            found = [*_context(row["prompt"]), *_answer("completion", row["completion"], "wanted")]
    return found


def _trained_in_chat(message: Row) -> Trained:
    return "wanted" if message["role"] == "assistant" and message.get("weight") != 0 else ""


def _context(prompt: Any) -> list[RowPart]:  # JSON
    if isinstance(prompt, str):
        return [RowPart(name="prompt", text=_shown(prompt))]
    return [_said(message, "") for message in prompt]


def _pair(chosen: Any, rejected: Any) -> list[RowPart]:  # JSON
    return [*_answer("chosen", chosen, "wanted"), *_answer("rejected", rejected, "unwanted")]


def _answer(name: str, answer: Any, trained: Trained) -> list[RowPart]:  # JSON
    if isinstance(answer, str):
        return [RowPart(name=name, text=_shown(answer), trained=trained)]
    parts: Sequence[Row] = answer
    return [
        _said(message, trained, name) if message["role"] == "assistant" else _said(message, "")
        for message in parts
    ]


def _said(message: Row, trained: Trained, name: str = "") -> RowPart:
    thoughts = message.get("reasoning_content") or message.get("thinking")
    content = message.get("content")
    texts = [content] if isinstance(content, str) else [part["text"] for part in content or ()]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    told = [f"{call['name']}({_shown(call['arguments'])})" for call in calls]
    lines = [f"({thoughts})" if thoughts else "", *texts, *told]
    return RowPart(name=name or message["role"], text=_shown("\n".join(filter(None, lines))), trained=trained)


def _shown(value: Any) -> str:  # JSON
    """Return a value as a text to print: cut, and without control characters, which terminals would obey."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    kept = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text[:MAX_SHOWN])
    more = len(text) - MAX_SHOWN
    return f"{kept}... ({more:,} more characters)" if more > 0 else kept
