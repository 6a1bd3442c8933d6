"""`mint policy import` and `mint revision push` against a real gateway, and huggingface_hub's own client."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner, Result

from mint_client.cli import app
from mint_client.core.refusals import AdaptersRefusedError, LocalFailureError
from mint_common.adapters_format import CONFIG_FILE, WEIGHTS_FILE, peft_name
from mint_common.adapters_format.tensor_file import write_tensors
from mint_common.errors import InvalidField
from tests.integration.gateway.test_uploads import tensors
from tests.integration.standalone.model_hub import running_hub

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def place(stack: Any, counter: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MINT_URL", stack.url)
    monkeypatch.setenv("MINT_API_KEY", stack.key)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mint(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def said(*arguments: str | Path) -> str:
    result = mint(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def save(stack: Any, folder: Path, *, seed: int = 0, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / WEIGHTS_FILE).write_bytes(write_tensors(tensors(stack, seed=seed)))
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "org/Tiny", **config}
    (folder / CONFIG_FILE).write_text(json.dumps(values))
    (folder / "README.md").write_text("a card")
    return folder


def test_a_folder_and_a_tar_become_policies(stack: Any, place: Any) -> None:
    folder = save(stack, place / "adapter")
    made = json.loads(said("policy", "import", "one", folder, "--json"))
    assert (made["base"], made["lora"]["rank"], made["lora"]["alpha"]) == ("tiny", 2, 4.0)
    assert made["latest"]["digest"] == made["revision"]["digest"]
    with tarfile.open(place / "adapter.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname="some/where")
    assert "two" in said("policy", "import", "two", place / "adapter.tar.gz", "--base", "tiny")
    again = json.loads(said("policy", "import", "one", place / "adapter.tar.gz", "--json"))
    assert again["revision"]["number"] == 1, "the same weights are the same revision"


def test_what_is_no_adapter_says_what_it_lacks(stack: Any, place: Any) -> None:
    save(stack, place / "many/one")
    (place / "broken.tar").write_bytes(b"no tar")
    (place / "pickled").mkdir()
    (place / "pickled" / CONFIG_FILE).write_text("{}")
    (place / "pickled/adapter_model.bin").write_bytes(b"\x80")
    for source, sentence in (
        ("nowhere", "no such folder or tar"),
        ("many", "take all of them with --all"),
        ("broken.tar", "is no tar, or is cut off"),
        ("pickled", "save it again with safe_serialization=True"),
    ):
        error = mint("policy", "import", "never", source).exception
        assert isinstance(error, LocalFailureError), source
        assert sentence in str(error)
    assert isinstance(mint("policy", "import", "never").exception, InvalidField)
    assert isinstance(
        mint("policy", "import", "--all", "many", "--base", "huge").exception, AdaptersRefusedError
    )


def test_thousands_go_on_past_a_bad_one_and_where_they_stopped(stack: Any, place: Any) -> None:
    for number in range(6):
        save(stack, place / f"all/Team A/run_{number}", seed=number)
    save(stack, place / "all/team-a/run_5", seed=5)
    (place / "all/Team A/run_2" / CONFIG_FILE).write_text('{"peft_type": "IA3"}')
    (place / "all/Team A/run_3" / WEIGHTS_FILE).write_bytes(b"cut")
    first = mint("policy", "import", "--all", "all")
    assert isinstance(first.exception, AdaptersRefusedError), first
    assert str(first.exception) == "Refused adapters: 3. Imported now: 4. mint-import.jsonl names each."
    assert "Team A/run_2: Upload refused (other_method): IA3 scales activations" in first.stderr
    report = [json.loads(line) for line in Path("mint-import.jsonl").read_text().splitlines()]
    assert {row["adapter"]: row.get("error") for row in report} == {
        **{f"Team A/run_{number}": None for number in (0, 1, 4, 5)},
        "Team A/run_2": "upload_refused.other_method",
        "Team A/run_3": "upload_refused.not_safetensors",
        "team-a/run_5": "invalid_field",
    }
    for path in ("Team A/run_2", "Team A/run_3", "team-a/run_5"):
        for file in (place / "all" / path).iterdir():
            file.unlink()
    save(stack, place / "all/Team A/run_6", seed=6)
    rest = json.loads(said("policy", "import", "--all", "all", "--json"))
    assert (rest["adapters"], rest["imported before"], rest["imported"]) == (5, 4, 1)
    assert "team-a-run_6" in said("policy", "list", "--trained")


def test_an_adapter_that_changed_is_imported_again(stack: Any, place: Any) -> None:
    folder = save(stack, place / "changing/it")
    said("policy", "import", "--all", "changing")
    (folder / WEIGHTS_FILE).write_bytes(write_tensors(tensors(stack, seed=9)))
    assert json.loads(said("policy", "import", "--all", "changing", "--json"))["imported"] == 1
    assert json.loads(said("policy", "show", "it", "--json"))["latest"]["number"] == 2


def test_adapters_of_a_bucket_in_folders_and_tars(
    stack: Any, place: Any, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    bucket, source = boto3.client("s3"), f"s3://{s3_server.bucket}/teams"
    for name, seed in (("first", 21), ("second", 22)):
        for file in save(stack, place / name, seed=seed).iterdir():
            bucket.upload_file(str(file), s3_server.bucket, f"teams/a/{name}/{file.name}")
    with tarfile.open(place / "third.tar", "w") as archive:
        archive.add(save(stack, place / "third", seed=23), arcname="third")
    bucket.upload_file(str(place / "third.tar"), s3_server.bucket, "teams/third.tar")
    bucket.put_object(Bucket=s3_server.bucket, Key="teams/cut.tar", Body=b"no tar")
    refused = mint("policy", "import", "--all", source)
    assert isinstance(refused.exception, AdaptersRefusedError), refused.exception
    assert f"{source}/cut.tar: is no tar, or is cut off" in refused.stderr
    report = [json.loads(line) for line in Path("mint-import.jsonl").read_text().splitlines()]
    taken = {row["adapter"]: row.get("policy") for row in report if "error" not in row}
    assert taken == {"a/first": "a-first", "a/second": "a-second", "third.tar": "third"}
    bucket.delete_object(Bucket=s3_server.bucket, Key="teams/cut.tar")
    again = json.loads(said("policy", "import", "--all", source, "--json"))
    assert (again["imported before"], again["imported"]) == (3, 0)
    absent = mint("policy", "import", "--all", "s3://absent-bucket/teams").exception
    assert isinstance(absent, LocalFailureError)
    assert "s3://absent-bucket/teams" in str(absent)


def on_the_hub(hub_url: str, token: str, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `mint` as a process: huggingface_hub reads its endpoint when it is imported."""
    environ = {**os.environ, "HF_ENDPOINT": hub_url, "HF_TOKEN": token, "HF_HOME": str(place / "hf")}
    environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = (sys.executable, "-m", "mint_launcher", *arguments)
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)


