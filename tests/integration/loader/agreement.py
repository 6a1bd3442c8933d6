"""How far an engine's log-probabilities are from those of transformers and peft, by dtype."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import peft
import torch
import transformers

from tests.integration.loader.moe_base import Answer, Served, answer

BOUNDS = {
    torch.float32: {"p50": 1e-5, "p99": 1e-4, "kl": 1e-6},
    torch.bfloat16: {"p50": 2e-2, "p99": 0.7, "kl": 1e-2},
}
"""Of the difference of a token's log-probabilities; ``kl``: the mean of r - 1 - log r, r their ratio (k3).

They are those of docs/operate/gpu.md.
"""
SEEDS = 4


async def mixed_answers(served: Served, folders: Sequence[Path]) -> list[list[Answer]]:
    """Return answers of the base and of each adapter, all sampled at once."""
    who = [None, *[await served.load(folder) for folder in folders]]
    found = await asyncio.gather(
        *(answer(served.engine, one, seed=seed, count=24) for one in who for seed in range(SEEDS))
    )
    await served.unload_all()
    return [list(found[begin : begin + SEEDS]) for begin in range(0, len(found), SEEDS)]


def assert_as_computed(
    base: Path, folders: Sequence[Path], answers: Sequence[Sequence[Answer]], dtype: torch.dtype
) -> None:
    """Check that the base and each adapter answered as themselves, and not as another."""
    for folder, own in zip((None, *folders), answers, strict=True):
        for reference in {dtype, torch.float32}:
            found = agreement(computed(base, folder, own, reference), own)
            assert is_within(found, BOUNDS[dtype]), (dtype, reference, folder, found)
    wrong = agreement(computed(base, folders[1], answers[1], dtype), answers[1])
    assert not is_within(wrong, BOUNDS[dtype]), "another adapter shows through the rounding"


def computed(
    base: Path, folder: Path | None, answers: Sequence[Answer], dtype: torch.dtype
) -> list[list[float]]:
    """Return the answers' log-probabilities under transformers and peft in a dtype; logits in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    if folder is not None:
        model = peft.PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).to(dtype)
    model.eval()
    found = []
    for one in answers:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*one.prompt, *one.tokens]])).logits[0].float()
        rows, first = logits.log_softmax(-1), len(one.prompt) - 1
        found.append([rows[first + i, token].item() for i, token in enumerate(one.tokens)])
    return found


def agreement(found: list[list[float]], answers: Sequence[Answer]) -> dict[str, float]:
    """Return how far the engine's log-probabilities are from others."""
    theirs = torch.tensor(found).flatten()
    log_ratio = theirs - torch.tensor([one.logprobs for one in answers]).flatten()
    p50, p99 = log_ratio.abs().quantile(torch.tensor([0.5, 0.99])).tolist()
    return {"p50": p50, "p99": p99, "kl": float((log_ratio.exp() - 1 - log_ratio).mean())}


def is_within(found: dict[str, float], bounds: dict[str, float]) -> bool:
    """Return whether all is as near as the bounds say."""
    return all(found[name] <= bound for name, bound in bounds.items())
