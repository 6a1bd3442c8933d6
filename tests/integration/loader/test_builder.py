"""The builder process: the same adapters as without it, however it ends."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from mint_common.adapters_format import WEIGHTS_FILE, AdapterFiles, BaseFacts, store_adapter
from mint_common.adapters_format.tensor_file import read_header, write_tensors
from mint_common.blobs.localfs import LocalBlobs
from mint_common.claims import RevisionRef
from mint_common.errors import AdapterInvalid, Unavailable
from mint_common.generation import SampleRequest, Sampling, float32s
from mint_common.ids import Digest, TenantId
from mint_common.runtime.clock import SystemClock
from services.loader.adapters.builder.client import Builder, open_builder
from services.loader.adapters.builder.laying_out import lay_out
from services.loader.adapters.builder.process import AtOnce
from services.loader.adapters.builder.wire import read_index
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.ports import LoadedAdapter
from tests.integration.loader.conftest import BASE_DIR, CountedEngine, builder_config, random_adapter
from tests.processes import has_ended, until_ended

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A builder over a local blob store."""

    builder: Builder
    blobs: LocalBlobs
    facts: BaseFacts
    root: Path

    async def publish(self, files: AdapterFiles, *, number: int = 1) -> RevisionRef:
        """Store an adapter and return its revision."""
        manifest = await store_adapter(self.blobs, files, export_id=f"e{number}")
        return RevisionRef(digest=files.digest, number=number, manifest=manifest)

    async def revision(self, seed: int) -> RevisionRef:
        """Store a random adapter."""
        return await self.publish(random_adapter(self.facts, seed=seed, rank=4), number=seed)

    async def kill(self) -> None:
        """Kill the builder and wait for the next one."""
        old = self.builder.pid
        os.kill(old, signal.SIGKILL)
        await self.next_builder(old)

    async def next_builder(self, old: int) -> int:
        """Wait for another builder, however far it is."""
        while self.builder.pid == old:
            await asyncio.sleep(0.01)
        return self.builder.pid


@asynccontextmanager
async def open_shop(facts: BaseFacts, root: Path, *, silence_seconds: float) -> AsyncIterator[Shop]:
    """Run a builder within the block."""
    blobs = root / "blobs"
    config = replace(builder_config(BASE_DIR, root), silence_seconds=silence_seconds)
    async with open_builder(config, SystemClock()) as builder:
        yield Shop(
            builder=builder,
            blobs=LocalBlobs(blobs),
            facts=facts,
            root=root,
        )
    assert has_ended(builder.pid)


@pytest_asyncio.fixture(loop_scope="session")
async def shop(facts: BaseFacts, tmp_path: Path) -> AsyncIterator[Shop]:
    """Run a builder."""
    async with open_shop(facts, tmp_path, silence_seconds=60.0) as shop:
        yield shop


@pytest_asyncio.fixture(loop_scope="session")
async def impatient_shop(facts: BaseFacts, tmp_path: Path) -> AsyncIterator[Shop]:
    """Run a builder that must not be silent for long."""
    async with open_shop(facts, tmp_path, silence_seconds=3.0) as shop:
        await shop.builder.stage(await shop.revision(1))
        yield shop


async def test_what_is_laid_out_is_what_the_file_holds(shop: Shop) -> None:
    staged = await shop.builder.stage(await shop.revision(1))
    assert shop.builder.holds(staged.digest)
    assert shop.builder.size_of(staged.digest) == staged.size_bytes
    laid_out = await shop.builder.lay_out(staged.folder)
    path = staged.folder / WEIGHTS_FILE
    with path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size)
    data, memory = path.read_bytes()[header.data_begin :], np.fromfile(laid_out.path, dtype="<f4")
    places = read_index(laid_out.tensor_index)
    assert [place.name for place in places] == [entry.name for entry in header.tensors]
    for place, entry in zip(places, header.tensors, strict=True):
        expected = np.frombuffer(data[entry.begin : entry.end], dtype="<f4")
        assert place.shape == entry.shape
        assert np.array_equal(memory[place.begin : place.begin + expected.size], expected)
    shop.builder.release(laid_out)
    await shop.builder.stage(await shop.revision(1))  # answered after the release was heard
    assert not Path(laid_out.path).exists()


