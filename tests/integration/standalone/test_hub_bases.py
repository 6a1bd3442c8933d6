"""Bases of a model hub, through the real huggingface_hub against a hub of our own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from mint_common.adapters_format import BaseFacts, read_base_facts
from mint_common.errors import InvalidField, MintError
from services.standalone.adapters import base_import
from services.standalone.adapters.bases import add_base, shape_of, tiny_folder
from services.standalone.core.refusals import (
    BaseNameTakenError,
    HubRefusedError,
    HubUnreachableError,
    NoRoomError,
)
from tests.integration.standalone.model_hub import ModelHub, Repository, running_hub, sha256

pytestmark = pytest.mark.integration
REPO = "Org/Tiny-0.5B"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def changed(**fields: object) -> bytes:
    """Return the tiny base's config with other fields."""
    return json.dumps({**json.loads((tiny_folder() / "config.json").read_text()), **fields}).encode()


def make_model(folder: Path, dtype: torch.dtype = torch.bfloat16, *, scale: float = 1.0) -> Path:
    """Make the tiny base's model of another dtype, in two files."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(tiny_folder() / name, folder)
    shutil.copy(tiny_folder() / "chat_template.jinja", folder)
    config = json.loads((folder / "config.json").read_text())
    stored = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps({**config, "dtype": stored}))
    tensors = {
        name: (scale * tensor).to(dtype)
        for name, tensor in load_file(tiny_folder() / "model.safetensors").items()
    }
    names = sorted(tensors)
    placed = {name: FIRST if index % 2 else SECOND for index, name in enumerate(names)}
    for file in (FIRST, SECOND):
        save_file({name: tensors[name] for name in names if placed[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def model_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """Run a hub with one model, which the library speaks to, with a cache of its own."""
    with running_hub() as served:
        served.repository(REPO).commit(make_model(tmp_path / "model"))
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


def add(
    tmp_path: Path, source: str = REPO, *, name: str = "tiny-b", told: list[str] | None = None
) -> BaseFacts:
    """Add a base, noting what is told."""
    said = told if told is not None else []
    return add_base(tmp_path / "bases", source, name=name, max_rank=8, report=said.append)


def refused(tmp_path: Path, source: str = REPO, *, kind: type[MintError] = HubRefusedError) -> str:
    """Return why a source is refused; nothing of it is left among the bases."""
    with pytest.raises(kind) as caught:
        add(tmp_path, source)
    assert list((tmp_path / "bases").glob("*")) + list((tmp_path / "bases").glob(".*")) == []
    return str(caught.value)


def test_a_model_is_pinned_told_downloaded_and_linked_as_it_is(model_hub: ModelHub, tmp_path: Path) -> None:
    told: list[str] = []
    facts = add(tmp_path, told=told)
    commit = model_hub.repositories[REPO].branches["main"]
    place = tmp_path / "bases/tiny-b"
    assert read_base_facts(place) == facts
    assert (facts.architecture, facts.max_context, facts.quantization) == ("Qwen3ForCausalLM", 256, "")
    assert json.loads((place / "mint_source.json").read_text()) == {"source": f"{REPO}@{commit}"}
    for name in (FIRST, SECOND):
        assert sha256((place / name).read_bytes()) == sha256((tmp_path / "model" / name).read_bytes())
        assert (place / name).stat().st_nlink == 2
    assert {tensor.dtype for tensor in load_file(place / FIRST).values()} == {torch.bfloat16}
    assert {"chat_template.jinja", "generation_config.json", "tokenizer.json"} <= {
        path.name for path in place.iterdir()
    }
    text = "\n".join(told)
    assert commit in told[0]
    assert "3 layers, hidden size 128, 477 k parameters stored in bfloat16" in text
    assert "954 kB of weights" in text
    assert re.search(r"weights: 95\d kB in 2 files, 95\d kB of it to be downloaded", text)
    assert re.search(r"downloaded 95\d kB of 95\d kB", text)
    before = told.index(next(line for line in told if line.startswith("weights:")))
    assert not any("downloaded 95" in line for line in told[:before])


def test_the_same_folder_is_the_same_base(model_hub: ModelHub, tmp_path: Path) -> None:
    assert add(tmp_path).digest == add(tmp_path, str(tmp_path / "model"), name="copied").digest


def test_a_base_s_terms_go_with_it_and_are_no_part_of_its_digest(model_hub: ModelHub, tmp_path: Path) -> None:
    without = add(tmp_path)
    (tmp_path / "model/LICENSE").write_text("terms")
    model_hub.repositories[REPO].commit(tmp_path / "model")
    for name, source in (("of-hub", REPO), ("of-folder", str(tmp_path / "model"))):
        assert add(tmp_path, source, name=name).digest == without.digest
        assert (tmp_path / "bases" / name / "LICENSE").read_text() == "terms"


def test_what_is_there_already_is_not_downloaded_again(model_hub: ModelHub, tmp_path: Path) -> None:
    facts = add(tmp_path)
    model_hub.requests.clear()
    shutil.rmtree(tmp_path / "cache")
    assert add(tmp_path) == facts
    assert not [path for path in model_hub.downloads() if "/cdn/" in path]


def test_a_name_of_another_base_is_refused_before_weights_are_downloaded(
    model_hub: ModelHub, tmp_path: Path
) -> None:
    first = add(tmp_path)
    make_model(tmp_path / "other", scale=2.0)
    model_hub.repository("Org/Other").commit(tmp_path / "other")
    model_hub.requests.clear()
    with pytest.raises(BaseNameTakenError, match=str(first.digest)):
        add(tmp_path, "Org/Other")
    assert not [path for path in model_hub.downloads() if "/cdn/" in path]


def test_a_revision_is_a_branch_a_tag_or_a_commit(model_hub: ModelHub, tmp_path: Path) -> None:
    old = model_hub.repositories[REPO].branches["main"]
    new = model_hub.repositories[REPO].commit(make_model(tmp_path / "new", scale=2.0))
    at_main = add(tmp_path, name="a").digest
    model_hub.repositories[REPO].branches["v1"] = old
    at_tag = add(tmp_path, f"{REPO}@v1", name="b").digest
    assert (at_tag, at_main) == (
        add(tmp_path, f"{REPO}@{old}", name="c").digest,
        add(tmp_path, f"{REPO}@{new}", name="d").digest,
    )
    assert at_tag != at_main
    with pytest.raises(HubRefusedError, match="no branch, tag or commit 'v2'"):
        add(tmp_path, f"{REPO}@v2", name="e")


def test_a_download_that_breaks_is_continued_where_it_broke(
    model_hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    model_hub.breaks = [350_000]
    facts = add(tmp_path)
    ranges = [asked for _, path, asked in model_hub.requests if "/cdn/" in path and asked]
    assert ranges == ["bytes=300000-"]
    assert facts.digest == add(tmp_path, str(tmp_path / "model"), name="copied").digest


def test_content_that_is_not_what_is_listed_is_refused_and_alone_downloaded_again(
    model_hub: ModelHub, tmp_path: Path
) -> None:
    digest = sha256((tmp_path / "model" / FIRST).read_bytes())
    model_hub.spoilt = {digest}
    message = refused(tmp_path)
    assert f"{FIRST} has the digest" in message
    assert f"but {digest} is listed" in message
    model_hub.spoilt = set()
    model_hub.requests.clear()
    assert add(tmp_path).digest
    assert [path for path in model_hub.downloads() if "/cdn/" in path] == [f"/cdn/{digest}"]


def test_a_gated_model_says_what_to_do_and_a_token_opens_it(
    model_hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_hub.repositories[REPO].gated = True
    message = refused(tmp_path)
    assert f"is gated: accept its terms at {model_hub.url}/{REPO}, then set HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", model_hub.token)
    assert add(tmp_path).digest


def test_a_model_that_is_not_there_is_told(model_hub: ModelHub, tmp_path: Path) -> None:
    assert "there is no such model, nor such a folder here" in refused(tmp_path, "Org/Nothing")


@pytest.mark.parametrize("status", [403, 418])
def test_another_refusal_is_told(model_hub: ModelHub, tmp_path: Path, status: int) -> None:
    model_hub.status = status
    assert str(status) in refused(tmp_path)


def test_a_hub_that_is_not_there_is_told(
    model_hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9" in refused(tmp_path, kind=HubUnreachableError)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"config.json": None}, "config.json missing"),
        ({"tokenizer.json": None}, "tokenizer.json missing"),
        ({SECOND: None}, f"{SECOND} missing, which model.safetensors.index.json names"),
        ({"config.json": b'{"architectures": ["GPT2LMHeadModel"]}'}, "GPT2LMHeadModel"),
        ({"config.json": b"{"}, "config.json"),
        (
            {"config.json": changed(architectures=["NewForCausalLM"], model_type="new")},
            "transformers .* does not",
        ),
        (
            {"config.json": changed(architectures=["New"], model_type="new", auto_map={"AutoConfig": "a.B"})},
            "MinT runs no code that comes with a model",
        ),
        ({"config.json": changed(architectures=["Qwen3ForSequenceClassification"])}, "writes no text"),
        ({"config.json": changed(hidden_size="wide")}, "hidden_size"),
        ({"config.json": changed(model_type="kimi_k2")}, "write that of Qwen3ForCausalLM instead, 'qwen3'"),
        ({"config.json": changed(vocab_size=200)}, "has 259 tokens, and vocab_size of config.json is 200"),
        ({"tokenizer.json": b"{}"}, "is no tokenizer of a base"),
        (
            {FIRST: None, SECOND: None, "model.safetensors.index.json": None, "pytorch_model.bin": b"x"},
            r"pickles \(pytorch_model.bin\)",
        ),
        ({"model.safetensors.index.json": b"[]"}, "weight_map"),
    ],
)
def test_what_is_no_base_is_refused_before_weights_are_downloaded(
    model_hub: ModelHub, tmp_path: Path, changes: dict[str, bytes | None], problem: str
) -> None:
    folder = make_model(tmp_path / "spoilt")
    for name, data in changes.items():
        (folder / name).unlink(missing_ok=True) if data is None else (folder / name).write_bytes(data)
    model_hub.repositories["Org/Spoilt"] = Repository()
    model_hub.repositories["Org/Spoilt"].commit(folder)
    message = refused(tmp_path, "Org/Spoilt", kind=InvalidField)
    assert re.search(problem, message)
    assert not [path for path in model_hub.downloads() if "/cdn/" in path]
    assert re.search(problem, refused(tmp_path, str(folder), kind=InvalidField))


def test_a_disk_too_small_for_the_download_is_told_with_numbers(
    model_hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(base_import.shutil, "disk_usage", lambda _place: usage)
    message = refused(tmp_path, kind=NoRoomError)
    assert re.search(r"The download needs 95\d kB, and .* has 100 kB free. Free 85\d kB there", message)
    assert not [path for path in model_hub.downloads() if "/cdn/" in path]


def test_weights_that_cannot_be_linked_are_copied_and_that_is_told(
    model_hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cross_device(*_arguments: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", cross_device)
    told: list[str] = []
    add(tmp_path, told=told)
    assert (tmp_path / "bases/tiny-b" / FIRST).stat().st_nlink == 1
    assert any(re.match(r"copying 95\d kB of weights: .* cannot be linked", line) for line in told)


def test_the_command_takes_the_hub_from_the_environment(model_hub: ModelHub, tmp_path: Path) -> None:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MINT_"))},
        "HF_ENDPOINT": model_hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    module = [sys.executable, "-P", "-m", "services.standalone"]
    command = [*module, "base", "add", REPO, "--no-probe", "--dir", str(tmp_path)]
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert read_base_facts(tmp_path / "bases/tiny-0-5b").architecture == "Qwen3ForCausalLM"
    assert list((tmp_path / "home/hub/models--Org--Tiny-0.5B/snapshots").iterdir())


def test_offline_the_cache_is_all_there_is(
    model_hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not in the cache, and HF_HUB_OFFLINE forbids" in refused(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    digest = add(tmp_path).digest
    model_hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert add(tmp_path, name="again").digest == digest
    assert model_hub.requests == []


def test_the_shape_of_a_model_takes_its_config_alone(model_hub: ModelHub, tmp_path: Path) -> None:
    assert shape_of(tmp_path / "bases", REPO).parameters == 477_248
    (path,) = model_hub.downloads()
    assert path.endswith("/config.json")
