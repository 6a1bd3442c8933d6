"""A revision leaves as PEFT reads it, the same bytes every time, and comes back as the same revision."""

import hashlib
import io
import json
import tarfile

import pytest
from peft import PeftConfig
from safetensors.numpy import load
from typer.testing import CliRunner

from mint_client.cli import app
from mint_common.errors import AlreadyExists

pytestmark = pytest.mark.integration

PATH = "/policies/leaving/revisions/1/adapter.tar"


@pytest.fixture(scope="module")
def leaving(stack):
    return stack.make_policy("leaving", revisions=2)


def test_a_tar_has_the_files_that_it_tells_of(stack, leaving) -> None:
    with stack.client() as mint:
        answer = mint.get(PATH).raise_for_status()
        record = mint.get("/policies/leaving/revisions/1").json()
        assert mint.get(PATH).content == answer.content
        other = mint.get(f"/policies/{leaving.policy_id}/revisions/{leaving.latest.digest}/adapter.tar")
    assert answer.headers["x-mint-revision"] == record["digest"]
    assert int(answer.headers["content-length"]) == len(answer.content)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    told = dict(each.split("=") for each in answer.headers["x-mint-sha256"].split(", "))
    assert told == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert load(files["adapter_model.safetensors"])
    assert other.headers["x-mint-revision"] == leaving.latest.digest != record["digest"]


def test_a_retired_revision_may_leave_too(stack, leaving) -> None:
    with stack.client() as mint:
        mint.post("/policies/leaving/revisions/1/retire").raise_for_status()
        assert mint.get(PATH).status_code == 200
        mint.post("/policies/leaving/revisions/1/restore").raise_for_status()
        assert mint.get("/policies/leaving/revisions/9/adapter.tar").status_code == 404
    with stack.client(key=stack.other_key) as other:
        assert other.get(PATH).status_code == 404
        assert other.get(f"/policies/{leaving.policy_id}/revisions/1/adapter.tar").status_code == 404


def test_the_command_writes_what_peft_reads_and_the_upload_takes(
    stack, leaving, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("MINT_URL", stack.url)
    monkeypatch.setenv("MINT_API_KEY", stack.key)

    def mint(*arguments: str) -> dict[str, object]:
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        return json.loads(done.stdout)

    folder = tmp_path / "taken"
    found = mint("revision", "download", "leaving", "1", "--out", str(folder))
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert PeftConfig.from_pretrained(folder).r == 2
    mint("policy", "create", "coming-back", "--base", "tiny", "--rank", "2")
    assert mint("revision", "upload", "coming-back", str(folder))["digest"] == found["digest"]
    again = CliRunner().invoke(app, ["revision", "download", "leaving", "1", "--out", str(folder)])
    assert isinstance(again.exception, AlreadyExists)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"], "no draft stays"
