"""The loader's HTTP over a real engine: loads, refusals, faults."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from mint_common.adapters_format import WEIGHTS_FILE, peft_name
from mint_common.claims import RevisionRef
from mint_common.client.directory import EngineDirectory
from mint_common.errors import (
    AdapterInvalid,
    AdapterPinned,
    MintError,
    NotFound,
    Overloaded,
    Unavailable,
)
from mint_common.events import AdapterFailed, AdapterLoaded
from mint_common.generation import CallFacts, Sampled, SampleRequest, Sampling, int32s
from mint_common.ids import BaseName, TenantId
from services.loader.ports import LoadedAdapter
from tests.integration.loader.conftest import SLOTS, WORKERS
from tests.testing.adapters import make_adapter, make_base_facts

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

PROMPT = (5, 9, 12, 7, 30, 41)
GREEDY = Sampling(max_new_tokens=8, temperature=0.0, ignore_eos=True)


def ask(revision: RevisionRef | None = None, **changes: Any) -> SampleRequest:
    fields = {"tokens": PROMPT, "sampling": GREEDY, **changes}
    return SampleRequest(request_id="r", tenant_id=TenantId("t"), revision=revision, **fields)


def tokens_of(sampled: Sampled, index: int = 0) -> tuple[int, ...]:
    return int32s(sampled.sequences[index].tokens)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_text_is_tokens_that_can_be_sampled_from(rig: Any) -> None:
    tokens = await rig.client.tokenize("f abcd=")
    sampled = await rig.client.sample(ask(tokens=tokens, texts=True))
    assert sampled.sequences[0].text


async def test_a_body_of_the_wrong_shape_names_its_field(rig: Any) -> None:
    headers = {"x-mint-internal-token": "internal"}
    async with httpx.AsyncClient(base_url=rig.url, headers=headers) as client:
        body = {"request_id": "r", "tenant_id": "t", "revision": None, "sampling": {"max_new_tokens": "x"}}
        answer = await client.post("/internal/sample", content=msgspec.msgpack.encode(body))
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "sampling.max_new_tokens")
        answer = await client.post("/internal/sample", content=b"no msgpack")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_field")
        answer = await client.post("/internal/sample", headers={"x-mint-internal-token": "wrong"})
        assert answer.status_code == 401


async def test_fifty_misses_make_one_load(rig: Any) -> None:
    revision = await rig.revision(31)
    answers = await asyncio.gather(*(rig.client.sample(ask(revision)) for _ in range(50)))
    assert rig.engine.loads == 1
    assert {answer.revision for answer in answers} == {revision.digest}
    assert len({tokens_of(answer) for answer in answers}) == 1
    loaded = [event for event in rig.announced if isinstance(event, AdapterLoaded)]
    assert [event.digest for event in loaded] == [revision.digest]
    (status,) = [each for each in await rig.client.adapters() if each.tier != "stored"]
    assert (status.tier, status.readiness, status.in_flight) == ("slot", "ready", 0)


async def test_a_full_queue_answers_429_and_recovers(make_rig: Callable[..., Awaitable[Any]]) -> None:
    rig = await make_rig(queue_depth=1, load_workers=1)
    revisions = [await rig.revision(seed) for seed in range(41, 44)]
    rig.engine.gate.clear()
    waiting = [asyncio.create_task(rig.client.sample(ask(revision))) for revision in revisions[:1]]
    await until(lambda: any(s.readiness == "prewarming" for s in rig.tiers.statuses()))
    waiting += [asyncio.create_task(rig.client.sample(ask(revision))) for revision in revisions[1:2]]
    await until(lambda: len(rig.tiers._loads.wanted) == 2)
    async with httpx.AsyncClient(base_url=rig.url, headers={"x-mint-internal-token": "internal"}) as client:
        body = json.dumps({"revision": _plain(revisions[2]), "tenant_id": "t"})
        answer = await client.post("/internal/prewarm", content=body)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
    with pytest.raises(Overloaded) as refused:
        await rig.client.sample(ask(revisions[2]))
    assert refused.value.retry_after_seconds >= 1
    assert tokens_of(await rig.client.sample(ask())), "the base is served all the while"
    rig.engine.gate.set()
    answers = await asyncio.gather(*waiting)
    assert [answer.revision for answer in answers] == [r.digest for r in revisions[:2]]
    assert (await rig.client.sample(ask(revisions[2]))).revision == revisions[2].digest


def _plain(revision: RevisionRef) -> dict[str, object]:
    claim = revision.manifest
    manifest = {"uri": claim.uri, "sha256": claim.sha256, "size_bytes": claim.size_bytes}
    return {"digest": revision.digest, "number": revision.number, "manifest": manifest}


async def test_a_reader_that_goes_away_aborts_its_request(rig: Any) -> None:
    revision = await rig.revision(51)
    request = ask(revision, sampling=replace(GREEDY, max_new_tokens=240))
    reader = asyncio.create_task(rig.client.sample(request))
    await until(lambda: rig.engine._llm.output_processor.get_num_unfinished_requests() == 1)
    assert rig.tiers.status(revision.digest).in_flight == 1
    reader.cancel()
    await until(lambda: rig.tiers.status(revision.digest).in_flight == 0)
    await until(lambda: rig.engine._llm.output_processor.get_num_unfinished_requests() == 0)
    await rig.client.change(revision.digest, "evict", tenant_id=TenantId("t"))


async def test_nothing_is_loaded_for_a_reader_that_goes_away_before_its_load(rig: Any) -> None:
    revisions = [await rig.revision(seed) for seed in range(52, 57)]
    rig.engine.gate.clear()
    readers = [asyncio.create_task(rig.client.sample(ask(each))) for each in revisions]
    await until(lambda: len(rig.tiers._loads.wanted) == len(revisions))
    await until(lambda: len(rig.tiers._loads.queue.waiting) == len(revisions) - WORKERS)
    waiting = [job.digest for job in rig.tiers._loads.queue.waiting]
    for reader in readers:
        reader.cancel()
    await until(lambda: not rig.tiers._loads.queue.waiting)
    rig.engine.gate.set()
    await until(lambda: not rig.tiers._loads.wanted)
    assert not any(rig.tiers.resident_set.residency.get(digest) for digest in waiting)
    await until(lambda: not any(each.in_flight for each in rig.tiers.statuses()))


async def _corrupt(rig: Any) -> RevisionRef:
    revision = await rig.revision(61)
    key = revision.manifest.uri.replace("mint_manifest.json", WEIGHTS_FILE)
    data = bytearray((rig.blobs._root / key).read_bytes())
    data[len(data) // 2] ^= 0xFF
    await rig.blobs.put(key, bytes(data))
    return revision


async def _foreign(rig: Any) -> RevisionRef:
    return await rig.publish(make_adapter(make_base_facts(name="other")))


@pytest.mark.parametrize(("spoil", "code"), [(_corrupt, "blob_corrupt"), (_foreign, "adapter_invalid")])
async def test_a_bad_adapter_is_refused_and_the_engine_lives(
    rig: Any, spoil: Callable[[Any], Awaitable[RevisionRef]], code: str
) -> None:
    bad, good = await spoil(rig), await rig.revision(62)
    results = await asyncio.gather(
        rig.client.sample(ask(bad)),
        rig.client.sample(ask(good)),
        rig.client.sample(ask()),
        return_exceptions=True,
    )
    assert isinstance(results[0], MintError)
    assert results[0].code == code
    assert (results[1].revision, results[2].revision) == (good.digest, None)
    assert rig.engine.loads == 1
    failed = [event for event in rig.announced if isinstance(event, AdapterFailed)]
    assert [(event.digest, event.code) for event in failed] == [(bad.digest, code)]


async def test_an_adapter_that_cannot_be_laid_out_fails_alone(rig: Any, tmp_path: Path) -> None:
    revision = await rig.revision(63)
    folder = Path(shutil.copytree((await rig.tiers._staging.stage(revision)).folder, tmp_path / "spoilt"))
    (folder / WEIGHTS_FILE).write_bytes(b"not safetensors")
    adapter = LoadedAdapter(digest=revision.digest, number=1000, folder=folder)
    with pytest.raises(AdapterInvalid):
        await rig.engine.stage(adapter)
    assert tokens_of(await rig.client.sample(ask()))


async def test_an_adapter_of_few_targets_and_low_rank_is_served(rig: Any) -> None:
    from mint_common.adapters_format import build_adapter
    from mint_common.ids import PolicyId

    module = "model.layers.1.self_attn.q_proj"
    width, height = rig.facts.modules[module]
    modules = [name for name in rig.facts.modules if name.endswith("q_proj")]
    tensors = {}
    for name in modules:
        tensors[peft_name(name, "A")] = np.ones((1, width), dtype=np.float32) / np.float32(width)
        tensors[peft_name(name, "B")] = np.ones((height, 1), dtype=np.float32) * np.float32(5)
    files = build_adapter(
        facts=rig.facts, policy_id=PolicyId("p"), step=1, parent=None, rank=1, tensors=tensors
    )
    revision = await rig.publish(files)
    assert (await rig.client.sample(ask(revision))).revision == revision.digest


async def test_pins_and_prewarms_over_http(rig: Any) -> None:
    revision = await rig.revision(71)
    status = await rig.client.prewarm(revision, tenant_id=TenantId("t"))
    assert (status.tier, status.readiness) == ("slot", "ready")
    assert (await rig.client.change(revision.digest, "pin", tenant_id=TenantId("t"))).pinned
    with pytest.raises(AdapterPinned, match="unpin it first"):
        await rig.client.change(revision.digest, "evict", tenant_id=TenantId("t"))
    assert not (await rig.client.change(revision.digest, "unpin", tenant_id=TenantId("t"))).pinned
    assert (await rig.client.change(revision.digest, "evict", tenant_id=TenantId("t"))).tier == "stored"
    with pytest.raises(NotFound):
        await rig.client.change(revision.digest, "evict", tenant_id=TenantId("t"))


async def test_metrics_show_adapters_and_vllms_own_series(rig: Any) -> None:
    first, second = await rig.revision(72), await rig.revision(73, rank=2)
    for revision in (first, second):
        await rig.client.prewarm(revision, tenant_id=TenantId("t"))
    await rig.client.change(first.digest, "pin", tenant_id=TenantId("t"))
    await rig.client.sample(ask(second))
    firsts = 'mint_loader_first_token_seconds_count{tier="slot"} %.1f'
    async with httpx.AsyncClient() as client:
        before = (await client.get(f"{rig.url}/metrics")).text
        facts = CallFacts(model="m", request_id="r", tenant_id=TenantId("t"), revision=first)
        relayed = await rig.client.serve(
            "completion", b'{"model": "m", "prompt": "f ab=", "max_tokens": 2, "stream": true}', facts
        )
        assert b"[DONE]" in await relayed.whole()
        relayed.close()
        text = (await client.get(f"{rig.url}/metrics")).text
    loaded = 'vllm:lora_adapter_loaded{adapter_name="%s",level="gpu",pinned="%s",rank="%d"} 1.0'
    assert sum(firsts % count in before and firsts % (count + 1) in text for count in range(100)) == 1
    assert "mint_loader_requests_open 0.0" in text
    assert loaded % (first.digest, "true", 4) in text
    assert loaded % (second.digest, "false", 2) in text
    assert f"vllm:max_gpu_lora_adapters {float(SLOTS)}" in text
    for name in ("num_requests_running", "generation_tokens_total", "time_to_first_token_seconds_bucket"):
        assert f"vllm:{name}{{" in text
    assert "lora_requests_info" not in text  # a series for each set of adapters that ever met


async def test_the_directory_finds_engines_by_base_and_asks_again_after_a_failure(rig: Any) -> None:
    nowhere = "http://127.0.0.1:9"
    directory = EngineDirectory([nowhere, rig.url], token="internal")
    base = rig.facts.name
    told = await directory.describe(base)
    assert (told.base_digest, told.dtype) == (rig.facts.digest, "float32")
    assert [info.engine_id for info in await directory.engines()] == ["tiny-0"]
    assert (await directory.sample(base, ask())).sequences[0].reason == "length"
    client = await directory.find(base)
    directory.note_failure(client, Unavailable(what="an engine", problem="silent"))
    assert await directory.find(base) is client
    with pytest.raises(Unavailable):
        await directory.find(BaseName("other"))
    await directory.aclose()


async def test_seeded_requests_with_long_prompts_share_steps(rig: Any) -> None:
    """More prompt tokens at once than a step takes, no block of them shared: some are computed in parts."""
    sampling = Sampling(max_new_tokens=8, temperature=1.0, seed=1, n=8, ignore_eos=True)
    texts = [f"f {index:02d}{'abcdefghij' * 11}=" for index in range(16)]
    prompts = [await rig.client.tokenize(text) for text in texts]
    alone = tokens_of(await rig.client.sample(ask(tokens=prompts[-1], sampling=sampling)), index=3)

    together = await asyncio.gather(
        *(rig.client.sample(ask(tokens=prompt, sampling=sampling)) for prompt in prompts)
    )

    assert all(len(tokens_of(sampled, index)) == 8 for sampled in together for index in range(8))
    assert tokens_of(together[-1], index=3) == alone
