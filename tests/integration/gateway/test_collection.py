"""Collection through the public API: by an operator, and only while engines say what they hold."""

import pytest
from typer.testing import CliRunner

from mint_client.cli import app
from tests.integration.gateway.scripted_loader import ready_status
from tests.integration.gateway.test_governance import refusal

pytestmark = pytest.mark.integration


@pytest.fixture
def mint(stack):
    with stack.client() as client:
        yield client


def collected(mint, policy_id: str, *, dry_run: bool = True) -> list[tuple[str, str]]:
    answer = mint.post("/gc", json={"dry_run": dry_run, "limit": 1000}).json()
    return [(item["kind"], item["what"]) for item in answer["items"] if item["policy_id"] == policy_id]


def test_operator_collects_what_no_engine_holds(stack, mint, monkeypatch):
    policy = stack.make_policy("collected", revisions=4)
    digests = {}
    for number in (1, 2):
        retired = mint.post(f"/policies/collected/revisions/{number}/retire").json()
        digests[number] = retired["digest"]
    stack.loader.resident = [ready_status(digests[1])]

    assert collected(mint, policy.policy_id) == [("bytes", "collected@2")]
    monkeypatch.setenv("MINT_URL", stack.url)
    monkeypatch.setenv("MINT_API_KEY", stack.key)
    assert "collected@2" in CliRunner().invoke(app, ["gc"]).output
    assert mint.get("/policies/collected/revisions/2").json()["fault"] is None
    assert "bytes collected@2" in CliRunner().invoke(app, ["gc", "--remove"]).output

    assert mint.get("/policies/collected/revisions/2").json()["fault"] == "collected"
    restore = mint.post("/policies/collected/revisions/2/restore")
    assert refusal(restore) == (404, "revision_lost")
    assert mint.post("/policies/collected/revisions/1/restore").json()["state"] == "published"
    assert collected(mint, policy.policy_id) == []
    stack.loader.resident = []


def test_only_an_operator_collects(stack):
    with stack.client(key=stack.other_key) as admin:
        assert refusal(admin.post("/gc", json={})) == (403, "forbidden")
