"""Routes of requests that ask: those that transformers' routers choose for the same tokens."""

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mint_common.generation import SampledSequence, SampleRequest, Sampling, float32s, int32s
from mint_common.ids import TenantId, WaveId
from mint_common.records import WaveRecord
from services.loader.adapters.vllm.routes import UNKNOWN
from services.rollout.core.sampling import Completion, SampledGroup, scored_group
from services.trainer.adapters.model.resident_base import load_base as load_trainers
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.packing import pack_rows
from services.trainer.core.record_check import check_record
from tests.integration.loader.moe_base import Served, answer, load_base, running_engine
from tests.testing.second_runner import is_second_runner
from tools.make_moe_base import make_moe_base

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]
ASKING = Sampling(max_new_tokens=12, temperature=1.0, seed=1, n=3, ignore_eos=True)
BLOCK = 128
"""Tokens of a block of the prefix cache."""
Answers = list[tuple[tuple[int, ...], np.ndarray]]


async def sample(
    served: Served, prompt: tuple[int, ...], sampling: Sampling, *, routes: bool = True
) -> tuple[SampledSequence, ...]:
    request = SampleRequest(
        request_id=secrets.token_hex(8),
        tenant_id=TenantId("t"),
        revision=None,
        tokens=prompt,
        sampling=sampling,
        routes=routes,
    )
    sampled = await served.engine.sample(request, request_id=request.request_id, adapter=None)
    return sampled.sequences


async def answers(
    served: Served, prompt: tuple[int, ...], sampling: Sampling, *, routes: bool = True
) -> Answers:
    """Return each completion's tokens, and its routes as ``[tokens, layers, experts of a token]``."""
    layers = len(served.facts.experts)
    return [
        (int32s(each.tokens), np.frombuffer(each.routes, "<u2").reshape(-1, layers, 2))
        for each in await sample(served, prompt, sampling, routes=routes)
    ]


def chosen(base: Path, tokens: tuple[int, ...]) -> np.ndarray:
    """Return what transformers' routers choose, ``[tokens, layers, experts of a token]``."""
    model = load_base(base)
    seen: list[torch.Tensor] = []
    gates = [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]
    for gate in gates:
        gate.register_forward_hook(lambda _module, _args, found: seen.append(found[2]))
    with torch.no_grad():
        model(input_ids=torch.tensor([tokens]))
    return torch.stack(seen, dim=1).numpy()


async def test_routes_are_those_of_the_same_tokens_in_transformers(served: Served) -> None:
    prompt = tuple(range(5, 28))
    found = await answers(served, prompt, ASKING)
    assert len({tokens for tokens, _ in found}) == 3
    for tokens, routes in found:
        expected = chosen(served.base, (*prompt, *tokens[:-1]))
        assert np.array_equal(np.sort(routes), np.sort(expected))


async def test_requests_beside_one_another_get_their_own(served: Served) -> None:
    one, other = tuple(range(30, 41)), tuple(range(60, 90, 2))
    found = await asyncio.gather(
        answers(served, one, replace(ASKING, n=1, seed=3)),
        answers(served, other, replace(ASKING, n=2, seed=4)),
        answers(served, one, ASKING, routes=False),
    )
    prompts = [one, other]
    for prompt, each in zip(prompts, found[:2], strict=True):
        for tokens, routes in each:
            expected = chosen(served.base, (*prompt, *tokens[:-1]))
            assert np.array_equal(np.sort(routes), np.sort(expected))
    assert all(routes.size == 0 for _, routes in found[2])


async def test_tokens_of_cached_blocks_have_their_routes_or_unknown_ones(served: Served) -> None:
    prompt = tuple(np.random.default_rng(1).integers(3, 250, BLOCK + 4).tolist())
    await answers(served, prompt, replace(ASKING, n=1), routes=False)
    ((tokens, routes),) = await answers(served, prompt, replace(ASKING, n=1))
    expected = chosen(served.base, (*prompt, *tokens[:-1]))
    if not is_second_runner():  # which keeps the routes of cached blocks
        assert (routes[:BLOCK] == UNKNOWN).all()
        routes, expected = routes[BLOCK:], expected[BLOCK:]
    assert np.array_equal(np.sort(routes), np.sort(expected))


async def test_a_trainer_replays_what_the_engine_has_noted(served: Served) -> None:
    prompt = tuple(range(40, 60))
    done = tuple(
        Completion(text="", tokens=int32s(each.tokens), logprobs=float32s(each.logprobs), routes=each.routes)
        for each in await sample(served, prompt, ASKING)
    )
    group = scored_group(SampledGroup(revision=None, prompt_tokens=prompt, completions=done), [0.0, 1.0, 0.5])
    record = WaveRecord(wave_id=WaveId("w"), revision=None, groups=(group,))
    check_record(record, served.facts, needs_logprobs=True)
    base = load_trainers(served.base)
    with torch.no_grad():
        scored = base.score(pack_rows(build_grpo_batch(record).rows, policy=0, max_length=128))
    assert scored.routed_T is not None
    assert scored.off_route_T is not None
    assert (float(scored.routed_T.min()), float(scored.off_route_T.max())) == (1.0, 0.0)
    logprobs = torch.tensor([logprob for sample in group.samples for logprob in sample.logprobs])
    assert float((scored.logprobs_T - logprobs).abs().max()) < 1e-4


@pytest.mark.skipif(not is_second_runner(), reason="the first runner's routes need no prefix cache")
async def test_an_engine_that_cannot_return_routes_starts_and_says_so(tmp_path: Path) -> None:
    facts = make_moe_base(tmp_path, experts=8)
    async with running_engine(tmp_path, facts, engine_args={"enable_prefix_caching": False}) as engine:
        assert "prefix caching" in engine.no_routes
        assert len((await answer(engine, None, seed=1)).tokens) == 12
