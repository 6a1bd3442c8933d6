"""The trained tokens are those that an engine would sample, in the context in which it would."""

from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from unit.trainer.rendering.templates import LLAMA, examples, named, rendered, shown, tokenizer_of, written

from mint_common.datasets import Rendering, RenderRequest, RowLine
from services.standalone.adapters.bases import tiny_folder
from services.trainer.adapters.rendering.rendering import BaseRendering
from services.trainer.adapters.rendering.transformers_template import TransformersTemplate, open_template
from services.trainer.core.rendering.rows import render_rows
from services.trainer.core.rendering.turns import MAX_TURNS
from services.trainer.http.rendering import add_routes

TEXT = st.text(st.sampled_from("he \n4<|ä"), max_size=8)
ASKED = {"role": "user", "content": "2+2?"}
ANSWERED = {"role": "assistant", "content": "4"}
CHAT = {
    "messages": [ASKED, ANSWERED, {"role": "user", "content": "3+3?"}, {"role": "assistant", "content": "6"}]
}
TEMPLATES = {name: named(name) for name in ("smollm2", "qwen3", "qwen2_5", "llama3", "llama3_1")}
STRIPPING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@st.composite
def chats(draw: Any) -> dict[str, Any]:
    """Return a chat row of several turns, some of weight 0."""
    messages = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": draw(TEXT)})
        weight = draw(st.sampled_from([None, 0, 1]))
        messages.append(
            {"role": "assistant", "content": draw(TEXT), **({} if weight is None else {"weight": weight})}
        )
    messages[-1].pop("weight", None)
    return {"messages": messages}


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=40, deadline=None)
@given(row=chats())
def test_each_trained_turn_follows_what_an_engine_is_given_and_ends_with_the_stop_token(name, row) -> None:
    template = TEMPLATES[name]
    found = [
        (example.tokens, start, end) for example in examples(template, row) for start, end in example.trained
    ]
    plain = [{"role": each["role"], "content": each["content"]} for each in row["messages"]]
    trained = [
        place
        for place, each in enumerate(row["messages"])
        if each["role"] == "assistant" and each.get("weight") != 0
    ]
    assert len(found) == len(trained)
    for place, (tokens, start, end) in zip(trained, found, strict=True):
        asked = template._tokenizer.apply_chat_template(
            plain[:place], add_generation_prompt=True, return_dict=False
        )
        assert list(tokens[:start]) == asked
        assert tokens[end - 1] == template.eos_id
        assert template.eos_id not in tokens[start : end - 1]
        assert plain[place]["content"].strip() in template.decode(tokens[start:end])


@pytest.mark.parametrize(("name", "edge"), [("llama3", ""), ("qwen2_5", "\n")])
@settings(max_examples=40, deadline=None)
@given(row=chats())
def test_the_mask_is_that_of_transformers_with_a_tagged_template(name, edge, row) -> None:
    """TRL's training templates are the originals with tags; Qwen's also tag the line end at either side."""
    # An answer that begins with a line end is encoded apart from its prompt, which they do not do.
    assume(not any(each["content"].startswith("\n") for each in row["messages"]))
    template, tagged = TEMPLATES[name], named(f"{name}_training")
    plain = [{"role": each["role"], "content": each["content"]} for each in row["messages"]]
    told = tagged._tokenizer.apply_chat_template(plain, return_dict=True, return_assistant_tokens_mask=True)
    (example,) = examples(template, {"messages": plain})
    assert list(example.tokens) == told["input_ids"][: len(example.tokens)]
    mine = {place for start, end in example.trained for place in range(start, end)}
    theirs = {place for place, is_trained in enumerate(told["assistant_masks"]) if is_trained}
    assert mine <= theirs
    at_edges = {place for start, end in example.trained for place in (start - 1, end)}
    assert theirs - mine <= at_edges
    assert {template.decode([told["input_ids"][place]]) for place in theirs - mine} <= {edge}


