"""A whole model leaves a running stack: a bfloat16 base with a revision in its weights, whatever breaks."""

import asyncio
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import numpy as np
import psutil
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from mint_client.adapters.public_api import PublicApi
from mint_client.cli import app
from mint_common.adapters_format import BASE_FILE, CONFIG_FILE, WEIGHTS_FILE, build_adapter
from mint_common.adapters_format.names import peft_name
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.errors import AlreadyExists, InvalidField
from mint_common.ids import BaseName
from services.standalone.adapters.base_description import describe_base
from tests.integration.gateway.conftest import BASE, TOKEN, Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PATH = "/policies/widened/revisions/1"
MERGED = f"{PATH}/merged.tar"
TEXTS = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
SECONDS = 120.0


def make_wide(folder: Path) -> Path:
    """Write a base of 90 MB in two files: more than what lies on the way between trainer and client."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=640,
        intermediate_size=1792,
        num_hidden_layers=10,
        num_attention_heads=10,
        num_key_value_heads=5,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="50MB")
    for name in TEXTS:
        shutil.copy(BASE / name, folder / name)
    facts = describe_base(folder, name="wide", max_rank=8)
    (folder / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    (folder / "notes.txt").write_text("of the operator alone")
    return folder


@pytest.fixture(scope="module")
def wide(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack with a trainer of the base `wide`, and a policy over it with two revisions."""
    folder = make_wide(tmp_path_factory.mktemp("bases") / "wide")
    environ = {
        **stack.environ,
        "MINT_TRAINER_BASE_DIR": str(folder),
        "MINT_HTTP_DRAIN_SECONDS": "3600",
        "MINT_PEERS_TRAINER_URLS": f"http://127.0.0.1:{stack.environ['MINT_TRAINER_HTTP_PORT']}",
    }
    facts = describe_base(folder, name="wide", max_rank=8)
    wide = replace(stack, environ=environ, facts=facts)
    try:
        wide.kill("gateway")
        wide.start("gateway")
        wide.start("trainer")
        upload(wide, tmp_path_factory.mktemp("adapters"))
        yield wide
    finally:
        if "trainer" in stack.processes:
            stack.kill("trainer")
            del stack.processes["trainer"]
        stack.kill("gateway")
        stack.start("gateway")


def upload(wide: Stack, folder: Path) -> None:
    """Publish two revisions whose updates are some three tenths of the base's weights."""
    random = np.random.default_rng(0)
    policy = wide.make_policy("widened")
    for step in (1, 2):
        tensors = {}
        for module, (width, height) in wide.facts.modules.items():
            tensors[peft_name(module, "A")] = random.normal(0, 0.065, (2, width)).astype(np.float32)
            tensors[peft_name(module, "B")] = random.normal(0, 0.065, (height, 2)).astype(np.float32)
        files = build_adapter(
            facts=wide.facts, policy_id=policy.policy_id, step=step, parent=None, rank=2, tensors=tensors
        )
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            (folder / name).write_bytes(files.files[name])
        with PublicApi(wide.url, wide.key) as api:
            api.upload("/policies/widened/revisions", folder, {"step": step}, lambda *_: None)


@pytest.fixture(scope="module")
def whole(wide: Stack) -> httpx.Response:
    """The whole tar."""
    with wide.client() as mint:
        return mint.get(MERGED, timeout=SECONDS).raise_for_status()


