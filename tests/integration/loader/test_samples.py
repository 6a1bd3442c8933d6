"""Whole samples of a real engine: where they end, what their log-probabilities are, how they are repeated."""

# ruff: noqa: N806  (shape suffixes: L = tokens read, T = sampled tokens, V = vocabulary, K = likeliest)

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mint_common.claims import RevisionRef
from mint_common.client.engine import EngineClient
from mint_common.errors import InvalidField
from mint_common.generation import (
    Likeliest,
    Sampled,
    SampledSequence,
    SampleRequest,
    Sampling,
    float32s,
    int32s,
)
from mint_common.ids import TenantId, WaveId
from mint_common.records import Group, Sample, WaveRecord, decode_record, encode_blob
from services.trainer.adapters.model.resident_base import load_base as load_trainers
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.losses.tokens import ratio_max_error
from services.trainer.core.packing import pack_rows
from tests.integration.loader.conftest import BASE_DIR
from tests.integration.loader.moe_base import load_base

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

PROMPT = (5, 9, 12, 7, 30, 41)
GREEDY = Sampling(max_new_tokens=12, temperature=0.0, ignore_eos=True)
RANDOM = Sampling(max_new_tokens=24, temperature=1.0, seed=3, n=3, ignore_eos=True)


def ask(revision: RevisionRef | None = None, **changes: Any) -> SampleRequest:
    fields = {"tokens": PROMPT, "sampling": GREEDY, **changes}
    return SampleRequest(request_id="s", tenant_id=TenantId("t"), revision=revision, **fields)


def tokens_of(sequence: SampledSequence) -> list[int]:
    return np.frombuffer(sequence.tokens, "<i4").tolist()


def logprobs_of(given: SampledSequence | Sampled) -> np.ndarray:
    raw = given.logprobs if isinstance(given, SampledSequence) else given.prompt_logprobs
    assert raw is not None
    return np.frombuffer(raw, "<f4")


def cells(likeliest: Likeliest | None) -> tuple[np.ndarray, np.ndarray]:
    assert likeliest is not None
    shape = (-1, likeliest.count)
    return (
        np.frombuffer(likeliest.tokens, "<i4").reshape(shape),
        np.frombuffer(likeliest.logprobs, "<f4").reshape(shape),
    )


async def score(client: EngineClient, tokens: list[int], revision: RevisionRef | None = None) -> np.ndarray:
    scored = await client.sample(
        ask(revision, tokens=tuple(tokens), sampling=replace(GREEDY, max_new_tokens=1), prompt_logprobs=0)
    )
    return logprobs_of(scored)


async def test_a_stop_token_is_the_last_token_with_its_log_probability(rig: Any) -> None:
    free = (await rig.client.sample(ask())).sequences[0]
    assert (free.reason, len(tokens_of(free))) == ("length", 12)
    wanted = tokens_of(free)[4]
    at = tokens_of(free).index(wanted) + 1
    stopped = (await rig.client.sample(ask(sampling=replace(GREEDY, stop_tokens=(wanted,))))).sequences[0]
    assert stopped.reason == "stop"
    assert tokens_of(stopped) == tokens_of(free)[:at]
    assert np.array_equal(logprobs_of(stopped), logprobs_of(free)[:at])


async def test_a_stop_string_ends_at_the_token_that_completes_it(rig: Any) -> None:
    chat = Sampling(max_new_tokens=24, temperature=1.0, seed=5, ignore_eos=True)
    free = tokens_of((await rig.client.sample(ask(sampling=chat))).sequences[0])
    text = [rig.engine._tokenizer.decode(free[: i + 1]) for i in range(len(free))]
    assert text[7].isascii()
    stop = text[7][-2:]
    first = next(i for i, so_far in enumerate(text) if stop in so_far)
    stopped = (await rig.client.sample(ask(sampling=replace(chat, stop=(stop,))))).sequences[0]
    assert (stopped.reason, tokens_of(stopped)) == ("stop", free[: first + 1])
    assert len(logprobs_of(stopped)) == first + 1


async def test_the_end_of_sequence_token_ends_and_can_be_ignored(rig: Any) -> None:
    eos = rig.engine.eos_token_id
    likely = Sampling(max_new_tokens=200, temperature=2.0, seed=1)
    ended = (await rig.client.sample(ask(sampling=likely))).sequences[0]
    assert (ended.reason, tokens_of(ended)[-1], tokens_of(ended).count(eos)) == ("stop", eos, 1)
    on = (await rig.client.sample(ask(sampling=replace(likely, ignore_eos=True)))).sequences[0]
    assert (on.reason, len(tokens_of(on))) == ("length", 200)
    assert tokens_of(on)[: len(tokens_of(ended))] == tokens_of(ended)


