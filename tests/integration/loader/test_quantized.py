"""A quantized base serves adapters: as transformers computes with the weights that its words stand for."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from mint_common.adapters_format import BASE_FILE, WEIGHTS_FILE
from services.standalone.adapters.base_description import describe_base
from tests.integration.loader.moe_base import (
    Answer,
    Served,
    logprobs_under,
    merged,
    random_adapter,
    running_engine,
)

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]

TINY = Path(__file__).parents[3] / "bases/tiny"
GROUP, BITS, ZERO = 64, 4, 8
MEDIAN, MOST = 0.02, 0.7
"""How far log-probabilities in bfloat16 may be from those in float32 (docs/operate/gpu.md)."""


def make_gptq(quantized: Path, meant: Path) -> None:
    """Make the tiny base in 4-bit words, and one of the same values in float32."""
    for folder in (quantized, meant):
        shutil.copytree(TINY, folder)
        (folder / BASE_FILE).unlink()
    stored: dict[str, torch.Tensor] = {}
    values: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(TINY / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            stored[name] = tensor.to(torch.bfloat16)
            values[name] = stored[name].float()
            continue
        outputs, inputs = tensor.shape
        groups = tensor.T.reshape(inputs // GROUP, GROUP, outputs)
        scale = (groups.abs().amax(1, keepdim=True) / (ZERO - 1)).to(torch.bfloat16).float()
        words = (groups / scale).round().clamp(-ZERO, ZERO - 1)
        values[name] = (words * scale).reshape(inputs, outputs).T.contiguous()
        place = name.removesuffix("weight")
        stored[f"{place}qweight"] = _packed((words + ZERO).to(torch.int64).reshape(inputs, outputs))
        stored[f"{place}scales"] = scale[:, 0].to(torch.bfloat16).contiguous()
        stored[f"{place}qzeros"] = torch.full((inputs // GROUP, outputs // 8), 0x77777777, dtype=torch.int32)
        stored[f"{place}g_idx"] = torch.arange(inputs, dtype=torch.int32) // GROUP
    save_file(stored, quantized / "model.safetensors", metadata={"format": "pt"})
    save_file(values, meant / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((TINY / "config.json").read_text())
    stated = {"quant_method": "gptq", "bits": BITS, "group_size": GROUP, "desc_act": False, "sym": True}
    text = json.dumps({**config, "dtype": "bfloat16", "quantization_config": stated})
    (quantized / "config.json").write_text(text)


def _packed(words: torch.Tensor) -> torch.Tensor:
    """Return eight rows of 4-bit words in each 32-bit one, the first lowest."""
    rows = words.reshape(-1, 8, words.shape[1])
    packed = sum(rows[:, place] << (BITS * place) for place in range(8))
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32).contiguous()


async def test_a_base_in_4_bit_words_serves_itself_and_an_adapter(tmp_path: Path) -> None:
    make_gptq(tmp_path / "gptq", tmp_path / "meant")
    facts = describe_base(tmp_path / "gptq", name="quantized", max_rank=16)
    (tmp_path / "gptq" / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    assert facts.quantization == "gptq"
    folder = random_adapter(facts, tmp_path / "adapter", seed=1)
    async with running_engine(tmp_path / "gptq", facts, dtype="bfloat16") as engine:
        served = Served(engine, tmp_path / "gptq", facts)
        alone = [await served.sample(None, seed=seed) for seed in range(4)]
        adapter = await served.load(folder)
        adapted = [await served.sample(adapter, seed=seed) for seed in range(4)]
    plain = {name: torch.zeros_like(each) for name, each in load_file(folder / WEIGHTS_FILE).items()}
    base = merged(tmp_path / "meant", facts, plain)
    with_adapter = merged(tmp_path / "meant", facts, load_file(folder / WEIGHTS_FILE))
    right = [*_differences(base, alone), *_differences(with_adapter, adapted)]
    assert median(right) < MEDIAN
    assert max(right) < MOST
    assert median(_differences(base, adapted)) > 5 * MEDIAN


def _differences(model: torch.nn.Module, answers: Sequence[Answer]) -> list[float]:
    """Return how far each token's log-probability is from that under a model of transformers."""
    expected = logprobs_under(model, answers)
    return [
        abs(a - b)
        for row, one in zip(expected, answers, strict=True)
        for a, b in zip(row, one.logprobs, strict=True)
    ]
