"""TRL's own converters as an oracle: of implicit prompts, and of ShareGPT's names."""

import json
import subprocess
import sys
from typing import Any

import pytest

from mint_client.core.conversion import Conversion

CHILD = """
import json, sys
from trl import extract_prompt, maybe_convert_to_chatml, maybe_extract_prompt
functions = {f.__name__: f for f in (extract_prompt, maybe_convert_to_chatml, maybe_extract_prompt)}
json.dump([functions[name](row) for name, row in json.load(sys.stdin)], sys.stdout)
"""
USER, OTHER = {"role": "user", "content": "2+2?"}, {"role": "user", "content": "3+3?"}
ANSWER, WRONG = {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"}
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("extract_prompt", {"chosen": [USER, ANSWER], "rejected": [USER, WRONG]}),
    ("extract_prompt", {"chosen": [USER, ANSWER, OTHER, ANSWER], "rejected": [USER, ANSWER, OTHER, WRONG]}),
    ("extract_prompt", {"chosen": "The sky is blue.", "rejected": "The sky is green."}),
    ("extract_prompt", {"chosen": "The sky is blue.", "rejected": "The sky is black."}),
    (
        "extract_prompt",
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
    ),
    ("extract_prompt", {"chosen": "The sky", "rejected": "The sky is green."}),
    ("maybe_extract_prompt", {"prompt": "2+2?", "chosen": [USER, ANSWER], "rejected": [USER, WRONG]}),
    ("maybe_extract_prompt", {"prompt": [USER], "chosen": [ANSWER], "rejected": [WRONG]}),
    ("maybe_extract_prompt", {"prompt": "2+2=", "chosen": "4", "rejected": "5"}),
    (
        "maybe_convert_to_chatml",
        {"conversations": [{"from": "user", "value": "2+2?"}, {"from": "assistant", "value": "4"}]},
    ),
]


@pytest.mark.slow  # TRL takes 20 s to import
def test_rows_are_converted_as_trl_does() -> None:
    ours = [Conversion({}, is_strict=False).convert(1, row) for _, row in ROWS]
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(ROWS), capture_output=True, text=True, check=True
    )
    assert ours == json.loads(done.stdout)