async def test_what_is_laid_out_ahead_is_what_would_be_and_is_let_go_of(shop: Shop) -> None:
    plain = shop.builder._config
    shop.builder._config = replace(plain, ahead_bytes=1 << 30)
    revisions = [await shop.revision(seed) for seed in range(20, 31)]
    staged = [await shop.builder.stage(revision) for revision in revisions]
    kept = dict(shop.builder._ahead)
    assert list(kept) == [each.folder for each in staged[-8:]], "the latest, however many were never used"
    ahead = await shop.builder.lay_out(staged[-1].folder)
    assert ahead == kept[staged[-1].folder]
    again = await shop.builder.lay_out(staged[-1].folder)
    assert again.path != ahead.path
    assert Path(again.path).read_bytes() == Path(ahead.path).read_bytes()
    for laid_out in (ahead, again):
        shop.builder.release(laid_out)
    await shop.builder.stage(revisions[-2])  # in the place of the one that is kept
    shop.builder._config = plain
    await shop.builder.stage(revisions[-2])  # answered after all releases were heard
    descriptors = Path(f"/proc/{shop.builder.pid}/fd").iterdir()
    held = [each for each in descriptors if "mint-adapter" in str(each.readlink())]
    assert len(held) == len(shop.builder._ahead) == 7


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
async def test_narrower_weights_are_widened_exactly(tmp_path: Path, dtype: str) -> None:
    values = np.array([[1.5, -2.0, 2.0**-14], [0.0, 300.0, -0.0078125]], dtype="<f4")
    bits = values.astype("<f2") if dtype == "F16" else (values.view("<u4") >> 16).astype("<u2")
    file = write_tensors({"a": bits.view("<f2")}).replace(b'"F16"', f'"{dtype}"'.encode())
    text = int.from_bytes(file[:8], "little") + len(dtype) - 3
    (tmp_path / WEIGHTS_FILE).write_bytes(text.to_bytes(8, "little") + file[8:])
    laid_out = lay_out(tmp_path / WEIGHTS_FILE, rank=2)
    try:
        assert np.array_equal(np.fromfile(laid_out.path, dtype="<f4")[:6], values.reshape(-1))
    finally:
        os.close(laid_out.handle)


async def test_a_broken_adapter_is_refused_and_the_builder_lives(shop: Shop) -> None:
    broken = random_adapter(replace(shop.facts, max_rank=64), seed=2, rank=32)
    revision, pid = await shop.publish(broken), shop.builder.pid
    for _ in range(2):
        with pytest.raises(AdapterInvalid, match="rank 32"):
            await shop.builder.stage(revision)
    assert not shop.builder.holds(broken.digest)
    assert (await shop.builder.stage(await shop.revision(3))).digest
    assert shop.builder.pid == pid


async def test_a_killed_builder_is_replaced_and_its_work_is_done_again(shop: Shop) -> None:
    revisions = [await shop.revision(10 + n) for n in range(6)]
    first = await shop.builder.stage(revisions[0])
    asked = [asyncio.create_task(shop.builder.stage(revision)) for revision in revisions]
    await asyncio.sleep(0)
    await shop.kill()
    staged = await asyncio.gather(*asked)
    assert [each.digest for each in staged] == [revision.digest for revision in revisions]
    assert staged[0] == first
    assert len(shop.builder.stored()) == len(revisions)


