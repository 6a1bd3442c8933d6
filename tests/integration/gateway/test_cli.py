"""The catalog's commands against a real gateway: tables for people, JSON for programs."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from typer.testing import CliRunner

from mint_client.cli import app
from mint_client.core.refusals import AddressIncompleteError
from mint_common.adapters_format import CONFIG_FILE, WEIGHTS_FILE
from mint_common.errors import MintError
from tests.testing.adapters import make_adapter

pytestmark = pytest.mark.integration


@pytest.fixture
def mint(stack, counter, monkeypatch):
    monkeypatch.setenv("MINT_URL", stack.url)
    monkeypatch.setenv("MINT_API_KEY", stack.key)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    return run


def refusal(*arguments: str) -> MintError:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, MintError), result
    return result.exception


def test_policy_from_its_creation_to_a_rollback(stack, mint, tmp_path):
    assert "by-hand" in mint("policy", "create", "by-hand", "--base", "tiny", "--rank", "2")
    assert mint("revision", "list", "by-hand") == "no revision yet\n"
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = make_adapter(stack.facts, seed=number, rank=2).files
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            (folder / name).write_bytes(files[name])
        made = json.loads(mint("revision", "upload", "by-hand", str(folder), "--step", str(number), "--json"))
        assert (made["number"], made["step"]) == (number, number)
        mint("alias", "move", "by-hand", "prod", str(number), "--reason", f"upload {number}")
    assert json.loads(mint("alias", "list", "by-hand", "--json"))[0]["revision"]["number"] == 2
    mint("rollback", "by-hand", "--reason", "worse")
    history = mint("alias", "history", "by-hand", "prod")
    assert [line.split()[:2] for line in history.splitlines()[1:]] == [["3", "1"], ["2", "2"], ["1", "1"]]
    assert "worse" in history
    assert refusal("revision", "retire", "by-hand", "1").code == "revision_in_use"
    assert "retired" in mint("revision", "retire", "by-hand", "2")
    assert "published" in mint("revision", "restore", "by-hand", "2")
    assert "yes\t\tadmin,rule" in mint("alias", "protect", "by-hand", "prod").replace(", ", ",")
    assert "yes" not in mint("alias", "protect", "by-hand", "prod", "--off")
    assert json.loads(mint("alias", "freeze", "by-hand", "prod", "--json"))["moved_by"] == ["train", "admin"]
    assert json.loads(mint("alias", "unfreeze", "by-hand", "prod", "--json"))["frozen"] is False


def test_governance_of_a_policy(mint):
    made = ("policy", "create", "governed", "--base", "tiny", "--rank", "2", "--label", "team=search")
    mint(*made, "--description", "For the tests.")
    changed = ("--label", "trial=cli", "--unlabel", "team", "--keep-last", "3", "--json")
    policy = json.loads(mint("policy", "change", "governed", *changed))
    assert policy["labels"] == {"trial": "cli"}
    assert (policy["description"], policy["retention"]["keep_last"]) == ("For the tests.", 3)
    changed = json.loads(mint("policy", "change", "governed", "--keep-days", "9", "--json"))
    assert changed["retention"] == {"keep_last": 3, "keep_days": 9}
    assert json.loads(mint("policy", "change", "governed", "--keep-all", "--json"))["retention"] == {
        "keep_last": None,
        "keep_days": None,
    }
    listed = json.loads(mint("policy", "list", "--base", "tiny", "--label", "trial=cli", "--json"))
    assert [found["name"] for found in listed] == ["governed"]
    assert refusal("policy", "change", "governed", "--label", "x").code == "invalid_field"

    created = CliRunner().invoke(
        app, ["rule", "create", "governed", "s", "m", "0.5", "--roll-back-below", "0.1", "--json"]
    )
    assert "no revision of this policy has a score of 'm' in suite 's' yet" in created.stderr
    rule = json.loads(created.stdout)
    assert "0.5" in mint("rule", "list", "governed")
    for verb, is_paused in (("pause", True), ("resume", False)):
        assert json.loads(mint("rule", verb, "governed", rule["rule_id"], "--json"))["paused"] is is_paused
    mint("rule", "remove", "governed", rule["rule_id"])
    assert mint("rule", "list", "governed") == "no rule yet\n"

    tenant = json.loads(mint("tenant", "create", "by-cli", "--json"))
    assert "by-cli" in mint("tenant", "list", "--limit", "1000")
    assert mint("tenant", "key", tenant["tenant_id"], "first").startswith("tml-")
    rows = json.loads(mint("audit", "--limit", "3", "--json"))
    assert rows[0]["path"].endswith("/keys")
    assert json.loads(mint("audit", "--before", str(rows[0]["place"]), "--limit", "2", "--json")) == rows[1:]


def test_engines_and_adapters_of_a_stack_elsewhere(stack, mint):
    assert f"gateway {stack.url} answers" in mint("status")
    assert "scripted" in mint("status")
    assert "scripted" in mint("top")
    mint("adapters")


def test_address_without_a_key_is_no_other_stack_s(mint, monkeypatch):
    monkeypatch.delenv("MINT_API_KEY")
    assert isinstance(refusal("policy", "list"), AddressIncompleteError)


def test_scores_keys_and_jobs(mint):
    assert "accuracy" in mint("eval", "record", "counter", "1", "held-out", "accuracy", "0.75", "--n", "8")
    assert json.loads(mint("eval", "list", "counter", "--json"))[-1]["value"] == 0.75
    key = mint("key", "create", "cli", "--scopes", "read").strip()
    (row,) = [row for row in json.loads(mint("key", "list", "--json")) if row["name"] == "cli"]
    assert key.startswith(row["shown"])
    assert mint("key", "rotate", row["key_id"]).strip() != key
    assert row["key_id"] in mint("key", "revoke", row["key_id"])
    mint("job", "list")


def test_revisions_are_named_by_number_alias_and_latest(mint):
    mint("alias", "move", "counter", "best", "2")
    mint("eval", "record", "counter", "best", "naming", "accuracy", "0.5", "--stderr", "0.1")
    (line,) = [each for each in mint("revision", "list", "counter").splitlines() if each.startswith("2\t")]
    assert "naming accuracy 0.500 ± 0.100" in line
    assert "best" in line
    shown = [
        json.loads(mint("revision", "show", "counter", rev, "--json"))["number"] for rev in ("2", "best")
    ]
    assert shown == [2, 2]
    latest = json.loads(mint("policy", "show", "counter", "--json"))["latest"]["number"]
    assert json.loads(mint("revision", "show", "counter", "latest", "--json"))["number"] == latest
    digest = json.loads(mint("revision", "show", "counter", "1", "--json"))["digest"]
    for rev in (digest, digest[:19]):
        assert json.loads(mint("revision", "show", "counter", rev, "--json"))["number"] == 1
    assert "'counter@sha256:'. There is: sha256:" in str(refusal("revision", "show", "counter", "sha256:"))
    diff = json.loads(mint("revision", "diff", "counter", "1", "best", "--json"))
    assert (diff["before"]["number"], diff["after"]["number"]) == (1, 2)
    assert "norm of" in mint("revision", "diff", "counter", "best")
    for text in (digest, digest[:23], f"chatcmpl-gen_{'a2' * 13}_{digest[7:23]}"):
        (found,) = json.loads(mint("revision", "find", text, "--json"))
        assert (found["policy"], found["revision"]["number"]) == ("counter", 1)
    assert mint("revision", "find", digest).splitlines()[-1].startswith("counter\t1\t")
    assert refusal("revision", "find", "chatcmpl-gen_none").code == "not_found"


def test_nearest_names_stand_in_the_message(mint):
    mint("alias", "move", "counter", "staging", "1")
    for arguments in (
        ("policy", "show", "countr"),
        ("revision", "list", "conter"),
        ("ask", "countr", "hello"),
        ("ask", "countr@prod", "hello"),
    ):
        assert "There is: counter." in str(refusal(*arguments))
    for arguments in (("revision", "show", "counter", "stagin"), ("adapters", "pin", "counter@stagin")):
        assert "There is: staging." in str(refusal(*arguments))
    rule = json.loads(mint("rule", "create", "counter", "near", "accuracy", "0.5", "--json"))["rule_id"]
    for wrong in (rule[:-2], "nonsense"):
        told = str(refusal("rule", "pause", "counter", wrong))
        assert rule in told.partition("There is: ")[2]
    assert rule in str(refusal("rule", "create", "counter", "near", "accuracy", "0.5"))
    mint("rule", "remove", "counter", rule)
    latest = json.loads(mint("policy", "show", "counter", "--json"))["latest"]["number"]
    for arguments in (("revision", "show", "counter", "999"), ("adapters", "pin", "counter@999")):
        told = f"No revision named 'counter@999'. There is: counter@{latest} (the latest)."
        assert str(refusal(*arguments)) == told


@pytest.mark.parametrize("more", [(), ("--policy", "brand-new")])
def test_rows_are_not_sent_for_a_base_that_is_unknown(mint, stack, tmp_path, more):
    rows = tmp_path / "unsent.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 2)
    refused = CliRunner().invoke(app, ["train", str(rows), "--base", "tny", *more])
    assert str(refused.exception) == "No base named 'tny'. There is: tiny."
    listed = httpx.get(f"{stack.url}/v1/files", headers={"authorization": f"Bearer {stack.key}"}).json()
    assert rows.name not in {file["filename"] for file in listed["data"]}


def test_several_models_are_asked_at_once_and_one_may_refuse(mint):
    asked = CliRunner().invoke(app, ["ask", "tiny", "counter@1", "countr", "hello"])
    assert asked.exit_code == 1
    answers = [line.split("\t") for line in asked.stdout.splitlines()]
    assert [row[0] for row in answers] == ["model", "tiny", "counter@1", "countr"]
    assert answers[1][2] == "base:tiny"
    assert answers[2][2] == "counter@1"
    assert asked.stderr == "countr: No model named 'countr'. There is: counter.\n"
    assert mint("ask", "tiny", "counter@1", "hello")
    assert mint("ask", "tiny", "hello").strip()
    assert mint("ask", "tiny", "hello", "--chat").strip()


def test_revision_is_scored_and_the_score_listed(mint):
    mint("alias", "move", "counter", "scored", "2")
    run = json.loads(mint("eval", "run", "counter@scored", "mode:copy", "--n", "4", "--json"))
    assert (run["state"], run["revision"]["number"], run["scored"]) == ("succeeded", 2, 4)
    assert json.loads(mint("eval", "cancel", run["run_id"], "--json"))["state"] == "succeeded"
    assert run["run_id"] in mint("eval", "runs")
    assert f"There is: {run['run_id']}" in str(refusal("eval", "cancel", run["run_id"][:-1]))
    assert "mode:copy\treward" in mint("eval", "list", "counter")
    assert "There is: mode:copy" in str(refusal("eval", "run", "counter", "mode:copi"))


def test_job_is_made_shown_and_listed_with_its_policy(mint):
    tasks = json.loads(mint("task", "list", "--json"))
    task = tasks[0]["name"]
    assert f"name\t{task}" in mint("task", "show", task)
    made = json.loads(mint("job", "create", "counter", task, "--steps", "2", "--json"))
    assert f"{made['job_id']}: counter on {task}: " in mint("job", "show", made["job_id"])
    (line,) = [each for each in mint("job", "list").splitlines() if made["job_id"] in each]
    assert line.split("\t")[1] == "counter"


@contextlib.contextmanager
def listening(stack, place) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "services.standalone", "events", "--place", str(place)]
    environ = {**os.environ, "MINT_URL": stack.url, "MINT_API_KEY": stack.key}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def moves_heard(process: subprocess.Popen[str], count: int) -> list[int]:
    """Return where the alias `heard` moved to; the stack's other tests are told of in between."""
    numbers: list[int] = []
    while len(numbers) < count:
        data = json.loads(process.stdout.readline())["data"]
        if data.get("alias") == "heard":
            numbers.append(data["revision"]["number"])
    return numbers


def test_events_go_on_where_the_last_run_stopped(stack, mint, tmp_path):
    place = tmp_path / "place"
    deadline = time.monotonic() + 60
    with listening(stack, place) as process:
        while not place.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        mint("alias", "move", "counter", "heard", "1")
        assert moves_heard(process, 1) == [1]
    for number in ("2", "3"):
        mint("alias", "move", "counter", "heard", number)
    with listening(stack, place) as process:
        heard = moves_heard(process, 2)
        if heard[0] == 1:  # killed after it told of the first, before it kept that place
            heard = [*heard[1:], *moves_heard(process, 1)]
        assert heard == [2, 3]


def test_refusal_is_the_gateways_own(mint, tmp_path):
    assert refusal("policy", "show", "nobody").code == "not_found"
    assert "adapter_model.safetensors" in str(refusal("revision", "upload", "counter", str(tmp_path)))
