"""What `mint train` refuses before it sends anything."""

from pathlib import Path

import pytest

from mint_client.commands.train import grader_json
from mint_common.errors import InvalidField


def test_a_grader_that_is_no_json_is_refused_and_one_that_is_missing_is_a_missing_file(
    tmp_path: Path,
) -> None:
    with pytest.raises(FileNotFoundError):
        grader_json(tmp_path / "grader.json")
    (tmp_path / "grader.json").write_bytes(b"{")
    with pytest.raises(InvalidField, match=r"--grader': .*grader\.json is not JSON: "):
        grader_json(tmp_path / "grader.json")
