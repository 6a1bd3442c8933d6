"""An adapter whose numbers are not finite: its requests end with their own error, all others are as ever."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mint_common.adapters_format import AdapterFiles, BaseFacts, build_adapter, peft_name
from mint_common.claims import RevisionRef
from mint_common.errors import NonFiniteOutput, Unavailable
from mint_common.events import AdapterNonFinite
from mint_common.generation import GenerationRequest, SampleRequest, Sampling, Started
from mint_common.ids import Digest, PolicyId, TenantId
from services.loader.adapters.non_finite import NON_FINITE
from services.loader.adapters.vllm_streams import unanswered
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


async def test_a_stream_ends_with_its_error_whether_it_is_scored_or_not(rig: Any) -> None:
    bad = await rig.publish(poison(rig.facts, module="v_proj", value=3e38))
    for logprobs in (None, 2):
        sampling = Sampling(max_new_tokens=8, temperature=1.0, n=2, logprobs=logprobs, top_k=5, top_p=0.9)
        request = GenerationRequest(
            request_id="r", tenant_id=TenantId("a"), revision=bad, tokens=PROMPT, sampling=sampling
        )
        rig.quarantined.lift(bad.digest)
        chunks = rig.client.generate(request)
        assert isinstance(await anext(chunks), Started)
        with pytest.raises(NonFiniteOutput) as failed:
            await anext(chunks)
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
        return sum(isinstance(event, AdapterNonFinite) for event in rig.announced.events)

    await ends_with_its_error(rig, bad)
    for sampling in (CANARY, MANY):
        with pytest.raises(NonFiniteOutput):
            await rig.client.sample(ask(bad, sampling))
        with pytest.raises(NonFiniteOutput):  # before anything is said to have started
            await anext(
                rig.client.generate(
                    GenerationRequest(
                        request_id="r",
                        tenant_id=TenantId("a"),
                        revision=bad,
                        tokens=PROMPT,
                        sampling=sampling,
                    )
                )
            )
    assert told() == 1
    assert await answers(rig, good)
    await ends_with_its_error(rig, bad)
    assert told() == 2


async def test_a_base_that_computes_no_finite_numbers_is_ours_to_mend() -> None:
    ended = SimpleNamespace(finish_reason="error", stop_reason=NON_FINITE)
    assert isinstance(unanswered(ended, served=None), Unavailable)
    assert isinstance(unanswered(ended, served=Digest("sha256:1")), NonFiniteOutput)
    other = SimpleNamespace(finish_reason="error", stop_reason=None)
    assert isinstance(unanswered(other, served=Digest("sha256:1")), Unavailable)