def test_from_a_hub_and_back(stack: Any, place: Any) -> None:
    with running_hub() as hub:
        hub.repository("org/support-lora").commit(save(stack, place / "adapter"))
        hub.repository("org/gated").commit(place / "adapter")
        hub.repository("org/gated").gated = True
        done = on_the_hub(
            hub.url, hub.token, place, "policy", "import", "support", "hf:org/support-lora", "--json"
        )
        assert done.returncode == 0, done.stderr
        digest = json.loads(done.stdout)["latest"]["digest"]
        assert "a card" not in str(hub.downloads())
        for name, sentence in (("org/absent", "is not there, or is private"), ("org/gated", "is gated")):
            refused = on_the_hub(hub.url, "hf_wrong", place, "policy", "import", "no", f"hf:{name}")
            assert (refused.returncode, sentence in refused.stderr) == (1, True), refused.stderr
        pushed = on_the_hub(
            hub.url, hub.token, place,
            "revision", "push", "support", "latest", "hf:org/new-lora", "--base-model", "org/Tiny", "--json",
        )  # fmt: skip
        assert pushed.returncode == 0, pushed.stderr
        files = hub.repository("org/new-lora").commits[json.loads(pushed.stdout)["commit"]]
        assert set(files) == {"README.md", CONFIG_FILE, WEIGHTS_FILE}
        assert json.loads(files[CONFIG_FILE])["base_model_name_or_path"] == "org/Tiny"
        assert digest in files["README.md"].decode()
        again = on_the_hub(
            hub.url, hub.token, place, "policy", "import", "again", "hf:org/new-lora", "--json"
        )
        assert json.loads(again.stdout)["latest"]["digest"] == digest


def test_a_pushed_folder_has_a_card_with_the_scores(stack: Any, place: Any) -> None:
    said("policy", "import", "scored", save(stack, place / "adapter"))
    said("eval", "record", "scored", "1", "math", "accuracy", "0.5", "--n", "8")
    said("revision", "push", "scored", "1", "out")
    card = Path("out/README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")
    assert "| math | accuracy | 0.5 | 8 |" in card
    assert stack.facts.digest in card
    assert mint("revision", "push", "scored", "1", "out").exit_code == 1, "a folder is never overwritten"
    assert peft_name(next(iter(stack.facts.modules)), "A").encode() in Path("out", WEIGHTS_FILE).read_bytes()