async def test_log_probabilities_are_the_models_own_whatever_the_temperature(rig: Any) -> None:
    revision = await rig.revision(1)
    for at, sampling in enumerate(
        (RANDOM, replace(RANDOM, temperature=0.5, top_k=5, top_p=0.9), replace(RANDOM, n=1, temperature=0.0))
    ):
        for ref in (None, revision):
            sampled = await rig.client.sample(ask(ref, sampling=sampling))
            assert sampled.revision == (ref.digest if ref else None), at
            for each in sampled.sequences:
                scored = await score(rig.client, [*PROMPT, *tokens_of(each)], ref)
                assert np.isnan(scored[0])
                assert np.abs(scored[len(PROMPT) :] - logprobs_of(each)).max() < 1e-4


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
async def test_processed_log_probabilities_are_those_of_the_distribution_that_was_sampled_from(
    rig: Any, temperature: float
) -> None:
    warm = replace(RANDOM, temperature=temperature, logprobs=2)
    raw, processed, beside = await asyncio.gather(
        rig.client.sample(ask(sampling=warm)),
        rig.client.sample(ask(sampling=warm, logprobs_mode="processed", texts=True)),
        rig.client.sample(ask(sampling=replace(RANDOM, seed=9))),
    )
    assert [each.tokens for each in processed.sequences] == [each.tokens for each in raw.sequences]
    assert {each.text for each in raw.sequences} == {""}
    model = load_base(BASE_DIR).double()
    for mode, sampled, own in (
        ("raw", raw, 1.0),
        ("processed", processed, temperature),
        ("raw", beside, 1.0),
    ):
        for each in sampled.sequences:
            tokens = tokens_of(each)
            with torch.no_grad():
                logits_LV = model(input_ids=torch.tensor([[*PROMPT, *tokens]])).logits[0]
            rows_TV = (logits_LV[len(PROMPT) - 1 : -1] / own).log_softmax(-1)
            expected_T = rows_TV[range(len(tokens)), tokens].numpy()
            assert np.abs(logprobs_of(each) - expected_T).max() < 1e-4, mode
            if each.likeliest is not None:
                best_TK = rows_TV.topk(2).values.numpy()
                assert np.abs(cells(each.likeliest)[1] - best_TK).max() < 1e-4, mode
    assert all(each.text for each in processed.sequences)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
async def test_a_trainer_agrees_with_processed_log_probabilities(rig: Any, temperature: float) -> None:
    sampled = await rig.client.sample(
        ask(sampling=replace(RANDOM, temperature=temperature), logprobs_mode="processed")
    )
    samples = tuple(
        Sample(tokens=int32s(each.tokens), logprobs=float32s(each.logprobs), reward=float(number), text="")
        for number, each in enumerate(sampled.sequences)
    )
    record = WaveRecord(
        wave_id=WaveId("w"),
        revision=None,
        groups=(Group(prompt_tokens=PROMPT, samples=samples),),
        logprobs_temperature=temperature,
    )
    rows = build_grpo_batch(decode_record(encode_blob(record))).rows
    with torch.no_grad():
        scored_T = load_trainers(BASE_DIR).score(pack_rows(rows, policy=0, max_length=128)).logprobs_T
    sampled_T = torch.tensor([logprob for row in rows for logprob in row.logprobs])
    assert ratio_max_error(scored_T, sampled_T) < 1e-3


async def test_likeliest_tokens_come_beside_the_sampled_and_the_prompts_own(rig: Any) -> None:
    sampled = await rig.client.sample(ask(sampling=replace(GREEDY, logprobs=3), prompt_logprobs=4))
    tokens, logprobs = cells(sampled.sequences[0].likeliest)
    assert tokens[:, 0].tolist() == tokens_of(sampled.sequences[0])
    assert np.allclose(logprobs[:, 0], logprobs_of(sampled.sequences[0]))
    assert (np.diff(logprobs, axis=1) <= 0).all()
    tokens, logprobs = cells(sampled.prompt_likeliest)
    assert tokens.shape == (len(PROMPT), 4)
    assert (tokens[0].tolist(), logprobs[0].tolist()) == ([0] * 4, [-99999.0] * 4)
    assert (logprobs[1:, 0] >= logprobs_of(sampled)[1:] - 1e-6).all()


async def test_a_seed_repeats_all_samples_in_a_mixed_batch_too(rig: Any) -> None:
    revisions = [await rig.revision(2), await rig.revision(3), await rig.revision(4), None]
    alone = [await rig.client.sample(ask(ref, sampling=RANDOM)) for ref in revisions]
    assert len({each.tokens for each in alone[0].sequences}) == 3
    noise = [ask(ref, sampling=replace(RANDOM, seed=None), prompt_logprobs=2) for ref in revisions]
    mixed = await asyncio.gather(
        *(rig.client.sample(request) for ref in revisions for request in (ask(ref, sampling=RANDOM), *noise))
    )
    for before, now in zip(alone, mixed[:: 1 + len(noise)], strict=True):
        assert [each.tokens for each in now.sequences] == [each.tokens for each in before.sequences]
        for one, other in zip(now.sequences, before.sequences, strict=True):
            assert np.allclose(logprobs_of(one), logprobs_of(other), rtol=0, atol=1e-5)
    assert len({each.sequences[0].tokens for each in alone}) > 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tokens": ()}, "tokens"),
        ({"tokens": (1, 100_000)}, "tokens"),
        ({"sampling": replace(GREEDY, max_new_tokens=100_000)}, "sampling.max_new_tokens"),
        ({"sampling": replace(GREEDY, temperature=2.5)}, "sampling.temperature"),
        ({"sampling": replace(GREEDY, stop_tokens=(100_000,))}, "sampling.stop_tokens"),
        ({"sampling": replace(GREEDY, stop_tokens=(1,) * 17)}, "sampling.stop_tokens"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"sampling": replace(RANDOM, top_k=3), "logprobs_mode": "processed"}, "logprobs_mode"),
        ({"sampling": replace(RANDOM, top_p=0.9), "logprobs_mode": "processed"}, "logprobs_mode"),
        ({"sampling": replace(GREEDY, logprobs=21)}, "sampling.logprobs"),
    ],
)
async def test_what_cannot_be_sampled_is_refused_by_name(rig: Any, changes: Any, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        await rig.client.sample(ask(**changes))
    assert refused.value.field == field


async def test_a_caller_who_goes_away_ends_its_request(rig: Any) -> None:
    long = replace(GREEDY, max_new_tokens=200)
    task = asyncio.create_task(rig.client.sample(ask(sampling=long)))
    async with asyncio.timeout(20):
        while not rig.tiers.resident_set.generating:
            await asyncio.sleep(0.001)
        task.cancel()
        while rig.tiers.resident_set.generating:
            await asyncio.sleep(0.005)
