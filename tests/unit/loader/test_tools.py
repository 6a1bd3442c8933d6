"""Which requests must keep to the schemas of their tools, and the bounds of what is compiled for that."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from mint_common.errors import InvalidField
from services.loader.adapters.vllm.openai.tools import Renderers, check_compiled_tools

HUGE = {"type": "object", "properties": {"text": {"type": "string", "maxLength": 524_288}}}
RENDERERS = Renderers(usual="usual", forced="forced")


def chat_tool(**function: Any) -> SimpleNamespace:
    return SimpleNamespace(function=SimpleNamespace(**{"strict": None, **function}))


@pytest.mark.parametrize(
    ("choice", "tools", "renderer"),
    [
        ("auto", [chat_tool()], "usual"),
        ("none", [chat_tool()], "usual"),
        (None, [chat_tool()], "usual"),
        ("required", None, "usual"),
        ("required", [chat_tool()], "forced"),
        ("required", [chat_tool(), chat_tool(strict=False)], "usual"),
        (SimpleNamespace(type="function"), [chat_tool()], "forced"),
        (SimpleNamespace(type="function"), [SimpleNamespace(strict=True)], "forced"),
        (SimpleNamespace(type="function"), [SimpleNamespace(strict=False)], "usual"),
        (SimpleNamespace(mode="auto"), [chat_tool()], "usual"),
        (SimpleNamespace(mode="required"), [chat_tool()], "forced"),
    ],
)
def test_a_tool_that_must_be_called_keeps_to_its_schema(choice: Any, tools: Any, renderer: str) -> None:
    assert RENDERERS.of(SimpleNamespace(tool_choice=choice, tools=tools)) == renderer


def test_a_request_without_tools_is_rendered_as_usual() -> None:
    assert RENDERERS.of(SimpleNamespace()) == "usual"
    check_compiled_tools(SimpleNamespace())


def request(**made: Any) -> SimpleNamespace:
    structure = SimpleNamespace(**{"structural_tag": None, "json": None} | made)
    return SimpleNamespace(tools=[chat_tool(parameters=HUGE)], structured_outputs=structure)


@pytest.mark.parametrize(
    "made", [{"structural_tag": json.dumps({"format": HUGE})}, {"json": HUGE}, {"json": json.dumps(HUGE)}]
)
def test_the_compiled_part_of_tools_is_bounded(made: Any) -> None:
    with pytest.raises(InvalidField, match="may count to 1000") as caught:
        check_compiled_tools(request(**made))
    assert caught.value.field == "tools"


def test_a_schema_that_is_not_compiled_may_say_anything() -> None:
    check_compiled_tools(request())
    check_compiled_tools(request(structural_tag=json.dumps({"format": {"json_schema": True}})))
    check_compiled_tools(SimpleNamespace(tools=[chat_tool(parameters=HUGE)], structured_outputs=None))


def test_a_structure_that_is_no_json_is_a_refusal_that_names_the_field() -> None:
    with pytest.raises(InvalidField, match="Field 'tools': is not JSON"):
        check_compiled_tools(request(json="foo"))
