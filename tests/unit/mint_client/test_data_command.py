"""`mint data check`: what its user reads."""

from pathlib import Path

from typer.testing import CliRunner

from mint_client.cli import app


def test_a_good_file_and_its_validation_file(tmp_path: Path) -> None:
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held-out.jsonl"
    train.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "a"}\n')
    held_out.write_text('{"text": "c"}\n{"text": "b"}\n')
    result = CliRunner().invoke(app, ["data", "check", str(train), "--validation", str(held_out)])
    assert result.exit_code == 0, result.output
    assert f"{held_out}:2: is also {train}:2" in result.output
    assert f"{train}:3: repeats line 1" in result.output
    assert f"ok: {train}: text, 3 rows, 1 repeated" in result.output


def test_a_bad_file_is_told_by_line(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"text": "a"}\n{"txt": "b"}\n')
    result = CliRunner().invoke(app, ["data", "check", str(file)])
    assert result.exit_code == 1
    assert f"{file}:2: column text is missing; the row has 'txt' (missing_field)" in result.output
    assert f"1 problem: {file}: text, 2 rows, 0 repeated" in result.output
