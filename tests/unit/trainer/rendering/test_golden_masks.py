"""What is trained, as a reader sees it. `MINT_GOLDEN=write` rewrites the golden files."""

from pathlib import Path

import pytest
from goldens import check_golden
from unit.trainer.rendering.templates import examples, named, shown

GOLDEN = Path(__file__).parents[3] / "golden/masks"
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}},
}


def says(role: str, content: str, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


CONVERSATIONS = {
    "one-turn": {"messages": [says("user", "2+2?"), says("assistant", "4")]},
    "two-turns": {
        "messages": [
            says("developer", "Be brief."),
            says("user", "2+2?"),
            says("assistant", "4"),
            says("user", "3+3?"),
            says("assistant", "6"),
        ]
    },
    "weights": {
        "messages": [
            says("user", "2+2?"),
            says("assistant", "5", weight=0),
            says("user", "Sure?"),
            says("assistant", "No: 4", weight=1),
            says("user", "Thanks"),
            says("assistant", "Bye", weight=0),
        ]
    },
    "thoughts": {
        "messages": [
            says("user", "2+2?"),
            says("assistant", "<think>\neasy\n</think>\n\n4"),
            says("user", "3+3?"),
            says("assistant", "<think>\nalso\n</think>\n\n6"),
        ]
    },
    "tools": {
        "messages": [
            says("user", "2+2?"),
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            says("tool", "4", tool_call_id="c1"),
            says("assistant", "It is 4."),
        ],
        "tools": [TOOL],
    },
}
CASES = [
    (template, conversation)
    for template in ("smollm2", "qwen3", "llama3_1", "qwen2_5")
    for conversation in CONVERSATIONS
    if (template, conversation) != ("smollm2", "tools")  # its template leaves calls out
]


@pytest.mark.parametrize(("name", "conversation"), CASES)
def test_what_is_trained_is_as_reviewed(name: str, conversation: str) -> None:
    template = named(name)
    found = examples(template, CONVERSATIONS[conversation])
    text = "\n=====\n".join(shown(template, example) for example in found) + "\n"
    check_golden(GOLDEN / f"{name}-{conversation}.txt", text)
