"""An adapter whose numbers are not finite: its requests end with their own error, all others are as ever."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mint_common.adapters_format import AdapterFiles, BaseFacts, build_adapter, peft_name
from mint_common.claims import RevisionRef
from mint_common.errors import NonFiniteOutput, Unavailable
from mint_common.events import AdapterNonFinite
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import Digest, PolicyId, TenantId
from services.loader.adapters.vllm.engine_errors import unanswered
from services.loader.adapters.vllm.repairs.non_finite import NON_FINITE
from tests.integration.loader.conftest import random_adapter

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

PROMPT = (5, 9, 40, 7, 77, 12)
"""Far shorter than a block of the KV cache, most of which lies behind the prompt's end."""
CANARY = Sampling(max_new_tokens=12, temperature=0.0, ignore_eos=True, logprobs=0)
MANY = Sampling(max_new_tokens=40, temperature=1.0, ignore_eos=True, n=4, seed=1)


def poison(facts: BaseFacts, *, module: str, value: float, seed: int = 90) -> AdapterFiles:
    """Return an adapter that is a random one but for one weight in a projection of every layer."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (width, height) in facts.modules.items():
        a = rng.standard_normal((4, width), dtype=np.float32) / np.float32(width**0.5)
        b = rng.standard_normal((height, 4), dtype=np.float32) * np.float32(0.2)
        if name.endswith(module):
            b[0, 0] = value
        tensors |= {peft_name(name, "A"): a, peft_name(name, "B"): b}
    return build_adapter(
        facts=facts, policy_id=PolicyId("pol"), step=seed, parent=None, rank=4, tensors=tensors
    )


def ask(revision: RevisionRef | None, sampling: Sampling, **changes: Any) -> SampleRequest:
    fields = {"tokens": PROMPT, "tenant_id": TenantId("b"), **changes}
    return SampleRequest(request_id="r", revision=revision, sampling=sampling, **fields)


def spoil(facts: BaseFacts) -> AdapterFiles:
    """Return an adapter of finite weights whose every product overflows."""
    tensors = {
        peft_name(name, side): np.full(shape, 1e25, dtype=np.float32)
        for name, (width, height) in facts.modules.items()
        for side, shape in (("A", (4, width)), ("B", (height, 4)))
    }
    return build_adapter(facts=facts, policy_id=PolicyId("pol"), step=1, parent=None, rank=4, tensors=tensors)


async def ends_with_its_error(rig: Any, revision: RevisionRef, **changes: Any) -> None:
    """Run it, though an earlier request may have shown what it is."""
    rig.quarantined.lift(revision.digest)
    with pytest.raises(NonFiniteOutput) as failed:
        await rig.client.sample(ask(revision, MANY, tenant_id=TenantId("a"), **changes))
    assert failed.value.digest == revision.digest
    assert not failed.value.retryable


async def answers(rig: Any, *revisions: RevisionRef | None) -> list[tuple[bytes, bytes]]:
    """Return tokens and log-probabilities, one request after the other: a batch's shape changes roundings."""
    sampled = [await rig.client.sample(ask(revision, CANARY)) for revision in revisions]
    return [(each.tokens, each.logprobs) for one in sampled for each in one.sequences]


@pytest.mark.parametrize("module", ["v_proj", "k_proj", "q_proj", "o_proj"])
async def test_an_adapter_that_overflows_changes_no_bit_of_others(rig: Any, module: str) -> None:
    bad = await rig.publish(poison(rig.facts, module=module, value=3e38))
    good = await rig.publish(random_adapter(rig.facts, seed=7, rank=4))
    quiet = await answers(rig, None, good)
    prompts = [(3 + i, *range(20, 20 + 9 * i)) for i in range(8)]
    await asyncio.gather(*(ends_with_its_error(rig, bad, tokens=prompt) for prompt in prompts))
    assert await answers(rig, None, good) == quiet


async def test_huge_but_finite_numbers_are_an_answer_and_change_no_bit_of_others(rig: Any) -> None:
    huge = await rig.publish(poison(rig.facts, module="down_proj", value=1e25))
    good = await rig.publish(random_adapter(rig.facts, seed=7, rank=4))
    quiet = await answers(rig, None, good)
    sampled = await asyncio.gather(*(rig.client.sample(ask(huge, MANY, tokens=(3 + i, 4))) for i in range(4)))
    assert all(each.reason == "length" for one in sampled for each in one.sequences)
    assert await answers(rig, None, good) == quiet


