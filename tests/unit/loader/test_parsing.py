"""Which parser reads a base's answers."""

import pytest

from services.loader.core.parsing import Parsing, plan_parsing

PARSERS = ("deepseek_r1", "deepseek_v3", "gemma4", "glm45", "olmo3", "openai_gptoss", "qwen3")


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
        ("DeepseekV2ForCausalLM", "<think>", "hermes", None),
        ("DeepseekV32ForCausalLM", "DSML <think>", "deepseek_v32", "deepseek_v3"),
        ("GptOssForCausalLM", "<|channel|>", "openai", "openai_gptoss"),
        ("GptOssForCausalLM", "{{ messages }}", None, None),
        ("Qwen3_5ForConditionalGeneration", "<function= <think>", "qwen3_coder", "qwen3"),
        ("Gemma4ForCausalLM", "<|tool_call> <|channel>", "gemma4", "gemma4"),
        ("Olmo3ForCausalLM", "<function_calls> <think>", "olmo3", "olmo3"),
        ("Olmo3ForCausalLM", "<function_calls>", "olmo3", None),
        ("MistralForCausalLM", "[TOOL_CALLS]", "mistral", None),
    ],
)
def test_family_and_template_choose(architecture, template, tools, reasoning):
    assert plan_parsing(architecture, base_template=template, reasoning_parsers=PARSERS) == Parsing(
        tool_parser=tools, reasoning_parser=reasoning
    )


def test_settings_choose_otherwise():
    chosen = plan_parsing(
        "Qwen3ForCausalLM",
        base_template="<think>",
        reasoning_parsers=PARSERS,
        tool_parser="none",
        reasoning_parser="deepseek_r1",
        chat_template="mine",
    )
    assert chosen == Parsing(tool_parser=None, reasoning_parser="deepseek_r1", chat_template="mine")
