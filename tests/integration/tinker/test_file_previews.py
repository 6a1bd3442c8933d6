"""A file's rows as a trainer would train them, asked of the gateway."""

import json
from collections.abc import Iterator

import httpx
import pytest

pytestmark = pytest.mark.integration

ROWS = [{"prompt": "1 2 3", "completion": str(number)} for number in range(4, 9)]
LONG = {"prompt": "1 2 3", "completion": "4 " * 4000}


@pytest.fixture(scope="module")
def mint(stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, headers={"x-api-key": stack.key}, timeout=120) as client:
        yield client


def uploaded(mint: httpx.Client, rows: list[object], purpose: str = "fine-tune") -> str:
    data = "\n".join(map(json.dumps, rows)).encode()
    answer = mint.post("/v1/files", files={"file": ("a.jsonl", data)}, data={"purpose": purpose})
    return answer.json()["id"]


def test_rows_are_shown_with_what_is_trained(mint) -> None:
    file = uploaded(mint, [*ROWS, LONG, ROWS[0]])
    view = mint.get(f"/mint/v1/files/{file}").json()
    assert (view["format"], view["rows"], view["repeats"]) == ("completion", 7, 1)
    shown = mint.post(f"/mint/v1/files/{file}/preview", json={"base": "tiny", "n": 3, "first_line": 5})
    preview = shown.json()
    assert (preview["method"], [row["line"] for row in preview["rows"]]) == ("sft", [5, 7])
    assert [(each["line"], each["code"]) for each in preview["problems"]] == [(6, "too_long")]
    example = preview["rows"][0]["examples"][0]
    ((start, end),) = example["trained"]
    assert len(example["tokens"]) == len(example["texts"]) == end
    assert "".join(example["texts"][start : end - 1]).strip() == "8"
    assert example["trained_count"] == end - start
    assert preview["shared"] is None
    mint.delete(f"/v1/files/{file}")


def test_rows_that_a_validation_file_shares_are_told(mint) -> None:
    file = uploaded(mint, ROWS)
    validation = uploaded(mint, [{"prompt": "1", "completion": "2"}, dict(reversed(ROWS[3].items()))])
    asked = {"base": "tiny", "n": 1, "validation_file": validation}
    preview = mint.post(f"/mint/v1/files/{file}/preview", json=asked).json()
    assert preview["shared"] == {"count": 1, "pairs": [[2, 4]]}
    for each in (file, validation):
        mint.delete(f"/v1/files/{each}")


def test_what_cannot_be_previewed_is_refused_by_name(stack, mint) -> None:
    file, plain = uploaded(mint, ROWS), uploaded(mint, ROWS, "evals")
    for path, body, status, code in (
        (file, {"base": "none"}, 404, "not_found"),
        (file, {"base": "tiny", "n": 0}, 422, "invalid_field"),
        (file, {"base": "tiny", "method": "ppo"}, 422, "invalid_field"),
        (plain, {"base": "tiny"}, 422, "invalid_field"),
        (file, {"base": "tiny", "validation_file": plain}, 422, "invalid_field"),
        (file, {"base": "tiny", "validation_file": "file-none"}, 404, "not_found"),
        ("file-none", {"base": "tiny"}, 404, "not_found"),
    ):
        answer = mint.post(f"/mint/v1/files/{path}/preview", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    wrong = mint.post(f"/mint/v1/files/{file}/preview", json={"base": "tiny", "method": "dpo", "n": 1})
    assert wrong.json()["problems"][0]["code"] == "wrong_format"
    other = {"x-api-key": stack.other_key}
    assert (
        mint.post(f"/mint/v1/files/{file}/preview", json={"base": "tiny"}, headers=other).status_code == 404
    )
    for each in (file, plain):
        mint.delete(f"/v1/files/{each}")
