"""Rows through SmolLM2's own tokenizer, which its package holds: ids as they were reviewed."""

import msgspec
import pytest
from transformers import AutoTokenizer

from mint_common.datasets import RenderRequest, RowLine
from services.standalone.adapters.base_import import _smollm2_file
from services.trainer.adapters.rendering.transformers_template import TransformersTemplate
from services.trainer.core.rendering.rows import render_rows

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def template() -> TransformersTemplate:
    file = _smollm2_file()
    return TransformersTemplate(AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name))


def test_two_turns_are_one_row_with_the_stop_tokens_trained(template) -> None:
    """Token 2 is <|im_end|>: the eos, and the pad too; 198 is a line end."""
    chat = [("user", "2+2?"), ("assistant", "4"), ("user", "Sure?"), ("assistant", "Yes, 4.")]
    row = {"messages": [{"role": role, "content": content} for role, content in chat]}
    request = RenderRequest(rows=(RowLine(line=1, data=msgspec.json.encode(row)),), method="sft")
    (example,) = render_rows(template, request, max_context=8192).rows[0].examples
    whole = template._tokenizer.apply_chat_template(row["messages"], return_dict=False)
    assert (*example.tokens, 198) == tuple(whole)
    trained = [example.tokens[start:end] for start, end in example.trained]
    assert [template.decode(tokens) for tokens in trained] == ["4<|im_end|>", "Yes, 4.<|im_end|>"]
    assert [list(tokens) for tokens in trained] == [[36, 2], [10539, 28, 216, 36, 30, 2]]
    assert template._tokenizer.pad_token_id == template.eos_id == 2
