"""Routes of requests that ask: those that transformers' routers choose for the same tokens."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch

from mint_common.generation import Delta, Finished, Sampling
from mint_common.ids import TenantId, WaveId
from mint_common.records import WaveRecord
from services.loader.adapters.vllm.routes import UNKNOWN
from services.rollout.core.sampling import Completion, SampledGroup, scored_group
from services.trainer.adapters.model.resident_base import load_base as load_trainers
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.packing import pack_rows
from services.trainer.core.record_check import check_record
from tests.integration.loader.moe_base import Served, load_base, running_engine
from tools.make_moe_base import make_moe_base

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
ASKING = Sampling(
    max_new_tokens=12, temperature=1.0, seed=1, n=3, ignore_eos=True, logprobs=0, whole=True, routes=True
)
BLOCK = 128
"""Tokens of a block of the prefix cache."""
Answers = dict[int, tuple[tuple[int, ...], np.ndarray]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """Start one engine over a base of 8 experts."""
    base = tmp_path_factory.mktemp("routes")
    facts = make_moe_base(base, experts=8)
    async with running_engine(base, facts, max_context=256) as engine:
        yield Served(engine, base, facts)


async def answers(served: Served, prompt: tuple[int, ...], sampling: Sampling) -> Answers:
    """Return each completion's tokens, and its routes as ``[tokens, layers, experts of a token]``."""
    stream = served.engine.generate(
        request_id=secrets.token_hex(8),
        prompt=prompt,
        sampling=sampling,
        adapter=None,
        tenant_id=TenantId("t"),
    )
    tokens: dict[int, tuple[int, ...]] = {}
    routes: dict[int, bytes] = {}
    async for parts in stream.steps():
        for part in parts:
            if isinstance(part, Delta):
                tokens[part.index] = tokens.get(part.index, ()) + part.tokens
            elif isinstance(part, Finished):
                routes[part.index] = part.routes
    layers = len(served.facts.experts)
    return {
        index: (tokens[index], np.frombuffer(rows, "<u2").reshape(-1, layers, 2) if rows else np.empty(0))
        for index, rows in routes.items()
    }


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
    assert len({tokens for tokens, _ in found.values()}) == 3
    for tokens, routes in found.values():
        expected = chosen(served.base, (*prompt, *tokens[:-1]))
        assert np.array_equal(np.sort(routes), np.sort(expected))


async def test_requests_beside_one_another_get_their_own(served: Served) -> None:
    one, other = tuple(range(30, 41)), tuple(range(60, 90, 2))
    asked = [replace(ASKING, n=1, seed=3), replace(ASKING, n=2, seed=4), replace(ASKING, routes=False)]
    prompts = [one, other, one]
    found = await asyncio.gather(*map(partial(answers, served), prompts, asked))
    for prompt, each in zip(prompts[:2], found[:2], strict=True):
        for tokens, routes in each.values():
            expected = chosen(served.base, (*prompt, *tokens[:-1]))
            assert np.array_equal(np.sort(routes), np.sort(expected))
    assert all(routes.size == 0 for _, routes in found[2].values())


async def test_tokens_of_cached_blocks_have_unknown_routes(served: Served) -> None:
    prompt = tuple(np.random.default_rng(1).integers(3, 250, BLOCK + 4).tolist())
    await answers(served, prompt, replace(ASKING, n=1, routes=False))
    ((tokens, routes),) = (await answers(served, prompt, replace(ASKING, n=1))).values()
    expected = chosen(served.base, (*prompt, *tokens[:-1]))
    assert (routes[:BLOCK] == UNKNOWN).all()
    assert np.array_equal(np.sort(routes[BLOCK:]), np.sort(expected[BLOCK:]))


async def test_a_trainer_replays_what_the_engine_has_noted(served: Served) -> None:
    prompt = tuple(range(40, 60))
    stream = served.engine.generate(
        request_id=secrets.token_hex(8),
        prompt=prompt,
        sampling=ASKING,
        adapter=None,
        tenant_id=TenantId("t"),
    )
    drafts: dict[int, Completion] = {}
    routes: dict[int, bytes] = {}
    async for part in (part async for parts in stream.steps() for part in parts):
        if isinstance(part, Delta):
            drafts[part.index] = Completion(text="", tokens=part.tokens, logprobs=part.logprobs)
        elif isinstance(part, Finished):
            routes[part.index] = part.routes
    done = tuple(replace(draft, routes=routes[index]) for index, draft in drafts.items())
    group = scored_group(SampledGroup(revision=None, prompt_tokens=prompt, completions=done), [0.0, 1.0, 0.5])
    record = WaveRecord(wave_id=WaveId("w"), revision=None, groups=(group,))
    check_record(record, served.facts, wave_id=record.wave_id, revision=None, needs_logprobs=True)
    base = load_trainers(served.base)
    with torch.no_grad():
        scored = base.score(pack_rows(build_grpo_batch(record).rows, policy=0, max_length=128))
    assert scored.routed_T is not None
    assert scored.off_route_T is not None
    assert (float(scored.routed_T.min()), float(scored.off_route_T.max())) == (1.0, 0.0)
    logprobs = torch.tensor([logprob for sample in group.samples for logprob in sample.logprobs])
    assert float((scored.logprobs_T - logprobs).abs().max()) < 1e-4
