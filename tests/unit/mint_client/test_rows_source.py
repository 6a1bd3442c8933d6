"""Sources of rows: what pandas, pyarrow, `datasets` and compressors write is read as it was meant."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mint_client.adapters.prepared_rows import PreparedRows, Reading, prepare_rows
from mint_client.core.refusals import ExtraMissingError, LocalFailureError
from mint_common.errors import InvalidField

Row = dict[str, Any]
QUESTIONS: list[Row] = [
    {"question": 'Say "hi",\nthen stop.', "answer": "hi"},
    {"question": "2+2?", "answer": "007"},
    {"question": "Wie heißt der Fluss?", "answer": "NA"},
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
    }
    for row in QUESTIONS
]


def prepare(source: Path | str, folder: Path, **reading: Any) -> PreparedRows:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    return prepare_rows(str(source), Reading(**reading), folder=work, progress=lambda _: None)


def trained(found: PreparedRows) -> list[Row]:
    assert not found.report.problems
    return [row for _, row in found.rows(1000)]


def problems(found: PreparedRows) -> list[tuple[int, str]]:
    return [(problem.line, problem.message) for problem in found.report.problems]


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))


def write_array(path: Path) -> None:
    path.write_text("\n" + json.dumps(QUESTIONS, indent=2))


def write_csv(path: Path) -> None:
    import pandas as pd

    pd.DataFrame(QUESTIONS).to_csv(path, index=True)


def write_excel_csv(path: Path) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"], delimiter=";", dialect="excel")
        writer.writeheader()
        writer.writerows(QUESTIONS)


def write_tsv(path: Path) -> None:
    import pandas as pd

    pd.DataFrame(QUESTIONS).to_csv(path, sep="\t", index=False)


def write_gzip(path: Path) -> None:
    import pandas as pd

    pd.DataFrame(QUESTIONS).to_json(path, orient="records", lines=True)  # pandas compresses by the suffix


def write_zstd(path: Path) -> None:
    content = "".join(json.dumps(row) + "\n" for row in QUESTIONS).encode()
    parts = (content[:40], content[40:])
    path.write_bytes(b"".join(zstandard.compress(part) for part in parts))


def write_parquet(path: Path) -> None:
    import pandas as pd

    pd.DataFrame(QUESTIONS).to_parquet(path)


def write_arrow(path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(QUESTIONS).save_to_disk(path)


FILES: dict[str, Callable[[Path], None]] = {
    "rows.jsonl": write_jsonl,
    "rows.json": write_array,
    "rows": write_jsonl,
    "rows.csv": write_csv,
    "excel.csv": write_excel_csv,
    "rows.tsv": write_tsv,
    "rows.jsonl.gz": write_gzip,
    "rows.jsonl.zst": write_zstd,
    "rows.parquet": write_parquet,
    "folder": write_arrow,
}


@pytest.mark.parametrize("name", FILES)
def test_the_same_rows_come_from_every_kind_of_file(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    found = prepare(tmp_path / name, tmp_path)
    assert trained(found) == CHATS
    assert (found.layout, str(found.format)) == ("question and answer", "chat")
    assert found.left_out == (("column 1",) if name == "rows.csv" else ())  # pandas' index
    assert found.path.name == f"{name.partition('.')[0]}.jsonl"


def test_lines_of_a_text_are_rows_and_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes("One.\r\n\nDrei große.\n".encode())
    found = prepare(tmp_path / "book.txt", tmp_path)
    assert found.rows(9) == [(1, {"text": "One."}), (3, {"text": "Drei große."})]


def test_good_jsonl_is_sent_as_it_is_and_needs_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("datasets", "pyarrow", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n\n" for row in CHATS))
    found = prepare(file, tmp_path)
    assert (found.path, found.layout, found.count) == (file, "chat", 3)
    write_jsonl(file)
    assert trained(prepare(file, tmp_path)) == CHATS
    for name in ("rows.parquet", "rows.jsonl.zst"):
        (tmp_path / name).write_bytes(b"PAR1")
        with pytest.raises(ExtraMissingError, match=f"{name} needs (datasets|zstandard), .*pip install"):
            prepare(tmp_path / name, tmp_path)
    with pytest.raises(ExtraMissingError, match="hf:a/b:train needs datasets"):
        prepare("hf:a/b:train", tmp_path)


def test_lines_of_a_converted_file_are_those_of_its_source(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"\n{json.dumps(row)}\n" for row in QUESTIONS))
    found = prepare(file, tmp_path)
    assert [number for number, _ in found.rows(9)] == [2, 4, 6]
    assert found.path.read_bytes().splitlines()[5] == found.path.read_bytes().splitlines()[-1]


def test_nested_nulls_of_parquet_are_fields_that_a_message_does_not_have(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    other = {"type": "function", "function": {"name": "ask", "arguments": {"q": "x"}}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": "2+2?"},
                {"role": "assistant", "content": None, "tool_calls": [each]},
            ]
        }
        for each in (call, other)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = trained(prepare(tmp_path / "rows.parquet", tmp_path))
    assert [row["messages"][1]["tool_calls"] for row in found] == [[call], [other]]
    rows[1]["messages"] = [None, {"role": "user", "content": None}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    told = problems(prepare(tmp_path / "rows.parquet", tmp_path))
    assert told == [(2, "messages[0]: expected a message, got null")]


def test_a_column_that_is_missing_far_down_is_told_with_its_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with file.open("w") as out:
        out.writelines(json.dumps({"question": str(n), "answer": "4"}) + "\n" for n in range(40_000))
        out.write('{"question": "2+2?"}\n')
    found = prepare(file, tmp_path)
    assert problems(found) == [(40_001, "column answer is missing; the row has 'question'")]


def test_rows_and_their_limits_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("question,answer\na,b\na,b,c\n\na,b\n")
    found = prepare(file, tmp_path)
    assert problems(found) == [(2, "the row has 3 fields, the header has 2")]
    assert trained(prepare(file, tmp_path, limit=1))[0]["messages"][0]["content"] == "a"
    file.write_bytes(b"text\nna\xefve\n")
    assert problems(prepare(file, tmp_path)) == [(1, "the row is not UTF-8: save the file as UTF-8")]
    file.write_text('text\n"a\n')
    assert "a quote is not closed" in problems(prepare(file, tmp_path))[0][1]
    file.write_text("")
    assert problems(prepare(file, tmp_path)) == [(1, "the file has no rows")]


def test_two_layouts_in_a_file_are_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([CHATS[0], {"instruction": "a", "output": "b"}, 7]))
    assert problems(prepare(file, tmp_path)) == [
        (2, "the row is Alpaca, row 1 is chat: a file has one layout"),
        (3, "the line is not a JSON object; it begins with '7'"),
    ]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.json", "rows.parquet"])
def test_a_file_that_is_cut_off_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    FILES[name](file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(LocalFailureError, match=rf"{name}: .*(cut off|no whole Parquet file).* again"):
        prepare(file, tmp_path)


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_text("question,answer\n")
    with pytest.raises(LocalFailureError, match="it is no gzip data, or damaged"):
        prepare(tmp_path / "rows.csv.gz", tmp_path)
    with pytest.raises(LocalFailureError, match="none of `save_to_disk`: name one of its files"):
        prepare(tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError):
        prepare(tmp_path / "nothing.jsonl", tmp_path)
    for name in ("hf:", "hf:a/b", "hf:a/b/c:train", "hf:a/b:x:y:z"):
        with pytest.raises(InvalidField, match="is like hf:ORG/NAME:train"):
            prepare(name, tmp_path)


def test_a_folder_with_splits_is_refused_with_their_names(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list(QUESTIONS)
    DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "data")
    with pytest.raises(LocalFailureError, match=r"it has splits: name one of .*data/train, .*data/test"):
        prepare(tmp_path / "data", tmp_path)
    assert trained(prepare(tmp_path / "data/test", tmp_path)) == CHATS[:1]


def test_a_part_is_told_by_the_number_of_rows_and_not_of_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"\n{json.dumps(row)}\n" for row in QUESTIONS))
    assert len(QUESTIONS) == 3
    assert [prepare(file, tmp_path, limit=limit).is_part for limit in (2, 3, 6)] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("question,answer,question\na,b,c\n", "the header names column 'question' twice"),
        ("question,answer\r" + "a,b\r" * 300_000, "save the file with LF line ends"),
    ],
)
def test_a_table_that_cannot_be_read_whole_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(text.encode())
    (found,) = prepare(file, tmp_path).report.problems
    assert problem in found.message
