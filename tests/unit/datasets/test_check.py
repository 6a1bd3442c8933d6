"""A file is checked whole, line by line, in bounded memory."""

import json
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.datasets import MAX_PROBLEMS, DatasetReport, Format, check
from mint_common.datasets.check import DatasetCheck
from mint_common.datasets.lines import MAX_LINE_BYTES
from mint_common.datasets.repeats import RowDigests, shared_rows
from mint_common.datasets.rows import MAX_DEPTH

USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
VALID: dict[str, tuple[Format, dict[str, Any]]] = {
    "chat": (Format.CHAT, {"messages": [USER, ANSWER]}),
    "weights": (Format.CHAT, {"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]}),
    "tools": (
        Format.CHAT,
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "4"},
                ANSWER,
            ],
            "tools": [TOOL],
            "parallel_tool_calls": False,
        },
    ),
    "tools as text": (Format.CHAT, {"messages": [USER, ANSWER], "tools": json.dumps([TOOL])}),
    "parts": (
        Format.CHAT,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER]},
    ),
    "completion": (Format.COMPLETION, {"prompt": "2+2=", "completion": " 4"}),
    "messages": (Format.COMPLETION, {"prompt": [USER], "completion": [ANSWER]}),
    "pairs": (
        Format.PAIRS,
        {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]},
    ),
    "preference": (Format.PREFERENCE, {"prompt": "2+2=", "chosen": "4", "rejected": "5"}),
    "kto": (Format.KTO, {"prompt": "2+2=", "completion": "5", "label": False}),
    "text": (Format.TEXT, {"text": "Once upon a time."}),
    "reward": (Format.REWARD, {"messages": [USER], "reference": "4", "facts": {"x": [1]}}),
}
REFUSED: dict[str, tuple[object, str, str]] = {
    "no role": ({"messages": [{"content": "a"}, ANSWER]}, "missing_field", "messages[0].role is missing"),
    "typo": (
        {"messages": [USER, {**ANSWER, "wieght": 1}]},
        "unknown_field",
        "messages[1] has no field 'wieght'",
    ),
    "extra column": ({"messages": [USER, ANSWER], "id": 1}, "unknown_field", "a chat row has no field 'id'"),
    "role": (
        {"messages": [{"role": "assistent", "content": ""}, ANSWER]},
        "invalid_value",
        "messages[0].role: 'assistent' is none of system, developer, user, assistant, tool",
    ),
    "content": (
        {"messages": [{"role": "user", "content": 1}, ANSWER]},
        "invalid_value",
        "messages[0].content: ",
    ),
    "weight 2": ({"messages": [USER, {**ANSWER, "weight": 2}]}, "invalid_value", "messages[1].weight: "),
    "weight of a user": (
        {"messages": [{**USER, "weight": 1}, ANSWER]},
        "unknown_field",
        "messages[0] has a weight",
    ),
    "untrained": (
        {"messages": [USER, {**ANSWER, "weight": 0}]},
        "nothing_trained",
        "every assistant message",
    ),
    "ends with tool": ({"messages": [USER, {"role": "tool", "content": "a"}]}, "no_answer", "role tool"),
    "no messages": ({"messages": []}, "invalid_value", "messages: "),
    "no content": (
        {"messages": [USER, {"role": "assistant"}]},
        "missing_field",
        "messages[1].content is missing",
    ),
    "image": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]},
                ANSWER,
            ]
        },
        "unsupported_content",
        "messages[0].content[0] is of type 'image_url'",
    ),
    "arguments": (
        {"messages": [USER, {**ANSWER, "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
        "invalid_arguments",
        "messages[1]: the arguments of 'f'",
    ),
    "deep arguments": (
        {
            "messages": [
                USER,
                {
                    **ANSWER,
                    "tool_calls": [
                        {"function": {"name": "f", "arguments": '{"a":' + "[" * 80 + "]" * 80 + "}"}}
                    ],
                },
            ]
        },
        "invalid_arguments",
        "messages[1]: the arguments of 'f'",
    ),
    "tools as text": ({"messages": [USER, ANSWER], "tools": "[1]"}, "invalid_value", "tools is a text"),
    "output of a user": (
        {"input": {"messages": [USER]}, "preferred_output": [USER], "non_preferred_output": [ANSWER]},
        "invalid_value",
        "preferred_output[0].role is user",
    ),
    "half a pair": ({"prompt": "a", "chosen": "b"}, "missing_field", "rejected is missing"),
    "text and messages": ({"prompt": "a", "completion": [ANSWER]}, "invalid_value", "prompt and completion"),
    "label": ({"prompt": "a", "completion": "b", "label": 1}, "invalid_value", "label: "),
    "empty text": ({"text": ""}, "invalid_value", "text: "),
    "no format": ({"question": "a", "answer": "b"}, "unknown_format", "('question', 'answer')"),
    "list": ([1], "not_an_object", "begins with '[1]'"),
    "control characters": (
        {"messages": [{"role": "\0\n", "content": ""}, ANSWER]},
        "invalid_value",
        r"'\x00\n'",
    ),
}


def line_of(row: object) -> bytes:
    return json.dumps(row).encode()


def checked(data: bytes, cuts: Sequence[int] = ()) -> DatasetReport:
    """Return the report on bytes that come in parts."""
    found = DatasetCheck()
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        found.feed(data[begin:end])
    return found.finish()


@pytest.mark.parametrize("name", VALID)
def test_a_row_of_each_format_is_told_and_read(name: str) -> None:
    kind, row = VALID[name]
    report = checked(line_of(row))
    assert (report.format, report.rows, report.problems) == (kind, 1, ())


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named(name: str) -> None:
    row, code, message = REFUSED[name]
    (problem,) = checked(b"\n\r\n" + line_of(row)).problems
    assert (problem.line, problem.code) == (3, code)
    assert message in problem.message
    assert problem.message.isprintable()


@pytest.mark.parametrize("key", ["k" * 900_000, "k` - at `$." + "k" * 900_000])
def test_a_message_is_short_whatever_the_keys_are(key: str) -> None:
    """The second key looks like the end of a message of msgspec, with a path."""
    message = {"role": "user", key: 1}
    for row in ({"text": "a", key: 1}, {"messages": [message, ANSWER]}, {key: 1}, {"messages": key}):
        (problem,) = checked(line_of(row)).problems
        assert len(problem.message) < 500


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "invalid_json"),
        (b'{"text": NaN}', "invalid_json"),
        (b'{"text": "\\ud800"}', "invalid_json"),
        (b'{"text": "\xff"}', "invalid_utf8"),
        ('{"text": "a"}'.encode("utf-16"), "invalid_utf8"),
        (b"[" * 100_000, "too_deep"),
        (b'{"text": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "too_deep"),
        (b'{"text": "' + b"a" * MAX_LINE_BYTES + b'"}', "line_too_long"),
    ],
)
def test_a_line_that_is_no_json_object_is_named(line: bytes, code: str) -> None:
    report = checked(b'{"text": "a"}\n' + line + b'\n{"text": "b"}')
    assert [(each.line, each.code) for each in report.problems[:1]] == [(2, code)]
    assert report.rows >= 3 or code == "invalid_json"  # UTF-16 has line ends of its own