async def test_neighbours_in_the_very_step_are_not_touched(rig: Any) -> None:
    bad = await rig.publish(poison(rig.facts, module="v_proj", value=3e38))
    good = await rig.publish(random_adapter(rig.facts, seed=7, rank=4))
    ordinary = await rig.publish(random_adapter(rig.facts, seed=8, rank=4))

    async def beside(other: RevisionRef) -> list[Any]:
        """Ask for several at once; the canaries' tokens are what no rounding changes."""
        asked = [rig.client.sample(ask(ref, CANARY)) for ref in (None, good) for _ in range(4)]
        others = [rig.client.sample(ask(other, CANARY, tokens=(9 + i, 8, 7))) for i in range(8)]
        return await asyncio.gather(*others, *asked, return_exceptions=True)

    expected, found = await beside(ordinary), await beside(bad)
    assert all(isinstance(each, NonFiniteOutput) for each in found[:8])
    for one, other in zip(expected[8:], found[8:], strict=True):
        assert one.sequences[0].tokens == other.sequences[0].tokens
        numbers = [np.frombuffer(each.sequences[0].logprobs, dtype="<f4") for each in (one, other)]
        assert np.abs(numbers[0] - numbers[1]).max() < 1e-5


async def test_a_sample_ends_with_its_error_whether_its_likeliest_are_wanted_or_not(rig: Any) -> None:
    bad = await rig.publish(poison(rig.facts, module="v_proj", value=3e38))
    for logprobs in (None, 2):
        sampling = Sampling(max_new_tokens=8, temperature=1.0, n=2, logprobs=logprobs, top_k=5, top_p=0.9)
        rig.quarantined.lift(bad.digest)
        with pytest.raises(NonFiniteOutput) as failed:
            await rig.client.sample(ask(bad, sampling))
        assert failed.value.digest == bad.digest


async def test_a_prompt_is_not_scored_by_numbers_that_are_not_finite(rig: Any) -> None:
    bad = await rig.publish(poison(rig.facts, module="v_proj", value=3e38))
    for _ in range(2):  # the second time the prompt's blocks are in no prefix cache
        await ends_with_its_error(rig, bad, tokens=tuple(range(3, 203)), prompt_logprobs=2)
    assert not rig.engine.dead


async def test_it_is_told_once_and_not_run_again_until_it_is_restored(rig: Any) -> None:
    bad = await rig.publish(poison(rig.facts, module="v_proj", value=3e38))
    good = await rig.publish(random_adapter(rig.facts, seed=7, rank=4))

    def told() -> int:
        return sum(isinstance(event, AdapterNonFinite) for event in rig.announced)

    await ends_with_its_error(rig, bad)
    for sampling in (CANARY, MANY):
        with pytest.raises(NonFiniteOutput):
            await rig.client.sample(ask(bad, sampling))
    assert told() == 1
    assert await answers(rig, good)
    await ends_with_its_error(rig, bad)
    assert told() == 2


async def test_a_prompt_whose_client_has_gone_is_in_no_prefix_cache(rig: Any) -> None:
    """Its blocks were made finite: read from the cache they would give an answer that means nothing."""
    bad = await rig.publish(poison(rig.facts, module="v_proj", value=3e38))
    for number in range(24):
        prompt = (3 + number, *range(3, 203))
        asked = asyncio.create_task(rig.client.sample(ask(bad, MANY, tokens=prompt, tenant_id=TenantId("a"))))
        await asyncio.sleep(0.001 * number)  # at whichever point of a step: the outcome is the same
        asked.cancel()
        await ends_with_its_error(rig, bad, tokens=prompt)
        await asyncio.gather(asked, return_exceptions=True)


