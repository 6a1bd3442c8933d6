"""Where revisions come from and what they differ in, over the public API."""

import json

import pytest
from typer.testing import CliRunner

from mint_client.cli import app

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def traced(stack):
    return stack.make_policy("traced", revisions=3)


@pytest.fixture
def mint(stack, traced):
    with stack.client() as client:
        yield client


def test_a_line_goes_back_to_the_first_revision(mint):
    mint.put("/policies/traced/aliases/prod", json={"revision": 2}).raise_for_status()
    found = mint.get("/policies/traced/revisions/2/lineage").json()
    nodes = {node["number"]: node for node in found["nodes"]}
    assert (found["revision"], found["complete"], sorted(nodes)) == (2, True, [1, 2, 3])
    assert nodes[1]["parent"] is None
    assert nodes[3]["parent"] == nodes[2]["digest"]
    assert nodes[2]["aliases"] == ["prod"]
    assert mint.get("/policies/traced/revisions/99/lineage").status_code == 404


def test_a_lineage_goes_as_far_as_was_asked(mint):
    def reached(**steps) -> tuple[dict[int, int], bool]:
        found = mint.get("/policies/traced/revisions/1/lineage", params=steps).json()
        return {node["number"]: node["distance"] for node in found["nodes"]}, found["complete"]

    assert reached(descendants=9) == ({1: 0, 2: 1, 3: 2}, True)
    assert reached() == ({1: 0, 2: 1}, False)
    assert reached(descendants=0) == ({1: 0}, False)
    refused = mint.get("/policies/traced/revisions/1/lineage", params={"descendants": 1001})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "descendants")


def test_a_revision_is_compared_with_its_parent_or_with_any_other(stack, mint):
    score = {"revision": 2, "suite": "held-out", "metric": "accuracy", "value": 0.5, "n": 4}
    mint.post("/policies/traced/evaluations", json=score).raise_for_status()
    sure = mint.post("/policies/traced/evaluations", json={**score, "stderr": 0.25}).json()
    assert sure["stderr"] == 0.25
    assert mint.post("/policies/traced/evaluations", json={**score, "stderr": -1}).status_code == 422
    found = mint.get("/policies/traced/revisions/2/diff").json()
    assert (found["before"]["number"], found["after"]["number"]) == (1, 2)
    changed = {change["field"]: (change["before"], change["after"]) for change in found["config"]}
    assert changed["step"] == ("1", "2")
    assert {"name": "held-out/accuracy", "before": None, "after": 0.5} in found["scores"]
    assert {module["module"] for module in found["modules"]} == set(stack.facts.modules)
    for module in found["modules"]:
        assert min(module["before"], module["after"], module["change"]) > 0
    mint.post("/policies/traced/evaluations", json={**score, "value": 0.75}).raise_for_status()
    again = mint.get("/policies/traced/revisions/2/diff").json()
    assert {"name": "held-out/accuracy", "before": None, "after": 0.75} in again["scores"]
    assert (again["modules"], again["config"]) == (found["modules"], found["config"])
    itself = mint.get("/policies/traced/revisions/2/diff", params={"against": "2"}).json()
    assert itself["config"] == []
    assert all(module["change"] == pytest.approx(0, abs=1e-5) for module in itself["modules"])
    first = mint.get("/policies/traced/revisions/1/diff")
    assert (first.status_code, first.json()["error"]["field"]) == (422, "against")
    assert mint.get("/policies/traced/revisions/2/diff", params={"against": "99"}).status_code == 404


def test_the_commands_print_both(stack, mint, monkeypatch):
    monkeypatch.setenv("MINT_URL", stack.url)
    monkeypatch.setenv("MINT_API_KEY", stack.key)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["revision", *arguments])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    printed = run("diff", "traced", "3", "1")
    assert printed.count("norm of model.layers.") == min(8, len(stack.facts.modules))
    assert len(json.loads(run("diff", "traced", "3", "--json"))["modules"]) == len(stack.facts.modules)
    assert len(run("lineage", "traced", "3").splitlines()) == 4
    assert len(run("lineage", "traced", "3", "--ancestors", "1").splitlines()) == 3
    assert len(run("lineage", "traced", "1", "--descendants", "2").splitlines()) == 4