async def test_a_builder_that_hangs_is_replaced_and_its_work_is_done_again(
    impatient_shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop = impatient_shop
    revisions, hung, hangs = [await shop.revision(80 + n) for n in range(3)], shop.builder.pid, _hangs()
    os.kill(hung, signal.SIGSTOP)
    async with asyncio.timeout(60):
        staged = await asyncio.gather(*(shop.builder.stage(revision) for revision in revisions))
    assert [each.digest for each in staged] == [revision.digest for revision in revisions]
    assert has_ended(hung)
    assert _hangs() > hangs
    assert "its process has said nothing for 3 s" in " ".join(str(vars(each)) for each in caplog.records)


async def test_work_over_which_two_builders_hang_fails_and_other_work_goes_on(impatient_shop: Shop) -> None:
    shop = impatient_shop
    poison, other = await shop.revision(84), await shop.revision(85)
    asked = asyncio.create_task(shop.builder.stage(poison))
    first = shop.builder.pid
    os.kill(first, signal.SIGSTOP)
    async with asyncio.timeout(60):
        second = await shop.next_builder(first)
        await shop.builder._up.wait()
        os.kill(second, signal.SIGSTOP)
        with pytest.raises(Unavailable, match="hung, and the next one"):
            await asked
        assert (await shop.builder.stage(other)).digest == other.digest


async def test_a_builder_that_hangs_before_it_has_begun_is_replaced(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = await shop.revision(86)
    with monkeypatch.context() as patched:
        patched.setattr("services.loader.adapters.builder.client._READY_SECONDS", 1.0)
        await shop.kill()
        begun = shop.builder.pid
        os.kill(begun, signal.SIGSTOP)
        async with asyncio.timeout(60):
            await shop.next_builder(begun)
    assert has_ended(begun)
    assert (await shop.builder.stage(revision)).digest == revision.digest


async def test_a_builder_that_does_not_die_holds_nobody_up_and_only_so_many_are_left(
    impatient_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits for a disk for ever: a signal waits as well."""
    shop, stuck = impatient_shop, impatient_shop.builder.pid
    with monkeypatch.context() as patched:
        patched.setattr(subprocess.Popen, "kill", lambda process: None)
        os.kill(stuck, signal.SIGSTOP)
        revision = await shop.revision(87)
        async with asyncio.timeout(60):
            assert (await shop.builder.stage(revision)).digest == revision.digest
    assert psutil.pid_exists(stuck)
    monkeypatch.setattr("services.loader.adapters.builder.client._MAX_DYING", 1)
    beside = shop.builder.pid
    os.kill(beside, signal.SIGKILL)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await shop.next_builder(beside)
    os.kill(stuck, signal.SIGKILL)
    async with asyncio.timeout(60):
        await shop.next_builder(beside)
    assert has_ended(stuck)


async def test_a_builder_that_cannot_be_started_is_tried_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(shop.root / "nothing"))
        os.kill(shop.builder.pid, signal.SIGKILL)
        while "the builder process does not start" not in caplog.messages:
            await asyncio.sleep(0.01)
    revision = await shop.revision(70)
    assert (await shop.builder.stage(revision)).digest == revision.digest


async def test_a_builder_that_cannot_work_says_why(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(shop.builder._config, base_dir=shop.root / "no-base", cache_dir=shop.root / "other")
    builder = Builder(config, SystemClock())
    running = asyncio.create_task(builder.keep_running())
    while not builder._problem:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.to_thread(builder.close)
    monkeypatch.setattr("services.loader.adapters.builder.client._READY_SECONDS", 0.1)
    with pytest.raises(Unavailable, match=r"does not start: .*no-base/mint_base\.json"):
        await builder.lay_out(shop.root)


async def test_nothing_is_left_of_what_a_killed_builder_had_laid_out(shop: Shop) -> None:
    staged = await shop.builder.stage(await shop.revision(20))
    laid_out = await shop.builder.lay_out(staged.folder)
    assert laid_out.path.startswith(f"/proc/{shop.builder.pid}/fd/")
    await shop.kill()
    assert not Path(laid_out.path).exists()


async def test_a_builder_ends_with_a_loader_that_is_killed(shop: Shop) -> None:
    config = shop.builder._config
    script = f"""
import asyncio
from pathlib import Path
from mint_common.runtime.clock import SystemClock
from mint_common.settings import BlobSettings
from services.loader.adapters.builder.client import BuilderConfig, open_builder

async def main():
    config = BuilderConfig(
        blobs=BlobSettings(url={config.blobs.url!r}),
        base_dir=Path({str(config.base_dir)!r}),
        cache_dir=Path({str(shop.root / "other")!r}),
        disk_bytes=1,
        silence_seconds=60.0,
    )
    async with open_builder(config, SystemClock()) as builder:
        await builder._up.wait()
        print(builder.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
    loader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert loader.stdout is not None
    builder = psutil.Process(int(await loader.stdout.readline()))
    assert builder.is_running()
    loader.kill()
    await loader.wait()
    await until_ended([builder])


async def test_an_engine_answers_as_with_an_adapter_that_vllm_has_loaded_itself(
    shop: Shop, shared_engine: CountedEngine
) -> None:
    engine = VllmEngine(shared_engine._llm, shop.builder, compile_seconds=5)
    numbers = itertools.count(9001)
    seen = [await logprobs(engine, None)]
    for seed in (30, 31, 32):  # the later ones are wrapped after the first one's pattern
        folder = (await shop.builder.stage(await shop.revision(seed))).folder
        number = next(numbers)
        adapter = LoadedAdapter(digest=f"sha256:{number}", number=number, folder=folder)
        await engine.stage(adapter)
        assert (await engine.residents())[number] is False
        while not (await engine.activate(adapter, victim=None, slice_ms=1.0)).done:
            continue
        found = await logprobs(engine, adapter)
        await engine.unload(number)
        by_itself = await loaded_by_vllm(engine, folder, number=next(numbers))
        assert await logprobs(engine, by_itself) == found
        await engine.unload(by_itself.number)
        assert found not in seen
        seen.append(found)


async def loaded_by_vllm(engine: VllmEngine, folder: Path, *, number: int) -> LoadedAdapter:
    """Let vLLM load an adapter in its own way."""
    from vllm.lora.request import LoRARequest

    adapter = LoadedAdapter(digest=Digest(f"sha256:{number}"), number=number, folder=folder)
    assert await engine._llm.add_lora(LoRARequest(adapter.digest, number, str(folder)))
    return adapter


async def test_an_adapter_of_a_builder_that_has_just_ended_is_laid_out_again(
    shop: Shop, shared_engine: CountedEngine
) -> None:
    folder = (await shop.builder.stage(await shop.revision(40))).folder

    class Ends(Builder):
        """A builder whose first work is lost before the engine sees it."""

        lost = False

        async def lay_out(self, folder: Path) -> Any:
            laid_out = await shop.builder.lay_out(folder)
            if not self.lost:
                self.lost = True
                await shop.kill()
            return laid_out

        def release(self, laid_out: Any) -> None:
            shop.builder.release(laid_out)

    engine = VllmEngine(shared_engine._llm, Ends(shop.builder._config, SystemClock()), compile_seconds=5)
    adapter = LoadedAdapter(digest="sha256:9103", number=9103, folder=folder)
    assert await engine.stage(adapter) > 0
    assert 9103 in await engine.residents()
    await engine.unload(9103)


def _hangs() -> float:
    return REGISTRY.get_sample_value("mint_loader_builder_hangs_total") or 0.0


async def logprobs(engine: VllmEngine, adapter: LoadedAdapter | None) -> tuple[float, ...]:
    """Return what the engine answers with an adapter."""
    request = SampleRequest(
        request_id=f"builder-{adapter.number if adapter else 0}",
        tenant_id=TenantId("t"),
        revision=None,
        tokens=(5, 6, 7, 8),
        sampling=Sampling(max_new_tokens=4, temperature=0.0, ignore_eos=True),
    )
    sampled = await engine.sample(request, request_id=request.request_id, adapter=adapter)
    return float32s(sampled.sequences[0].logprobs)


async def test_work_handed_to_a_thread_is_done_at_once_and_fails_as_it_would_there() -> None:
    with AtOnce(1) as threads:
        assert threads.submit(divmod, 7, 2).result(0) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            threads.submit(divmod, 7, 0).result(0)
