"""Rows of other layouts become rows of MinT: the same questions and answers, or a sentence."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_client.core.conversion import Conversion, read_map
from mint_common.datasets import RowProblem
from mint_common.datasets.check import DatasetCheck
from mint_common.errors import InvalidField

Row = dict[str, Any]
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TOOL = {"name": "add", "parameters": {"type": "object"}}
CHAT = {"messages": [USER, ANSWER]}
PAIR = {"prompt": [USER], "chosen": [ANSWER], "rejected": [WRONG]}
LAYOUTS: dict[str, tuple[Row, Row, str]] = {
    # as found, as trained, what is left out
    "chat": ({"id": 7, **CHAT, "source": "web"}, CHAT, "id, source"),
    "chat with other fields": (
        {"messages": [{**USER, "id": "m1", "name": None}, ANSWER]},
        {"messages": [{**USER, "name": None}, ANSWER]},
        "messages[].id",
    ),
    "chat with a system column": ({"system": "Be brief.", **CHAT}, {"messages": [SYSTEM, USER, ANSWER]}, ""),
    "prompt of a grader": (
        {"messages": [USER], "reference": "4"},
        {"messages": [USER], "reference": "4"},
        "",
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "2, 2", "output": "4", "text": "Below is ..."},
        {"messages": [{"role": "user", "content": "Add.\n2, 2"}, ANSWER]},
        "text",
    ),
    "Alpaca without input": ({"instruction": "2+2?", "input": "", "output": "4"}, CHAT, ""),
    "Alpaca with turns": (
        {"instruction": "2+2?", "output": "4", "system": "Be brief.", "history": [["Hi", "Hello"]]},
        {
            "messages": [
                SYSTEM,
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                USER,
                ANSWER,
            ]
        },
        "",
    ),
    "Dolly": (
        {"instruction": "Add.", "context": "2, 2", "response": "4", "category": "math"},
        {"messages": [{"role": "user", "content": "Add.\n2, 2"}, ANSWER]},
        "category",
    ),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}],
            "system": "Be brief.",
        },
        {"messages": [SYSTEM, USER, ANSWER]},
        "",
    ),
    "ShareGPT with its own system": (
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "2+2?"},
                {"from": "gpt", "value": "4", "weight": 1},
            ],
        },
        {"messages": [SYSTEM, USER, {**ANSWER, "weight": 1}]},
        "",
    ),
    "ShareGPT with tools": (
        {
            "conversations": [
                {"from": "human", "value": "2+2?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                {"from": "observation", "value": "4"},
                {"from": "gpt", "value": "4"},
            ],
            "tools": json.dumps([TOOL]),
        },
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "4"},
                ANSWER,
            ],
            "tools": [{"type": "function", "function": TOOL}],
        },
        "",
    ),
    "conversations of roles": ({"conversations": [USER, ANSWER]}, CHAT, ""),
    "question and answer": ({"question": "2+2?", "answer": "4"}, CHAT, ""),
    "OpenOrca": (
        {"id": "x", "system_prompt": "Be brief.", "question": "2+2?", "response": "4"},
        {"messages": [SYSTEM, USER, ANSWER]},
        "id",
    ),
    "a number as answer": ({"question": "2+2?", "answer": 4}, CHAT, ""),
    "completion": ({"prompt": "2+2=", "completion": "4"}, {"prompt": "2+2=", "completion": "4"}, ""),
    "completion of messages": (
        {"prompt": [USER], "completion": [ANSWER], "source": "web"},
        {"prompt": [USER], "completion": [ANSWER]},
        "source",
    ),
    "completion after a system prompt": (
        {"system": "Be brief.", "prompt": "2+2?", "completion": "4"},
        {"prompt": [SYSTEM, USER], "completion": [ANSWER]},
        "",
    ),
    "KTO": (
        {"prompt": "2+2=", "completion": "5", "label": "False"},
        {"prompt": "2+2=", "completion": "5", "label": False},
        "",
    ),
    "KTO of numbers": (
        {"prompt": [USER], "completion": [ANSWER], "label": 1},
        {"prompt": [USER], "completion": [ANSWER], "label": True},
        "",
    ),
    "preference": (
        {"prompt": "2+2=", "chosen": "4", "rejected": "5", "score_chosen": 9.0},
        {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
        "score_chosen",
    ),
    "preference of messages": (PAIR, PAIR, ""),
    "preference of a question": (
        {"system": "Be brief.", "question": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": [SYSTEM, USER], "chosen": [ANSWER], "rejected": [WRONG]},
        "",
    ),
    "preference of ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        PAIR,
        "",
    ),
    "implicit prompt": ({"chosen": [USER, ANSWER], "rejected": [USER, WRONG]}, PAIR, ""),
    "implicit prompt of texts": (
        {"chosen": "Human: 2+2? Bot: 4", "rejected": "Human: 2+2? Bot: 5"},
        {"prompt": "Human: 2+2? Bot:", "chosen": " 4", "rejected": " 5"},
        "",
    ),
    "UltraFeedback": (
        {
            "prompt": "2+2?",
            "prompt_id": "p1",
            "chosen": [USER, ANSWER],
            "rejected": [USER, WRONG],
            "messages": [USER, ANSWER],
            "score_chosen": 9.0,
        },
        PAIR,
        "prompt_id, messages, score_chosen",
    ),
    "OpenAI's pairs": (
        {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [WRONG]},
        {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [WRONG]},
        "",
    ),
    "prompt alone": ({"prompt": "2+2?", "solution": "4"}, {"messages": [USER], "solution": "4"}, ""),
    "text": ({"text": "Once.", "url": "x"}, {"text": "Once."}, "url"),
}


def converted(row: Row, *, renamed: str = "", strict: bool = False) -> tuple[Row, str]:
    conversion = Conversion(read_map(renamed), is_strict=strict)
    found = conversion.convert(1, row)
    return found, ", ".join(conversion.left_out)


def problem_of(*rows: Row, renamed: str = "", strict: bool = False) -> str:
    conversion = Conversion(read_map(renamed), is_strict=strict)
    *before, last = enumerate(rows, 1)
    for number, row in before:
        conversion.convert(number, row)
    with pytest.raises(RowProblem) as refused:
        conversion.convert(*last)
    return refused.value.message


def checked(row: Row) -> None:
    """Check that an upload takes a row."""
    check = DatasetCheck()
    check.feed(json.dumps(row).encode())
    assert check.finish().count == 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognized_and_what_it_does_not_use_is_named(name: str) -> None:
    found, trained, left_out = LAYOUTS[name]
    assert converted(found) == (trained, left_out)
    checked(trained)


@pytest.mark.parametrize("name", LAYOUTS)
def test_nulls_change_nothing(name: str) -> None:
    found, trained, left_out = LAYOUTS[name]
    nulls = {"label": None, "tools": None, "system": None, "title": None}
    row, told = converted({**nulls, **found})
    assert told == left_out
    assert {key: value for key, value in row.items() if value is not None} == trained


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_converted_row_converts_to_itself(name: str) -> None:
    _, trained, _ = LAYOUTS[name]
    assert converted(trained, strict=True) == (trained, "")


def test_columns_are_mapped_by_name_and_by_path() -> None:
    row = {"q": "2+2=", "answers": {"text": ["4", "four"]}, "chosen": "x", "id": 1}
    trained, left_out = converted(row, renamed="prompt=q, completion=answers.text.0")
    assert (trained, left_out) == ({"prompt": "2+2=", "completion": "4"}, "chosen, id")
    assert converted({"a.b": "x"}, renamed="text=a.b")[0] == {"text": "x"}
    graded = {"question": "2+2?", "answer": "4"}
    assert converted(graded, renamed="messages=question")[0] == {"messages": [USER], "answer": "4"}
    assert "no layout has the columns of --map ('completion')" in problem_of(row, renamed="completion=q")
    assert (
        problem_of({"q": "a"}, renamed="prompt=q,completion=a") == "column a of --map completion=a is missing"
    )
    for wrong in ("prompt", "prompt=", "prompt=a,prompt=b"):
        with pytest.raises(InvalidField, match="--map"):
            read_map(wrong)


PROBLEMS: dict[str, tuple[list[Row], str]] = {
    "unknown": (
        [{"txt": "a"}],
        "no layout has its columns ('txt'); say which to train on, as in --map prompt=",
    ),
    "two layouts": ([CHAT, {"instruction": "a", "output": "b"}], "the row is Alpaca, row 1 is chat"),
    "missing": (
        [{"question": "a", "answer": "b"}] * 2 + [{"question": "a", "id": 1}],
        "column answer is missing; the row has 'question', 'id'",
    ),
    "null": ([{"question": "a", "answer": None}], "column answer is missing: it is null"),
    "missing of a pair": (
        [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "rejected": "c"}],
        "column chosen is missing",
    ),
    "empty": ([{"instruction": "a", "output": " "}], "column output is empty"),
    "a list": ([{"question": "a", "answer": ["b"]}], "column answer: expected a text, got a list"),
    "a fraction": ([{"question": "a", "answer": 4.0}], "column answer: expected a text, got a number"),
    "equal": ([{"chosen": "a b", "rejected": "a b"}], "columns chosen and rejected are equal"),
    "no beginning": ([{"chosen": "a", "rejected": "b"}], "share no beginning, and there is no column prompt"),
    "a message that is none": ([{"messages": [USER, None]}], "messages[1]: expected a message, got null"),
    "a call that is none": (
        [{"conversations": [{"from": "function_call", "value": "add(2)"}]}],
        "conversations[0]: a function_call is the JSON of name and arguments",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_cannot_be_converted_is_told(name: str) -> None:
    rows, problem = PROBLEMS[name]
    assert problem in problem_of(*rows)


def test_a_strict_conversion_refuses_columns_that_are_not_used() -> None:
    assert problem_of({**CHAT, "id": 1}, strict=True) == "not used, and --strict is given: 'id'"


TEXT = st.text(max_size=12)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXT}),
    min_size=1,
    max_size=4,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = [
    *("prompt", "completion", "chosen", "rejected", "label", "messages", "conversations", "text"),
    *("instruction", "input", "output", "question", "answer", "system", "history", "tools", "id"),
]
ROWS = st.dictionaries(st.sampled_from(NAMES), JSON | MESSAGES, max_size=6)


@given(ROWS)
def test_any_row_is_converted_or_refused_and_never_changed(row: Row) -> None:
    before = json.dumps(row)
    with suppress(RowProblem):
        found, _ = converted(row)
        assert found
    assert json.dumps(row) == before


@given(MESSAGES, MESSAGES, MESSAGES)
def test_an_implicit_prompt_and_the_answers_are_the_conversations(
    shared: list[Row], chosen: list[Row], rejected: list[Row]
) -> None:
    row = {"chosen": [USER, *shared, *chosen], "rejected": [USER, *shared, *rejected]}
    try:
        found, _ = converted(row)
    except RowProblem:
        assert row["chosen"] == row["rejected"]
        return
    assert {side: found["prompt"] + found[side] for side in row} == row
    assert found["chosen"]
    assert found["rejected"]


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_sharegpt_is_the_same_conversation(turns: list[tuple[str, str]]) -> None:
    said = [(role, text) for turn in turns for role, text in zip(("human", "gpt"), turn, strict=True)]
    found, _ = converted({"conversations": [{"from": role, "value": text} for role, text in said]})
    names = {"human": "user", "gpt": "assistant"}
    assert found == {"messages": [{"role": names[role], "content": text} for role, text in said]}
