"""Processes that merge weights beside training: few at a time, and none is left, however a tar ends."""

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from fastapi import FastAPI
from safetensors.numpy import load_file, save_file
from starlette.types import Message, Receive

from mint_common.adapters_format import build_adapter, peft_name, read_base_facts, store_adapter
from mint_common.blobs.localfs import LocalBlobs
from mint_common.claims import Claim
from mint_common.errors import (
    AdapterInvalid,
    BlobMissing,
    InvalidField,
    MintError,
    Overloaded,
    RangeBeyond,
    Stopping,
    Unavailable,
)
from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.edge import create_http
from mint_common.runtime.slow_clients import MinRate, ReaderTooSlow
from mint_common.training import MergeRequest
from services.trainer.adapters.merging import ByteRate, MergingProcesses
from services.trainer.http.merging import READER_RATE, add_routes
from tests.integration.trainer.conftest import TINY

pytestmark = pytest.mark.integration

TENANT, OTHER = TenantId("tenant_1"), TenantId("tenant_2")


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


@pytest.fixture
async def manifest(blobs: LocalBlobs) -> Claim:
    """A revision over the tiny base."""
    return await store_revision(blobs)


async def store_revision(blobs: LocalBlobs, *, size: float = 1.0) -> Claim:
    facts = read_base_facts(TINY)
    random = np.random.default_rng(0)
    tensors = {}
    for module, (width, height) in facts.modules.items():
        tensors[peft_name(module, "A")] = random.normal(0, size, (2, width)).astype(np.float32)
        tensors[peft_name(module, "B")] = random.normal(0, size, (height, 2)).astype(np.float32)
    files = build_adapter(facts=facts, policy_id=PolicyId("p"), step=1, parent=None, rank=2, tensors=tensors)
    return await store_adapter(blobs, files, export_id="export_1")


@pytest.fixture
async def merging(blobs: LocalBlobs, tmp_path: Path) -> AsyncIterator[MergingProcesses]:
    """One at a time; at the end nothing is left of any."""
    staging = tmp_path / "staging"
    staging.mkdir()
    yield MergingProcesses(blobs, TINY, staging, most=1)
    assert not list(staging.iterdir())
    assert not processes()


