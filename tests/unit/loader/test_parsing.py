"""Which parser reads a base's answers."""

import pytest

from services.loader.core.parsing import Parsing, plan_parsing


@pytest.mark.parametrize(
    ("architecture", "template", "tools", "reasoning"),
    [
        ("LlamaForCausalLM", "{{ messages }}", "hermes", None),
        ("LlamaForCausalLM", "<|python_tag|>", "llama3_json", None),
        ("Qwen3ForCausalLM", "<tool_call> <think>", "hermes", "qwen3"),
        ("Qwen3ForCausalLM", "{{ contents }}", "hermes", None),
        ("Qwen3MoeForCausalLM", "<tool_call><function=", "qwen3_coder", None),
        ("DeepseekV3ForCausalLM", "<tool▁calls▁begin> ```json <think>", "deepseek_v3", "deepseek_r1"),
        ("DeepseekV3ForCausalLM", "<tool▁calls▁begin> <think>", "deepseek_v31", "deepseek_r1"),
        ("GlmMoeDsaForCausalLM", "<arg_key> <think>", "glm47", "glm45"),
        ("StrangeForCausalLM", "<think>", "hermes", None),
    ],
)
def test_family_and_template_choose(architecture, template, tools, reasoning):
    assert plan_parsing(architecture, base_template=template) == Parsing(
        tool_parser=tools, reasoning_parser=reasoning
    )


def test_settings_choose_otherwise():
    chosen = plan_parsing(
        "Qwen3ForCausalLM",
        base_template="<think>",
        tool_parser="none",
        reasoning_parser="deepseek_r1",
        chat_template="mine",
    )
    assert chosen == Parsing(tool_parser=None, reasoning_parser="deepseek_r1", chat_template="mine")
