"""What vLLM serves is what transformers and peft compute (float32)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from mint_common.claims import RevisionRef
from mint_common.generation import SampleRequest, Sampling, float32s, int32s
from mint_common.ids import TenantId

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

BASE_DIR = Path(__file__).parents[3] / "bases" / "tiny"
TOLERANCE = 1e-4
PROMPTS = ("f abcd=", "rev hgfe=", "the quick brown fox jumps", "f jihgfa=")


@dataclass(frozen=True)
class Answer:
    """One completion."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


async def sample(rig: Any, revision: RevisionRef | None, prompt: str, seed: int) -> Answer:
    tokens = await rig.client.tokenize(prompt)
    request = SampleRequest(
        request_id=f"parity-{seed}",
        tenant_id=TenantId("t"),
        revision=revision,
        tokens=tokens,
        sampling=Sampling(max_new_tokens=24, temperature=1.0, seed=seed, ignore_eos=True),
    )
    sampled = await rig.client.sample(request)
    assert sampled.revision == (revision.digest if revision else None)
    (sequence,) = sampled.sequences
    answer = Answer(tokens, int32s(sequence.tokens), float32s(sequence.logprobs))
    assert len(answer.tokens) == len(answer.logprobs) == 24
    return answer


def reference(folder: Path | None, answers: Sequence[Answer]) -> list[list[float]]:
    """Return the log-probabilities of the answers' tokens under transformers, with peft's own loader."""
    model = transformers.AutoModelForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32)
    if folder is not None:
        model = peft.PeftModel.from_pretrained(model, folder)
    model.eval()
    found = []
    for answer in answers:
        ids = torch.tensor([[*answer.prompt, *answer.tokens]])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        first = len(answer.prompt)
        found.append([logprobs[first + i - 1, token].item() for i, token in enumerate(answer.tokens)])
    return found


def max_difference(found: list[list[float]], answers: Sequence[Answer]) -> float:
    return max(
        abs(a - b)
        for expected, answer in zip(found, answers, strict=True)
        for a, b in zip(expected, answer.logprobs, strict=True)
    )


async def test_base_and_two_adapters_in_one_batch_agree_with_peft(rig: Any, tmp_path: Path) -> None:
    first, second = await rig.revision(1, rank=4), await rig.revision(2, rank=16)
    who = (None, first, second)
    flat = await asyncio.gather(
        *(
            sample(rig, revision, prompt, seed=10 * i + j)
            for j, prompt in enumerate(PROMPTS)
            for i, revision in enumerate(who)
        )
    )
    folders = {each.digest: (await rig.tiers._staging.stage(each)).folder for each in (first, second)}
    found = {}
    for i, revision in enumerate(who):
        answers = flat[i :: len(who)]
        folder = folders[revision.digest] if revision else None
        found[i] = reference(folder, answers)
        assert max_difference(found[i], answers) < TOLERANCE
    # The three really differ, so an adapter that did nothing, or the wrong one, would be seen.
    assert max_difference(found[0], flat[1::3]) > 0.1
    assert max_difference(reference(folders[first.digest], flat[2::3]), flat[2::3]) > 0.1


async def test_an_evicted_adapter_comes_back_the_same(rig: Any) -> None:
    revision = await rig.revision(3)
    before = await sample(rig, revision, PROMPTS[0], seed=5)
    await rig.client.change(revision.digest, "evict", tenant_id=TenantId("t"))
    assert not await rig.engine._llm.list_loras()
    after = await sample(rig, revision, PROMPTS[0], seed=5)
    assert after == before
    assert rig.engine.loads == 2


async def test_more_adapters_than_slots_and_host_capacity(rig: Any) -> None:
    revisions = [await rig.revision(seed) for seed in range(20, 28)]
    alone = [await sample(rig, revision, PROMPTS[1], seed=7) for revision in revisions]
    together = await asyncio.gather(
        *(sample(rig, revision, PROMPTS[1], seed=7) for revision in revisions * 2)
    )
    for one, other in zip(alone * 2, together, strict=True):
        assert one.tokens == other.tokens
        assert max(abs(a - b) for a, b in zip(one.logprobs, other.logprobs, strict=True)) < TOLERANCE
    assert len({answer.logprobs for answer in alone}) == len(revisions)
    assert len(await rig.engine._llm.list_loras()) <= 4