def processes() -> list[psutil.Process]:
    """Return those that merge."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # a child of an earlier test that has ended
            found += [child] if "mint_common.adapters_format.merged_tar" in child.cmdline() else []
    return found


async def test_one_waits_for_the_other_and_has_the_same_bytes(merging, manifest, blobs, tmp_path) -> None:
    first = await merging.open(TENANT, manifest, begin=0)
    with pytest.raises(Overloaded):
        await merging.open(TENANT, manifest, begin=0)
    content = b"".join([part async for part in first.parts()])
    assert len(content) == first.size_bytes
    await first.close()
    await first.close()
    second = await merging.open(TENANT, manifest, begin=len(content) - 5000)
    assert b"".join([part async for part in second.parts()]) == content[-5000:]
    await second.close()


@pytest.mark.parametrize(("most", "of_a_tenant"), [(1, 1), (2, 1), (3, 2), (4, 2)])
async def test_a_tenant_leaves_turns_to_others(
    manifest, blobs, tmp_path, most: int, of_a_tenant: int
) -> None:
    merging = MergingProcesses(blobs, TINY, tmp_path / "staging", most=most)
    (tmp_path / "staging").mkdir()
    tars = [await merging.open(TENANT, manifest, begin=0) for _ in range(of_a_tenant)]
    with pytest.raises(Overloaded):
        await merging.open(TENANT, manifest, begin=0)
    tars += [await merging.open(OTHER, manifest, begin=0) for _ in range(most - of_a_tenant)]
    with pytest.raises(Overloaded):
        await merging.open(TenantId("tenant_3"), manifest, begin=0)
    for tar in tars:
        await tar.close()
    await (await merging.open(TENANT, manifest, begin=0)).close()


async def test_what_fails_gives_its_turn_back(merging, manifest, missing_claim) -> None:
    with pytest.raises(BlobMissing):
        await merging.open(TENANT, missing_claim, begin=0)
    with pytest.raises(RangeBeyond) as beyond:
        await merging.open(TENANT, manifest, begin=1 << 40)
    assert beyond.value.begin == 1 << 40
    opening = asyncio.ensure_future(merging.open(TENANT, manifest, begin=0))
    while not processes():
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await (await merging.open(TENANT, manifest, begin=0)).close()


async def test_a_reader_that_leaves_gives_its_turn_back(merging, manifest) -> None:
    for _ in range(2):
        tar = await merging.open(TENANT, manifest, begin=0)
        (process,) = processes()
        seen_asleep = 0
        while seen_asleep < 20:  # blocked by a full pipe, as far as can be seen
            seen_asleep = seen_asleep + 1 if process.status() == psutil.STATUS_SLEEPING else 0
            await asyncio.sleep(0.01)
        async with asyncio.timeout(60):
            await tar.close()


SCOPE = {"type": "http", "method": "POST", "path": "/internal/merged", "headers": [], "query_string": b""}


def served(merging: MergingProcesses, rate: MinRate = READER_RATE) -> FastAPI:
    http = create_http(title="merging", service="trainer", internal_token=None, ready=lambda: True)
    add_routes(http, merging, rate)
    return http


def asking(manifest: Claim) -> Receive:
    """Return a client that asks for the whole tar and stays."""
    body = MergeRequest(tenant_id=TENANT, manifest=manifest, begin=0)
    asked = [{"type": "http.request", "body": msgspec.msgpack.encode(body)}]

    async def receive() -> Message:
        return asked.pop() if asked else await asyncio.Future()

    return receive


async def test_a_stopped_trainer_cuts_its_tars_off(merging, manifest) -> None:
    http, answer, begun = served(merging), list[Message](), asyncio.Event()

    async def read_nothing_more(message: Message) -> None:
        answer.append(message)
        if message.get("body"):
            begun.set()
            await asyncio.Future()

    asked = asyncio.create_task(http(SCOPE.copy(), asking(manifest), read_nothing_more))
    await begun.wait()
    http.state.in_hand.drain()
    with pytest.raises(Stopping):
        await asked
    assert answer[0]["status"] == 200
    assert all(message.get("more_body") for message in answer[1:]), "it never looks whole"
    assert not processes()

    refused: list[Message] = []

    async def read(message: Message) -> None:
        refused.append(message)

    await http(SCOPE.copy(), asking(manifest), read)
    assert refused[0]["status"] == 503


async def test_a_weight_that_cannot_be_merged_ends_the_tar_and_is_logged(blobs, tmp_path, caplog) -> None:
    base, staging = tmp_path / "half", tmp_path / "staging"
    staging.mkdir()
    shutil.copytree(TINY, base)
    (shard,) = base.glob("*.safetensors")
    weights = {name: array.astype(np.float16) for name, array in load_file(shard).items()}
    wrong = f"{list(read_base_facts(TINY).modules)[-1]}.weight"
    weights[wrong][...] = 65504
    save_file(weights, shard)
    merging = MergingProcesses(blobs, base, staging, most=1)
    manifest = await store_revision(blobs, size=5.0)
    tar, parts = await merging.open(TENANT, manifest, begin=0), list[bytes]()

    async def read() -> None:
        async for part in tar.parts():
            parts.append(part)

    with pytest.raises(Unavailable, match="too soon"):
        await read()
    await tar.close()
    (record,) = [each for each in caplog.records if each.message == "merging process ended too soon"]
    assert (record.status, wrong in record.problem) == (1, True)
    with pytest.raises(AdapterInvalid, match=wrong):
        await merging.open(TENANT, manifest, begin=sum(map(len, parts)))


async def test_a_slow_reader_loses_its_turn(merging, manifest) -> None:
    rate = MinRate(bytes_per_second=1 << 30, grace_seconds=0.2, stall_seconds=60)
    http = served(merging, rate)
    sent = 0

    async def read_slowly(message: Message) -> None:
        nonlocal sent
        await asyncio.sleep(0.15)
        sent += len(message.get("body", b""))

    with pytest.raises(RuntimeError) as ended:
        await http(SCOPE.copy(), asking(manifest), read_slowly)
    assert isinstance(ended.value.__cause__, ReaderTooSlow)
    tar = await merging.open(TENANT, manifest, begin=0)
    assert sent < tar.size_bytes
    await tar.close()


def test_all_tars_together_keep_the_pace() -> None:
    pace = ByteRate(100)
    assert [pace.wait_seconds(50, now=7.0) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert pace.wait_seconds(10, now=8.25) == 0.25
    assert pace.wait_seconds(10, now=20.0) == 0.0


async def test_a_process_that_dies_is_no_short_tar(merging, manifest) -> None:
    tar = await merging.open(TENANT, manifest, begin=0)
    (process,) = processes()
    process.send_signal(signal.SIGKILL)
    with pytest.raises(Unavailable, match="too soon"):
        async for _ in tar.parts():
            pass
    await tar.close()


@pytest.mark.parametrize(
    ("program", "status", "error"),
    [
        ("raise SystemExit(3)", 3, MintError),
        ("import os; os.kill(os.getpid(), 11)", -11, MintError),
        ("import os; os.kill(os.getpid(), 9)", -9, Unavailable),
        ("print('no head')", None, MintError),
        ("print('x' * 10**6)", None, MintError),
    ],
)
async def test_only_a_killed_process_is_worth_another_try(  # noqa: PLR0917  # pytest passes them by name
    merging, manifest, monkeypatch, caplog, program: str, status: int | None, error: type[MintError]
) -> None:
    monkeypatch.setattr("services.trainer.adapters.merging._COMMAND", (sys.executable, "-c", program))
    with pytest.raises(MintError) as failed:
        await merging.open(TENANT, manifest, begin=0)
    assert type(failed.value) is error
    (record,) = [each for each in caplog.records if each.message == "merging process failed"]
    assert status is None or record.status == status


WORDY = """
import sys
sys.stderr.write("x" * (1 << 20) + "the first words")
print('{"size_bytes": 8}', flush=True)
sys.stdout.write("half")
sys.stdout.flush()
sys.stderr.write("x" * (1 << 20) + "the last words")
sys.stdout.write("half")
"""


async def test_a_process_that_tells_much_makes_its_tar_and_its_last_words_are_logged(
    merging, manifest, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("services.trainer.adapters.merging._COMMAND", (sys.executable, "-c", WORDY))
    tar = await merging.open(TENANT, manifest, begin=0)
    async with asyncio.timeout(60):
        assert b"".join([part async for part in tar.parts()]) == b"halfhalf"
    await tar.close()
    (record,) = [each for each in caplog.records if each.message == "merging process wrote to standard error"]
    assert (record.status, len(record.problem)) == (0, 2000)
    assert record.problem.endswith("xthe last words")


STAYS = "import os, time; os.write(2, b'the last words'); os.close(1); time.sleep(600)"


async def test_the_words_of_a_process_that_stays_are_logged(merging, manifest, monkeypatch, caplog) -> None:
    monkeypatch.setattr("services.trainer.adapters.merging._COMMAND", (sys.executable, "-c", STAYS))
    monkeypatch.setattr("services.trainer.adapters.merging._EXIT_SECONDS", 1.0)
    with pytest.raises(MintError):
        await merging.open(TENANT, manifest, begin=0)
    (record,) = [each for each in caplog.records if each.message == "merging process failed"]
    assert (record.status, record.problem) == (None, "the last words")


async def test_a_disk_that_takes_nothing_is_told(manifest, blobs, tmp_path) -> None:
    (tmp_path / "file").touch()
    merging = MergingProcesses(blobs, TINY, tmp_path / "file", most=1)
    for _ in range(2):
        with pytest.raises(Unavailable, match="the merging of weights"):
            await merging.open(TENANT, manifest, begin=0)


async def test_an_operator_may_give_none_out(manifest, blobs, tmp_path) -> None:
    with pytest.raises(InvalidField, match="not given out here"):
        await MergingProcesses(blobs, TINY, tmp_path, most=0).open(TENANT, manifest, begin=0)
