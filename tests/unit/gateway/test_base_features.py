"""Features of a base are those common to all its engines."""

from dataclasses import replace

from services.gateway.core.mint.bases import BaseFeatures, features_of
from tests.testing.factories import ENGINE_INFO

ENGINE = replace(ENGINE_INFO, max_context=2048, max_completions=16, tool_parser="hermes")


def test_one_engine_s_features_are_the_base_s() -> None:
    assert features_of(ENGINE.base, [ENGINE]) == BaseFeatures(
        base=ENGINE.base,
        engines=1,
        max_context=2048,
        max_completions=16,
        max_top_logprobs=20,
        chat=True,
        tool_parser="hermes",
        reasoning_parser=None,
        dtypes=("float32",),
    )


def test_what_one_engine_does_not_take_is_not_promised() -> None:
    other = replace(
        ENGINE,
        max_context=512,
        max_completions=128,
        has_chat_template=False,
        tool_parser="",
        reasoning_parser="qwen3",
        dtype="bfloat16",
    )
    found = features_of(ENGINE.base, [ENGINE, other])
    assert (found.engines, found.max_context, found.max_completions, found.chat) == (2, 512, 16, False)
    assert (found.tool_parser, found.reasoning_parser) == (None, None)
    assert found.dtypes == ("bfloat16", "float32")