def test_the_mask_of_a_thinking_template_is_transformers_too() -> None:
    row = {"messages": [ASKED, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"}]}
    tagged = named("qwen3_training")
    told = tagged._tokenizer.apply_chat_template(
        row["messages"], return_dict=True, return_assistant_tokens_mask=True
    )
    (example,) = examples(TEMPLATES["qwen3"], row)
    ((start, end),) = example.trained
    assert list(example.tokens) == told["input_ids"][:-1]  # the line end behind the stop token
    assert told["assistant_masks"] == [0] * start + [1] * (end - start) + [1]


def test_turns_that_later_ones_render_otherwise_are_rows_of_their_own() -> None:
    template = written(STRIPPING)
    row = {"messages": [ASKED, {"role": "assistant", "content": "<think>hm</think>4"}, *CHAT["messages"][2:]]}
    begin = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    following = "4<|im_end|>\n<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n«6<|im_end|>»"
    assert [shown(template, each) for each in examples(template, row)] == [
        f"{begin}«<think>hm</think>4<|im_end|>»",
        f"{begin}{following}",
    ]
    (merged,) = examples(template, CHAT)
    assert len(merged.trained) == 2


def test_no_token_lies_across_the_border_of_prompt_and_answer() -> None:
    template = TEMPLATES["qwen2_5"]
    (example,) = examples(template, {"messages": [ASKED, {"role": "assistant", "content": "\nhe"}]})
    ((start, _),) = example.trained
    pieces = [template.decode([token]) for token in example.tokens[start - 1 : start + 3]]
    assert pieces == ["\n", "\n", "he", "<|im_end|>"]


def test_texts_begin_and_end_once() -> None:
    """The tokenizer puts a BOS before every text, the template writes one itself, and pad is eos."""
    template = named("llama3", adds_bos=True)
    assert template._tokenizer.pad_token_id == template.eos_id
    rows = {
        "«4<|eot_id|>»": {"messages": [ASKED, ANSWERED]},
        "2+2=«4<|eot_id|>»": {"prompt": "2+2=", "completion": "4"},
        "«a<|eot_id|>»": {"text": "a"},
        "«b<|eot_id|>»": {"text": "b<|eot_id|>"},
    }
    for ending, row in rows.items():
        (example,) = examples(template, row)
        assert shown(template, example).endswith(ending)
        assert shown(template, example).startswith("<|begin_of_text|>")
        assert list(example.tokens).count(template.bos_id) == 1
        assert example.tokens[-2:].count(template.eos_id) == 1


@pytest.mark.parametrize(
    "text", ["A<|im_end|>B is here", "A<|im_end|>\n", "<|im_end|> ", "A<|im_end|>B<|im_end|>"]
)
@pytest.mark.parametrize("name", ["smollm2", "qwen3"])
def test_a_plain_text_is_trained_whole_though_a_stop_token_is_in_it(name, text) -> None:
    template = TEMPLATES[name]
    ending = text if text.endswith("<|im_end|>") else f"{text}<|im_end|>"
    for row, prompt in (({"text": text}, ""), ({"prompt": "2+2=", "completion": text}, "2+2=")):
        (example,) = examples(template, row)
        assert shown(template, example) == f"{prompt}«{ending}»"


@pytest.mark.parametrize("content", ["A<|im_end|>B is here", "A<|im_end|>B<|im_end|>", "A"])
def test_a_turn_is_trained_whole_though_its_template_has_no_end(content) -> None:
    template = written("{% for m in messages %}{{ m.content }}{% endfor %}")
    ending = content if content.endswith("<|im_end|>") else f"{content}<|im_end|>"
    for behind in ("", " \n"):
        (example,) = examples(
            template, {"messages": [ASKED, {"role": "assistant", "content": content + behind}]}
        )
        expected = ending if content.endswith("<|im_end|>") else f"{content}{behind}<|im_end|>"
        assert shown(template, example) == f"2+2?«{expected}»"


def test_a_row_that_begins_with_a_trained_answer_is_refused_where_a_template_needs_a_message() -> None:
    row = {"messages": [ANSWERED, ASKED, ANSWERED]}
    (problem,) = rendered(TEMPLATES["smollm2"], row).problems
    assert problem.code == "template_refused"
    row["messages"][0] = {**ANSWERED, "weight": 0}
    assert len(examples(TEMPLATES["smollm2"], row)) == 1


def test_a_template_without_an_end_gets_one() -> None:
    template = open_template(tiny_folder())
    found = examples(
        template, {"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]}
    )
    assert [example.tokens[-1] for example in found] == [template.eos_id]
    plain = examples(template, {"prompt": "a b", "completion": "c"})
    assert plain[0].tokens[-1] == template.eos_id


def test_pairs_and_labels_keep_their_sides() -> None:
    template = TEMPLATES["smollm2"]
    other = {"role": "assistant", "content": "5"}
    for row in (
        {"input": {"messages": [ASKED]}, "preferred_output": [ANSWERED], "non_preferred_output": [other]},
        {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [other]},
        {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
    ):
        found = examples(template, row, "dpo")
        ends = [(each.side, shown(template, each).partition("«")[2]) for each in found]
        assert ends == [("chosen", "4<|im_end|>»"), ("rejected", "5<|im_end|>»")]
        (start, _), (other_start, _) = found[0].trained[0], found[1].trained[0]
        assert found[0].tokens[:start] == found[1].tokens[:other_start]
    kto = rendered(template, {"prompt": [ASKED], "completion": [ANSWERED], "label": False}, "kto")
    assert kto.rows[0].label is False
    (prompt,) = examples(template, {"messages": [ASKED], "reference": "4"}, "rft")
    assert (prompt.side, prompt.trained) == ("prompt", ())
    assert shown(template, prompt).endswith("<|im_start|>assistant\n")


CALLING = {
    "messages": [
        ASKED,
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "b"}'}}]},
    ],
    "tools": [{"function": {"name": "f", "description": "d"}, "type": "function"}],
}
LOOP = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.tool_calls or [] %}{{ c.function.name }}"
)
END = "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize("body", ["{{ c.function.arguments | tojson }}", "{{ '' + c.function.arguments }}"])
def test_arguments_are_written_once_whatever_a_template_takes(body) -> None:
    template = written(LOOP + body + END)
    (example,) = examples(template, CALLING)
    assert shown(template, example).replace(" ", "").endswith('«f{"a":"b"}<|im_end|>»')


@pytest.mark.parametrize(
    ("name", "answer", "left_out"),
    [
        ("smollm2", {"tool_calls": CALLING["messages"][1]["tool_calls"]}, "'f'"),
        (
            "llama3_1",
            {"content": "Let me see.", "tool_calls": CALLING["messages"][1]["tool_calls"]},
            "'Let me see.'",
        ),
        ("qwen2_5", {"content": "4", "reasoning_content": "easy"}, "'easy'"),
    ],
)
def test_what_a_template_would_leave_out_is_refused(name, answer, left_out) -> None:
    (problem,) = rendered(TEMPLATES[name], {"messages": [ASKED, {"role": "assistant", **answer}]}).problems
    assert problem.code == "left_out"
    assert f"leaves {left_out} of messages[1] out" in problem.message


def test_reasoning_is_trained_where_a_template_writes_it() -> None:
    answer = {"role": "assistant", "content": "4", "reasoning_content": "easy"}
    (example,) = examples(TEMPLATES["qwen3"], {"messages": [ASKED, answer]})
    assert shown(TEMPLATES["qwen3"], example).endswith("«<think>\neasy\n</think>\n\n4<|im_end|>»")


def test_tools_are_written_in_the_order_of_their_keys() -> None:
    template = written("{{ tools | tojson }}" + LOOP + "{{ c.function.arguments | tojson }}" + END)
    for tools in (CALLING["tools"], msgspec.json.encode(CALLING["tools"]).decode()):
        (example,) = examples(template, {**CALLING, "tools": tools})
        assert shown(template, example).startswith('[{"function": {"name": "f", "description": "d"}, "type"')


@pytest.mark.parametrize(
    ("template", "row", "code"),
    [
        ("{{ raise_exception('No system.') }}", CHAT, "template_refused"),
        ("{{ messages[0].content + 1 }}", CHAT, "template_refused"),
        ("", CHAT, "no_chat_template"),
        (STRIPPING[:-12] + "<think>\n{% endif %}", CHAT, "not_an_answer"),
        (STRIPPING, {"prompt": "a", "chosen": "b", "rejected": "c"}, "wrong_format"),
        (STRIPPING, {"messages": [ASKED]}, "wrong_format"),
        (STRIPPING, {"txt": "a"}, "unknown_format"),
        (STRIPPING, {"messages": [ASKED, ANSWERED] * (MAX_TURNS + 1)}, "too_many_turns"),
    ],
)
def test_what_cannot_be_rendered_is_told(template, row, code) -> None:
    found = rendered(written(template), row)
    assert (found.rows, [(each.line, each.code) for each in found.problems]) == ((), [(1, code)])


def test_a_row_that_is_too_long_is_refused_or_dropped_and_never_cut() -> None:
    template = TEMPLATES["smollm2"]
    (example,) = examples(template, CHAT)
    size = len(example.tokens)
    assert rendered(template, CHAT, max_tokens=size).rows
    refused = rendered(template, CHAT, max_tokens=size - 1)
    assert (refused.problems[0].code, refused.dropped) == ("too_long", ())
    assert f"{size} tokens, {size - 1} is the most" in refused.problems[0].message
    dropped = rendered(template, CHAT, max_tokens=size - 1, on_long="drop")
    assert (dropped.rows, dropped.problems, dropped.dropped) == ((), (), (1,))
    assert rendered(template, CHAT, max_tokens=1 << 40).max_tokens == 4096


def test_a_row_of_many_examples_and_many_rows_are_bounded_in_tokens() -> None:
    template = written(STRIPPING)
    thought = {"role": "assistant", "content": "<think>hm</think>4"}
    row = {"messages": [ASKED, thought, ASKED, thought]}
    sizes = [len(each.tokens) for each in examples(template, row)]
    assert rendered(template, row, token_limit=sum(sizes)).rows
    assert rendered(template, row, token_limit=sum(sizes) - 1).problems[0].code == "too_many_tokens"
    rows = tuple(RowLine(line=line, data=msgspec.json.encode(row)) for line in (1, 2))
    request = RenderRequest(rows=rows, method="sft", token_limit=sum(sizes))
    found = render_rows(template, request, max_context=4096)
    assert ([each.line for each in found.rows], found.left_out) == ([1], (2,))


def test_a_wrong_row_fails_no_other() -> None:
    rows = [CHAT, {"messages": []}, CHAT]
    lines = tuple(RowLine(line=line, data=msgspec.json.encode(row)) for line, row in enumerate(rows, 5))
    found = render_rows(TEMPLATES["qwen3"], RenderRequest(rows=lines, method="sft"), max_context=4096)
    assert ([row.line for row in found.rows], [each.line for each in found.problems]) == ([5, 7], [6])


def test_every_stop_token_of_the_base_ends_an_answer() -> None:
    tokenizer = tokenizer_of((STRIPPING), special=LLAMA)
    template = TransformersTemplate(tokenizer, [tokenizer.convert_tokens_to_ids("<|eom_id|>")])
    (example,) = examples(template, {"prompt": "a", "completion": "b<|eom_id|>"})
    assert shown(template, example) == "a«b<|eom_id|>»"


async def test_a_trainer_renders_over_http() -> None:
    http = FastAPI()
    rendering = BaseRendering(tiny_folder(), max_context=64)
    add_routes(http, rendering)
    rows = tuple(
        RowLine(line=line, data=msgspec.json.encode({"prompt": "1 2 3", "completion": text}))
        for line, text in enumerate(["4", "4 " * 100], 1)
    )
    request = RenderRequest(rows=rows, method="sft", with_texts=True)
    async with AsyncClient(transport=ASGITransport(http), base_url="http://trainer") as client:
        answer = await client.post("/internal/render", content=msgspec.msgpack.encode(request))
    rendering.close()
    found = msgspec.msgpack.decode(answer.content, type=Rendering)
    (example,) = found.rows[0].examples
    assert len(example.texts) == len(example.tokens)
    assert [(each.line, each.code) for each in found.problems] == [(2, "too_long")]
