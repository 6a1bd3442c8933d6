"""Removals by the commands: what holds a thing is named, and another tenant's is not there."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from mint_client.cli import app

pytestmark = pytest.mark.integration


@pytest.fixture
def mint(stack, counter, monkeypatch):
    monkeypatch.setenv("MINT_URL", stack.url)
    monkeypatch.setenv("MINT_API_KEY", stack.key)

    def run(*arguments: str, fails: bool = False, stdin: str | None = None) -> str:
        result = CliRunner().invoke(app, list(arguments), input=stdin)
        assert (result.exit_code != 0) is fails, (result.output, result.exception)
        return str(result.exception) if fails else result.stdout

    return run


def test_a_policy_is_removed_once_nothing_holds_it(stack, mint):
    stack.make_policy("gone", revisions=2)
    mint("alias", "move", "gone@best", "prdo", fails=True)
    mint("alias", "move", "gone@latest", "prdo")
    mint("alias", "move", "gone", "prod", "1")
    rule = json.loads(mint("rule", "create", "gone", "prod", "accuracy", "0.5", "--json"))["rule_id"]
    assert mint("alias", "rm", "gone", "prdo", "--reason", "misspelt") == "removed gone@prdo\n"
    assert "removed" in mint("alias", "history", "gone", "prdo").splitlines()[1]
    told = mint("alias", "rm", "gone", "prod", fails=True)
    assert told == f"Alias 'prod' cannot be removed: rules move it ({rule}): remove them first."
    told = mint("policy", "rm", "gone", fails=True)
    assert told == (f"Policy 'gone' cannot be removed: remove first what holds it: alias prod, rule {rule}.")
    job = {"policy": "gone", "task": "mode:copy", "steps": 1, "prompts_per_step": 1, "group_size": 2}
    with stack.client() as api, stack.client(key=stack.other_key) as other:
        for path in ("/policies/gone", "/policies/gone/aliases/prod"):
            assert other.delete(path).status_code == 404
        mint("rule", "remove", "gone", rule)
        mint("alias", "rm", "gone", "prod")
        begun = api.post("/jobs", json=job).json()["job_id"]
        assert f"job {begun}" in mint("policy", "rm", "gone", fails=True)
        api.post(f"/jobs/{begun}/cancel").raise_for_status()
        while api.get(f"/jobs/{begun}").json()["finished_at"] is None:
            pass
        assert mint("policy", "rm", "gone") == "removed gone\n"
        assert api.get("/policies/gone").status_code == 404
        assert api.get(f"/jobs/{begun}").status_code == 200
    assert "No model named 'gone'" in mint("ask", "gone", "hello", fails=True)
    stack.make_policy("gone")
    mint("policy", "rm", "gone")


def test_tinkers_empty_runs_are_removed_together(stack, mint):
    name = f"ses_{'a' * 26}.train.1"
    stack.make_policy(name)
    stack.make_policy("still-empty")
    assert name in mint("policy", "rm", "--empty-runs")
    names = [row["name"] for row in json.loads(mint("policy", "list", "--json"))]
    assert name not in names
    assert "still-empty" in names
    mint("policy", "rm", "still-empty")


def test_files_are_listed_and_removed(stack, mint):
    headers = {"authorization": f"Bearer {stack.key}"}
    sent = {"files": {"file": ("rows.jsonl", b'{"text": "a"}')}, "data": {"purpose": "fine-tune"}}
    file = httpx.post(f"{stack.url}/v1/files", headers=headers, **sent).json()["id"]
    assert file in mint("file", "list")
    assert mint("file", "rm", file) == f"removed {file}\n"
    assert file not in mint("file", "list")


def test_whoami_and_what_answered(stack, mint):
    found = json.loads(mint("whoami", "--json"))
    assert (found["stack"], found["tenant_id"]) == (stack.url, stack.tenant_id)
    assert found["scopes"][:3] == ["read", "infer", "train"]
    (answer,) = json.loads(mint("ask", "counter@1", "-", "--json", stdin="hello"))
    assert (answer["by"], answer["revision"][:7]) == ("counter@1", "sha256:")
    (latest,) = json.loads(mint("ask", "counter@latest", "hello", "--json"))
    assert latest["by"].startswith("counter@")
    asked = CliRunner().invoke(app, ["ask", "counter", "xyzzy", "plugh", "hello"])
    assert 'mint ask counter "xyzzy plugh hello"' in asked.stderr