def test_a_file_of_two_formats_is_refused() -> None:
    rows = [VALID[name][1] for name in ("chat", "reward", "text")]
    report = checked(b"\n".join(map(line_of, rows)))
    assert [(each.line, each.code) for each in report.problems] == [
        (2, "no_answer"),
        (3, "mixed_formats"),
    ]
    assert "the row is text, line 1 is chat" in report.problems[1].message


def test_first_rows_of_chats_without_their_answers_are_named_not_the_right_ones() -> None:
    asked = {"messages": [USER]}
    report = checked(b"\n".join(map(line_of, [asked, asked, VALID["chat"][1], asked])))
    assert report.format == Format.CHAT
    assert [(each.line, each.code) for each in report.problems] == [
        *((line, "no_answer") for line in (1, 2, 4))
    ]
    for_graders = checked(b"\n".join(map(line_of, [{**asked, "answer": "a"}, VALID["chat"][1]])))
    assert (for_graders.format, for_graders.problems[0].code) == (Format.REWARD, "mixed_formats")
    assert checked(line_of(asked)).count == 0, "a grader may read the answers alone"


@pytest.mark.parametrize("data", [b"", b"\n\n \t\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_a_file_without_rows_is_refused(data: bytes) -> None:
    report = checked(data)
    assert (report.rows, report.format, report.problems[0].code) == (0, None, "no_rows")


def test_the_first_problems_are_told_and_all_are_counted() -> None:
    report = checked(b"{}\n" * (MAX_PROBLEMS + 7))
    assert report.count == MAX_PROBLEMS + 7
    assert [each.line for each in report.problems] == list(range(1, MAX_PROBLEMS + 1))


@pytest.mark.parametrize("line", [b'{"text": "a"}\n', b"\n", b"\r\n", b"{}\n"])
def test_nothing_is_read_behind_the_most_lines(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(check, "MAX_LINES", 3)
    found = DatasetCheck()
    assert found.feed(line * 3)
    assert not found.feed(line * 3)
    assert not found.feed(line)
    report = found.finish()
    assert (report.problems[-1].line, report.problems[-1].code) == (4, "too_many_rows")
    wrong = [each for each in report.problems if each.code != "too_many_rows"]
    assert (report.rows, len(wrong)) == (3 * bool(line.strip()), 3 * (line == b"{}\n"))


def test_a_line_without_an_end_takes_no_memory() -> None:
    found = DatasetCheck()
    tracemalloc.start()
    for _ in range(64):
        found.feed(b"a" * (1 << 20))
    found.feed(b'\n{"text": "a"}')
    report = found.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(each.line, each.code) for each in report.problems] == [(1, "line_too_long")]
    assert report.rows == 2
    assert peak < 8 << 20


LINES = st.one_of(
    st.sampled_from([line_of(row) for _, row in VALID.values()]),
    st.binary(max_size=12),
    st.sampled_from([b"", b" ", b"{}", b'{"text": 1}', b"\xef\xbb\xbf"]),
)


@given(lines=st.lists(LINES, max_size=12), end=st.sampled_from([b"\n", b"\r\n"]), data=st.data())
def test_any_bytes_cut_anywhere_give_the_same_report(lines, end, data) -> None:
    whole = end.join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    report = checked(whole, cuts)
    assert report == checked(whole)
    assert report.count >= len(report.problems)
    assert report.rows == sum(bool(line.strip()) for line in whole.removeprefix(b"\xef\xbb\xbf").split(b"\n"))


@given(lines=st.lists(st.one_of(st.just(b""), st.binary(max_size=20)), max_size=12))
def test_problems_are_of_the_lines_that_python_reads_as_no_row(lines) -> None:
    """The json module is the oracle, of what is JSON and what is not."""
    whole = b"\n".join(lines)
    wrong = []
    for number, line in enumerate(whole.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            is_row = isinstance(json.loads(line.decode()), dict) and not line.strip()
        except ValueError:
            is_row = not line.strip()
        if not is_row:
            wrong.append(number)
    assert [each.line for each in checked(whole).problems] == (wrong or [1])


@given(keys=st.lists(st.integers(0, 5), max_size=40), split=st.integers(0, 40))
def test_repeated_rows_are_those_that_a_dictionary_finds(keys, split) -> None:
    split = min(split, len(keys))
    first: dict[int, int] = {}
    pairs = [(line, first.setdefault(key, line)) for line, key in enumerate(keys, 1)]
    digests, training, validation = RowDigests(), RowDigests(), RowDigests()
    for line, key in enumerate(keys, 1):
        digests.add(line, {"text": str(key)})
        (training if line <= split else validation).add(line, {"text": str(key)})
    repeats = [(line, earlier) for line, earlier in pairs if line != earlier]
    assert digests.repeats().pairs == tuple(repeats)
    assert digests.repeats().count == len(repeats)
    shared = [(line, first[key]) for line, key in enumerate(keys, 1) if line > split >= first[key]]
    assert shared_rows(training, validation).pairs == tuple(shared)


def test_the_order_of_keys_makes_no_other_row() -> None:
    report = checked(b'{"prompt": "a", "completion": "b"}\n{"completion":"b","prompt":"a"}')
    assert report.repeats.pairs == ((2, 1),)
