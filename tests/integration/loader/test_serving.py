"""The loader's HTTP over a real engine: streams, refusals, faults."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mint_common.adapters_format import WEIGHTS_FILE, peft_name
from mint_common.claims import RevisionRef
from mint_common.client.directory import EngineDirectory
from mint_common.errors import (
    AdapterInvalid,
    AdapterPinned,
    InvalidField,
    MintError,
    NotFound,
    Overloaded,
    Unavailable,
)
from mint_common.events import AdapterFailed, AdapterLoaded
from mint_common.generation import ChatMessage, Delta, Finished, GenerationRequest, Sampling, Started
from mint_common.ids import BaseName, TenantId
from mint_common.testing.adapters import make_adapter, make_base_facts
from services.loader.ports import LoadedAdapter
from tests.integration.loader.conftest import WORKERS

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

GREEDY = Sampling(max_new_tokens=8, temperature=0.0, ignore_eos=True)


def ask(revision: RevisionRef | None = None, **changes: Any) -> GenerationRequest:
    given = {"text": "f abcd="} if not changes.keys() & {"tokens", "messages", "text"} else {}
    fields = {"sampling": GREEDY, **given, **changes}
    return GenerationRequest(request_id="r", tenant_id=TenantId("t"), revision=revision, **fields)


async def collect(rig: Any, request: GenerationRequest) -> list[Any]:
    return [chunk async for chunk in rig.client.generate(request)]


def text_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(c.text for c in chunks if isinstance(c, Delta) and c.index == index)


def tokens_of(chunks: list[Any], index: int = 0) -> tuple[int, ...]:
    return tuple(t for c in chunks if isinstance(c, Delta) and c.index == index for t in c.tokens)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_text_tokens_and_messages_are_one_prompt(rig: Any) -> None:
    tokens = await rig.client.tokenize(text="f abcd=")
    message = ChatMessage(role="user", content="f abcd=")
    assert await rig.client.tokenize(messages=[message]) == tokens
    answers = [
        await collect(rig, ask(text="f abcd=")),
        await collect(rig, ask(tokens=tokens)),
        await collect(rig, ask(messages=(message,))),
    ]
    assert isinstance(answers[0][0], Started)
    assert answers[0][0].prompt_tokens == tokens
    assert answers[0][-1] == Finished(index=0, reason="length")
    assert tokens_of(answers[0]) == tokens_of(answers[1]) == tokens_of(answers[2])
    assert text_of(answers[0]) == text_of(answers[1]) == text_of(answers[2]) != ""


async def test_several_completions_are_seeded_and_scored(rig: Any) -> None:
    sampling = Sampling(max_new_tokens=6, temperature=1.0, seed=3, n=4, logprobs=2, ignore_eos=True)
    first, again = [await collect(rig, ask(sampling=sampling)) for _ in range(2)]
    completions = [tokens_of(first, index) for index in range(4)]
    assert completions == [tokens_of(again, index) for index in range(4)]
    assert len(set(completions)) > 1
    assert sorted(c.index for c in first if isinstance(c, Finished)) == [0, 1, 2, 3]
    for delta in (c for c in first if isinstance(c, Delta)):
        assert len(delta.tokens) == len(delta.logprobs) == len(delta.alternatives)
        for likeliest, chosen in zip(delta.alternatives, delta.logprobs, strict=True):
            assert len(likeliest) == 2
            assert likeliest[0].logprob >= likeliest[1].logprob
            assert chosen <= likeliest[0].logprob


async def test_a_stop_string_ends_a_completion_and_stays_out_of_its_text(rig: Any) -> None:
    whole = text_of(await collect(rig, ask()))
    stop = whole[2:4]
    chunks = await collect(rig, ask(sampling=replace(GREEDY, stop=(stop,))))
    assert chunks[-1] == Finished(index=0, reason="stop")
    assert text_of(chunks) == whole[: whole.index(stop)]


async def test_the_end_token_ends_a_completion(rig: Any) -> None:
    info = await rig.client.describe()
    assert info.dtype == "float32"
    chunks = await collect(rig, ask(sampling=replace(GREEDY, ignore_eos=False, max_new_tokens=64)))
    assert chunks[-1] == Finished(index=0, reason="stop")
    assert tokens_of(chunks)[-1] == info.eos_token_id


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("sampling.temperature", {"sampling": replace(GREEDY, temperature=-1.0)}),
        ("sampling.max_new_tokens", {"sampling": replace(GREEDY, max_new_tokens=1000)}),
        ("sampling.n", {"sampling": replace(GREEDY, n=0)}),
        ("tokens", {"tokens": (1, 264)}),
        ("tokens", {"tokens": ()}),
        ("tokens", {"tokens": (1,), "text": "x"}),
        ("messages", {"messages": ()}),
    ],
)
async def test_a_bad_request_names_its_field(rig: Any, field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidField) as refused:
        await collect(rig, ask(**changes))
    assert refused.value.field == field


async def test_a_body_of_the_wrong_shape_names_its_field(rig: Any) -> None:
    headers = {"x-mint-internal-token": "internal"}
    async with httpx.AsyncClient(base_url=rig.url, headers=headers) as client:
        body = {"request_id": "r", "tenant_id": "t", "revision": None, "sampling": {"max_new_tokens": "x"}}
        answer = await client.post("/internal/generate", json=body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "sampling.max_new_tokens")
        answer = await client.post("/internal/generate", content=b"not json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_field")
        answer = await client.post("/internal/generate", headers={"x-mint-internal-token": "wrong"})
        assert answer.status_code == 401


async def test_fifty_misses_make_one_load(rig: Any) -> None:
    revision = await rig.revision(31)
    answers = await asyncio.gather(*(collect(rig, ask(revision)) for _ in range(50)))
    assert rig.engine.loads == 1
    assert {answer[0].revision for answer in answers} == {revision.digest}
    assert len({tokens_of(answer) for answer in answers}) == 1
    loaded = [event for event in rig.announced if isinstance(event, AdapterLoaded)]
    assert [event.digest for event in loaded] == [revision.digest]
    (status,) = [each for each in await rig.client.adapters() if each.tier != "stored"]
    assert (status.tier, status.readiness, status.in_flight) == ("slot", "ready", 0)


async def test_a_full_queue_answers_429_and_recovers(make_rig: Callable[..., Awaitable[Any]]) -> None:
    rig = await make_rig(queue_depth=1, load_workers=1)
    revisions = [await rig.revision(seed) for seed in range(41, 44)]
    rig.engine.gate.clear()
    waiting = [asyncio.create_task(collect(rig, ask(revision))) for revision in revisions[:1]]
    await until(lambda: any(s.readiness == "prewarming" for s in rig.tiers.statuses()))
    waiting += [asyncio.create_task(collect(rig, ask(revision))) for revision in revisions[1:2]]
    await until(lambda: len(rig.tiers._loads.wanted) == 2)
    async with httpx.AsyncClient(base_url=rig.url, headers={"x-mint-internal-token": "internal"}) as client:
        body = json.dumps({"revision": _plain(revisions[2]), "tenant_id": "t"})
        answer = await client.post("/internal/prewarm", content=body)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
    with pytest.raises(Overloaded) as refused:
        await collect(rig, ask(revisions[2]))
    assert refused.value.retry_after_seconds >= 1
    assert text_of(await collect(rig, ask())), "the base is served all the while"
    rig.engine.gate.set()
    answers = await asyncio.gather(*waiting)
    assert [answer[0].revision for answer in answers] == [r.digest for r in revisions[:2]]
    assert (await collect(rig, ask(revisions[2])))[0].revision == revisions[2].digest


def _plain(revision: RevisionRef) -> dict[str, object]:
    claim = revision.manifest
    manifest = {"uri": claim.uri, "sha256": claim.sha256, "size_bytes": claim.size_bytes}
    return {"digest": revision.digest, "number": revision.number, "manifest": manifest}


async def test_a_reader_that_goes_away_aborts_its_request(rig: Any) -> None:
    revision = await rig.revision(51)
    request = ask(revision, sampling=replace(GREEDY, max_new_tokens=240))
    async with aclosing(rig.client.generate(request)) as chunks:
        async for chunk in chunks:
            if isinstance(chunk, Delta):
                break
        assert rig.tiers.status(revision.digest).in_flight == 1
    await until(lambda: rig.tiers.status(revision.digest).in_flight == 0)
    assert rig.engine._llm.output_processor.get_num_unfinished_requests() == 0
    await rig.client.evict(revision.digest, tenant_id=TenantId("t"))


async def test_nothing_is_loaded_for_a_reader_that_goes_away_before_its_load(rig: Any) -> None:
    revisions = [await rig.revision(seed) for seed in range(52, 57)]
    rig.engine.gate.clear()
    readers = [asyncio.create_task(collect(rig, ask(each))) for each in revisions]
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
        collect(rig, ask(bad)), collect(rig, ask(good)), collect(rig, ask()), return_exceptions=True
    )
    assert isinstance(results[0], MintError)
    assert results[0].code == code
    assert (results[1][0].revision, results[2][0].revision) == (good.digest, None)
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
    assert text_of(await collect(rig, ask()))


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
    assert (await collect(rig, ask(revision)))[0].revision == revision.digest


async def test_pins_and_prewarms_over_http(rig: Any) -> None:
    revision = await rig.revision(71)
    status = await rig.client.prewarm(revision, tenant_id=TenantId("t"))
    assert (status.tier, status.readiness) == ("slot", "ready")
    assert (await rig.client.pin(revision.digest, tenant_id=TenantId("t"))).pinned
    with pytest.raises(AdapterPinned, match="unpin it first"):
        await rig.client.evict(revision.digest, tenant_id=TenantId("t"))
    assert not (await rig.client.unpin(revision.digest, tenant_id=TenantId("t"))).pinned
    assert (await rig.client.evict(revision.digest, tenant_id=TenantId("t"))).tier == "stored"
    with pytest.raises(NotFound):
        await rig.client.evict(revision.digest, tenant_id=TenantId("t"))


async def test_the_directory_finds_engines_by_base_and_asks_again_after_a_failure(rig: Any) -> None:
    nowhere = "http://127.0.0.1:9"
    directory = EngineDirectory([nowhere, rig.url], token="internal")
    base = rig.facts.name
    assert (await directory.describe(base)).base_digest == rig.facts.digest
    assert [info.engine_id for info in await directory.engines()] == ["tiny-0"]
    chunks = [chunk async for chunk in directory.generate(base, ask())]
    assert chunks[-1] == Finished(index=0, reason="length")
    client = await directory.find(base)
    directory.forget(client)
    assert await directory.find(base) is client
    with pytest.raises(Unavailable):
        await directory.find(BaseName("other"))
    await directory.aclose()


async def test_seeded_requests_with_long_prompts_share_steps(rig: Any) -> None:
    """More prompt tokens at once than a step takes, no block of them shared: some are computed in parts."""
    sampling = Sampling(max_new_tokens=8, temperature=1.0, seed=1, n=8, ignore_eos=True)
    prompts = [f"f {index:02d}{'abcdefghij' * 11}=" for index in range(16)]
    alone = tokens_of(await collect(rig, ask(text=prompts[-1], sampling=sampling)), index=3)

    together = await asyncio.gather(*(collect(rig, ask(text=text, sampling=sampling)) for text in prompts))

    assert all(len(tokens_of(chunks, index)) == 8 for chunks in together for index in range(8))
    assert tokens_of(together[-1], index=3) == alone