async def test_a_base_that_computes_no_finite_numbers_is_ours_to_mend() -> None:
    ended = SimpleNamespace(finish_reason="error", stop_reason=NON_FINITE)
    assert isinstance(unanswered(ended, served=None), Unavailable)
    assert isinstance(unanswered(ended, served=Digest("sha256:1")), NonFiniteOutput)
    other = SimpleNamespace(finish_reason="error", stop_reason=None)
    assert isinstance(unanswered(other, served=Digest("sha256:1")), Unavailable)


async def answered(ask_once: Callable[[], Awaitable[Any]]) -> Any:
    """Ask, again when the server has just closed the kept connection that was taken for it."""
    for _ in range(2):
        with suppress(Unavailable):
            return await ask_once()
    return await ask_once()


STORM_PHASES, STORM_CANARIES, STORM_POISONED, AT_ONCE = 20, 400, 120, 64


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_storm_of_poison_changes_no_answer_of_others(
    make_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 10,000 answers; beside poison their roundings may differ, after it not a bit may."""
    rig = await make_rig(queue_depth=2 * (STORM_CANARIES + STORM_POISONED))
    monkeypatch.setattr(rig.quarantined, "note", lambda *_, **__: None)  # else the first one ends the storm
    modules = ("v_proj", "k_proj", "q_proj", "o_proj")
    poisons = [await rig.publish(poison(rig.facts, module=name, value=3e38)) for name in modules]
    poisons.append(await rig.publish(spoil(rig.facts)))
    who = [None, *[await rig.publish(random_adapter(rig.facts, seed=seed, rank=4)) for seed in (7, 8)]]
    rng = np.random.default_rng(0)
    prompts = [tuple(map(int, rng.integers(3, 250, length))) for length in (1, 6, 31, 33, 90, 129)]
    kinds = [(ref, prompt) for ref in who for prompt in prompts]
    places = asyncio.Semaphore(AT_ONCE)
    begun: Counter[str] = Counter()
    left_midway = 0
    generate = rig.engine._llm.generate

    def counted(*given: Any, lora_request: Any, **options: Any) -> Any:
        begun[lora_request.lora_name if lora_request else ""] += 1
        return generate(*given, lora_request=lora_request, **options)

    monkeypatch.setattr(rig.engine._llm, "generate", counted)

    async def canary(kind: Any, *, tenant: str) -> Any:
        ref, prompt = kind
        asked = ask(ref, CANARY, tokens=prompt, tenant_id=TenantId(tenant))
        async with places:
            sampled = await answered(lambda: rig.client.sample(asked))
        return sampled.sequences[0]

    async def alone(*, tenant: str) -> Any:
        """Ask one by one as a new tenant: what others have computed of a prompt is rounded otherwise."""
        return {kind: await canary(kind, tenant=tenant) for kind in kinds}

    async def poisoned(revision: RevisionRef, *, number: int) -> None:
        nonlocal left_midway
        prompt = prompts[number % len(prompts)]
        async with places:
            if number % 3:
                await answered(lambda: ends_with_its_error(rig, revision, tokens=prompt))
                return
            asked = asyncio.create_task(
                rig.client.sample(ask(revision, MANY, tokens=prompt, tenant_id=TenantId("a")))
            )
            before = begun[revision.digest]
            while begun[revision.digest] == before and not asked.done():
                await asyncio.sleep(0.001)
            left_midway += not asked.done()
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    quiet = await alone(tenant="quiet")
    for phase in range(STORM_PHASES):
        asked = [kinds[at % len(kinds)] for at in range(STORM_CANARIES)]
        revision = poisons[phase % len(poisons)]
        answers, _ = await asyncio.gather(
            asyncio.gather(*(canary(kind, tenant=f"t{at % 3}") for at, kind in enumerate(asked))),
            asyncio.gather(*(poisoned(revision, number=number) for number in range(STORM_POISONED))),
        )
        for kind, answer in zip(asked, answers, strict=True):
            assert answer.tokens == quiet[kind].tokens
            numbers = [np.frombuffer(each.logprobs, dtype="<f4") for each in (answer, quiet[kind])]
            assert np.abs(numbers[0] - numbers[1]).max() < 1e-5
        assert await alone(tenant=f"phase-{phase}") == quiet
    assert rig.engine.loads >= len(who) - 1 + len(poisons)
    assert left_midway >= STORM_PHASES
    assert not rig.engine.dead