def unpack(content: bytes, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def merging(wide: Stack) -> list[psutil.Process]:
    """Return the processes that make tars now."""
    found = []
    for each in psutil.Process(wide.processes["trainer"].pid).children():
        with suppress(psutil.NoSuchProcess):  # it ends meanwhile, or is not reaped yet
            found += [each] if "mint_common.adapters_format.merged_tar" in each.cmdline() else []
    return found


def wait_until_nothing_is_merged(wide: Stack) -> None:
    deadline = time.monotonic() + SECONDS
    while merging(wide):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def begun(
    mint: httpx.Client, headers: dict[str, str] | None = None, path: str = MERGED
) -> Iterator[httpx.Response]:
    """Begin a download. An earlier one counts until its process, of the lowest priority, is reaped."""
    deadline = time.monotonic() + SECONDS
    while True:
        with mint.stream("GET", path, headers=headers) as answer:
            if answer.status_code != 429 or time.monotonic() > deadline:
                yield answer
                return
        time.sleep(0.1)


def test_the_model_computes_what_base_and_adapter_do_together(wide, whole, tmp_path) -> None:
    base = Path(wide.environ["MINT_TRAINER_BASE_DIR"])
    with wide.client() as mint:
        adapter = unpack(mint.get(f"{PATH}/adapter.tar").content, tmp_path / "adapter")
        record = mint.get(PATH).json()
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert whole.headers["x-mint-revision"] == record["digest"]
    merged = unpack(whole.content, tmp_path / "merged")
    shards = {path.name: path.stat().st_size for path in base.glob("*.safetensors")}
    assert len(shards) == 2
    assert {name: (merged / name).stat().st_size for name in shards} == shards
    of_transformers = {"config.json", "generation_config.json", "model.safetensors.index.json"}
    assert set(names(merged)) == {*shards, *TEXTS, *of_transformers}, "nothing else of the operator's folder"
    assert all((merged / name).read_bytes() == (base / name).read_bytes() for name in (*TEXTS, "config.json"))

    as_it_is = AutoModelForCausalLM.from_pretrained(merged)
    assert as_it_is.dtype is torch.bfloat16
    ids = torch.tensor([AutoTokenizer.from_pretrained(merged)("What leaves?").input_ids])
    with torch.no_grad():
        ours = as_it_is.float()(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        before = plain(ids).logits
        theirs = PeftModel.from_pretrained(plain, adapter)(ids).logits
    # A merged weight is rounded once to 8 bits: 2^-9 of it, in a product whose terms' errors cancel in part.
    assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()
    assert (ours - before).abs().max() > 0.2 * theirs.abs().max()


def test_every_target_is_the_sum_rounded_once(wide, whole, tmp_path) -> None:
    base = Path(wide.environ["MINT_TRAINER_BASE_DIR"])
    merged = unpack(whole.content, tmp_path / "merged")
    with wide.client() as mint:
        adapter = unpack(mint.get(f"{PATH}/adapter.tar").content, tmp_path / "adapter")
    lora = load_file(adapter / "adapter_model.safetensors")
    for shard in base.glob("*.safetensors"):
        before, after = load_file(shard), load_file(merged / shard.name)
        assert before.keys() == after.keys()
        for name, weight in before.items():
            halves = [f"base_model.model.{name[:-7]}.lora_{half}.weight" for half in "AB"]
            if halves[0] in lora:
                a, b = (lora.pop(half) for half in halves)
                exact = weight.double() + b.double() @ a.double()
                half_a_step = 2.0 ** (torch.floor(torch.log2(exact.abs())) - 8)
                of_float32 = 2.0**-22 * (weight.double().abs() + b.double().abs() @ a.double().abs())
                assert ((after[name].double() - exact).abs() <= half_a_step + of_float32).all(), name
            else:
                assert torch.equal(after[name], weight), name
    assert not lora, "every tensor of the adapter is in the model"


def test_a_download_goes_on_at_any_byte(wide, whole) -> None:
    content, tag = whole.content, whole.headers["etag"]
    total = len(content)
    with wide.client() as mint:
        for begin in (1, 511, 4096, total // 2, total - 1):
            with begun(mint, {"range": f"bytes={begin}-", "if-range": tag}) as answer:
                assert answer.status_code == 206
                assert answer.headers["content-range"] == f"bytes {begin}-{total - 1}/{total}"
                assert answer.read() == content[begin:]
        for headers in (
            {"range": f"bytes={total // 2}-", "if-range": '"another"'},
            {"range": "bytes=-100"},
            {"range": "bytes=0-"},
            {"range": "lines=7-"},
        ):
            with begun(mint, headers) as answer:
                assert (answer.status_code, int(answer.headers["content-length"])) == (200, total), headers
            wait_until_nothing_is_merged(wide)
        for begin in (total, 10**17):
            with begun(mint, {"range": f"bytes={begin}-"}) as beyond:
                error = json.loads(beyond.read())["error"]
                assert (beyond.status_code, error["code"]) == (416, "range_beyond")
                assert beyond.headers["content-range"] == f"bytes */{total}"
        second = "/policies/widened/revisions/2/merged.tar"
        with begun(mint, {"range": f"bytes={total - 1}-"}, second) as other:
            assert other.headers["etag"] != tag
    wait_until_nothing_is_merged(wide)


def test_curl_goes_on_as_the_documentation_says(wide, whole, tmp_path) -> None:
    documented = Path("docs/reference/adapter-format.md").read_text().splitlines()
    (line,) = [each for each in documented if each.startswith("curl ") and each.endswith("/merged.tar")]
    environ = {"PATH": os.environ["PATH"], "MINT_URL": wide.url, "MINT_API_KEY": wide.key}

    def run(policy: str) -> int:
        command = line.replace("POLICY", policy).replace("NUMBER", "1")
        return subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environ, check=False).returncode

    file = tmp_path / "merged.tar"
    file.write_bytes(whole.content[: len(whole.content) // 3])
    assert run("unheard-of") != 0
    assert file.stat().st_size == len(whole.content) // 3, "no text of an error is appended"
    for _ in range(2):  # the second time nothing is left to fetch
        assert run("widened") == 0
        assert file.read_bytes() == whole.content


def test_a_download_outlives_kills_of_trainer_and_gateway(wide, whole, tmp_path) -> None:
    left = ["gateway", "trainer"]

    def kill_on_the_way(seen: int, total: int) -> None:
        if left and seen > total * (3 - len(left)) // 4:
            name = left.pop()
            wide.kill(name)
            wide.start(name)

    with PublicApi(wide.url, wide.key) as api:
        digest = api.download_merged(MERGED, tmp_path / "taken", kill_on_the_way)
    assert not left
    assert digest == whole.headers["x-mint-revision"]
    expected = unpack(whole.content, tmp_path / "expected")
    found = {path.name: path.read_bytes() for path in (tmp_path / "taken").iterdir()}
    assert found == {path.name: path.read_bytes() for path in expected.iterdir()}


@pytest.mark.parametrize("service", ["trainer", "gateway"])
def test_a_stopped_service_waits_for_no_download(wide, whole, service) -> None:
    """It would let other requests go on for an hour."""
    wait_until_nothing_is_merged(wide)
    with wide.client() as mint:
        with begun(mint) as answer:
            parts = answer.iter_bytes(1 << 20)
            seen = next(parts)
            assert wide.processes[service].stop() == 0
            with pytest.raises(httpx.RemoteProtocolError):
                b"".join(parts)
        wide.start(service)
        rest = mint.get(MERGED, headers={"range": f"bytes={len(seen)}-"}, timeout=SECONDS)
        assert (rest.status_code, seen + rest.content) == (206, whole.content)


def test_a_client_that_leaves_ends_the_merging(wide) -> None:
    wait_until_nothing_is_merged(wide)
    with wide.client() as mint:
        with begun(mint) as answer:
            parts = answer.iter_bytes(1 << 20)  # whose end would close the answer
            next(parts)
            assert len(merging(wide)) == 1
        wait_until_nothing_is_merged(wide)
    deadline = time.monotonic() + SECONDS
    while [path for path in Path(wide.environ["TMPDIR"]).glob("mint-merge-*/*") if path.is_dir()]:
        assert time.monotonic() < deadline, "an adapter stays staged"
        time.sleep(0.05)


def test_a_tenant_has_two_at_a_time_at_the_lowest_priority(wide) -> None:
    wait_until_nothing_is_merged(wide)
    with wide.client() as mint, ExitStack() as held:
        for _ in range(2):
            assert held.enter_context(begun(mint)).status_code == 200
        refused = mint.get(MERGED)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert [each.nice() for each in merging(wide)] == [19, 19]
    wait_until_nothing_is_merged(wide)


def test_what_is_not_given_out(wide, stack) -> None:
    policy = wide.make_policy("kept-apart", revisions=1)
    with wide.client(key=wide.other_key) as other:
        for name in ("widened", policy.policy_id):
            assert other.get(f"/policies/{name}/revisions/1/merged.tar").status_code == 404
    with wide.client() as mint:
        assert mint.get("/policies/widened/revisions/9/merged.tar").status_code == 404
        reader = mint.post("/keys", json={"name": "reads", "scopes": ["read", "infer"]}).json()["key"]
        with wide.client(key=reader) as reading:
            assert reading.get(MERGED).status_code == 403
        mint.post("/policies/kept-apart/revisions/1/retire").raise_for_status()
        with begun(mint, path="/policies/kept-apart/revisions/1/merged.tar") as retired:
            assert retired.status_code == 200, "leaving is allowed, as with adapter.tar"
        folder = (wide.blobs / policy.latest.manifest.uri).parent
        (folder / "adapter_model.safetensors").unlink()
        with begun(mint, path="/policies/kept-apart/revisions/1/merged.tar") as lost:
            assert (lost.status_code, json.loads(lost.read())["error"]["code"]) == (422, "blob_missing")


def test_quantized_weights_take_no_sum(wide, stack) -> None:
    facts = replace(stack.facts, name=BaseName("fifth"), quantization="fp8")

    async def serve() -> None:
        async with InternalHttp(stack.registry_url, token=TOKEN) as http:
            await RegistryClient(http).put_base(facts)

    asyncio.run(serve())
    replace(stack, facts=facts).make_policy("over-eight-bits", revisions=1)
    with wide.client() as mint:
        refused = mint.get("/policies/over-eight-bits/revisions/1/merged.tar")
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "revision")
    assert "Download adapter.tar" in refused.json()["error"]["message"]


def test_the_command_writes_a_model_or_nothing(wide, whole, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MINT_URL", wide.url)
    monkeypatch.setenv("MINT_API_KEY", wide.key)
    folder = tmp_path / "model"
    command = ["revision", "download", "widened", "1", "--merged", "--out", str(folder)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (done.output, done.exception)
    assert whole.headers["x-mint-revision"][:19] in done.output
    assert names(folder) == names(unpack(whole.content, tmp_path / "expected"))
    assert isinstance(CliRunner().invoke(app, command).exception, AlreadyExists)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(whole.content) - 1))
    refused = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "new" / "model")])
    assert isinstance(refused.exception, InvalidField)
    assert "GB" in str(refused.exception)
    assert names(tmp_path) == ["expected", "model"], "no draft stays"
