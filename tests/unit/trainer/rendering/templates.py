"""Small tokenizers with the chat templates of large models, and examples as a reader sees them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mint_common.datasets import Method, RenderedExample, Rendering, RenderRequest, RowLine
from services.trainer.adapters.rendering.transformers_template import TransformersTemplate
from services.trainer.core.rendering.rows import render_rows

FOLDER = Path(__file__).parents[3] / "golden/templates"
CHATML = ("<|im_start|>", "<|im_end|>", ("<think>", "</think>", "<tool_call>", "</tool_call>"))
LLAMA = (
    "<|begin_of_text|>",
    "<|eot_id|>",
    ("<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>", "<|eom_id|>"),
)
SPECIAL = {"qwen": CHATML, "smol": CHATML, "llam": LLAMA}


def tokenizer_of(template: str, *, special: Any = CHATML, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, with two merges: of two line ends, and of ``he``."""
    bos, eos, others = special
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: place for place, letter in enumerate([*letters, "ĊĊ", "he"])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[("Ċ", "Ċ"), ("h", "e")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([bos, eos, *others])
    if adds_bos:
        single = f"{bos} $A"
        made.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[(bos, made.token_to_id(bos))]
        )
    found = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token=eos, pad_token=eos)
    found.chat_template = template
    return found


def named(
    name: str, *, adds_bos: bool = False, now: Callable[[], float] = time.monotonic
) -> TransformersTemplate:
    """Return the template of a file."""
    text = (FOLDER / f"{name}.jinja").read_text()
    return TransformersTemplate(tokenizer_of(text, special=SPECIAL[name[:4]], adds_bos=adds_bos), now=now)


def written(template: str, **options: Any) -> TransformersTemplate:
    """Return a template given as text."""
    return TransformersTemplate(tokenizer_of(template, **options))


def rendered(
    template: TransformersTemplate, row: object, method: Method = "sft", **options: Any
) -> Rendering:
    """Render one row."""
    rows = (RowLine(line=1, data=msgspec.json.encode(row)),)
    return render_rows(template, RenderRequest(rows=rows, method=method, **options), max_context=4096)


def examples(template: TransformersTemplate, row: object, method: Method = "sft") -> list[RenderedExample]:
    """Return the examples of a row that nothing is wrong with."""
    found = rendered(template, row, method)
    assert found.problems == ()
    return list(found.rows[0].examples)


def shown(template: TransformersTemplate, example: RenderedExample) -> str:
    """Return an example's text with what is trained between « and »."""
    parts, place = [], 0
    for start, end in example.trained:
        parts += [
            template.decode(example.tokens[place:start]),
            "«",
            template.decode(example.tokens[start:end]),
            "»",
        ]
        place = end
    return "".join([*parts, template.decode(example.tokens[place:])])
