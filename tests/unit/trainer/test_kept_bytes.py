"""The estimate that sizes micro-batches and `mint plan` equals the bytes that autograd saves in a pass."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from mint_common.adapters_format import BASE_FILE
from services.standalone.adapters.model_sizes import read_shape
from services.trainer.adapters.lora.tensors import new_lora
from services.trainer.adapters.model.placing import place
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.core.batch import Row
from services.trainer.core.packing import pack_rows
from services.trainer.core.placement import BaseDType, Checkpointing
from services.trainer.core.ranks import ALONE

from .families import describe_family, everything
from .test_lora import with_random_b

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3": {"hidden_size": 512, "intermediate_size": 1944, "num_attention_heads": 8, "head_dim": 64},
    "Llama": {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "head_dim": 64},
    "Qwen3Moe": {"hidden_size": 512, "moe_intermediate_size": 768, "num_attention_heads": 8, "head_dim": 64},
}
KEY_HEADS = {"Llama": 3}
FEW, MANY = 128, 512
_LAST_NORM_BYTES = 4


@pytest.fixture(params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A base whose layers are wide enough that their activations are most of a pass."""
    sizes = {"num_hidden_layers": 4, "max_position_embeddings": 1024}
    sizes["num_key_value_heads"] = KEY_HEADS.get(request.param, 2)
    facts = describe_family(request.param, tmp_path, **SHAPES[request.param], **sizes)
    (tmp_path / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    return tmp_path


def saved_bytes(base: ResidentBase, tokens: int) -> int:
    """Return the bytes that the backward pass of one line keeps, weights of the base aside."""
    policy = with_random_b(new_lora(base.facts, everything(base.facts, rank=16)), std=0.05)
    drawn = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 264, (tokens - 8,), generator=drawn).tolist()
    row = Row(prompt=tuple(prompt), tokens=(9,) * 8, logprobs=(), advantage=1.0)
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        base.score(pack_rows([row], policy=0, max_length=0), [policy])
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_saved_bytes_are_the_estimate(folder: Path, dtype: BaseDType, checkpointing: Checkpointing) -> None:
    placement = place(
        device="cpu", dtype=dtype, checkpointing=checkpointing, memory_share=None, process=ALONE
    )
    base = load_base(folder, placement)
    numbers, item = base.token_numbers, base.dtype.itemsize
    shape = read_shape(json.loads((folder / "config.json").read_text()), place="here")
    assert shape.token_numbers == numbers, "of the trainer, and of `mint plan`"
    measured = (saved_bytes(base, MANY) - saved_bytes(base, FEW)) / (MANY - FEW)
    if checkpointing == "on":
        # One layer is recomputed while the others keep their input alone; the last norm keeps its own.
        measured -= _LAST_NORM_BYTES * numbers.width
        assert measured == pytest.approx(item * numbers.layers * numbers.width, rel=0.15)
        measured += numbers.kept_bytes(item, recomputed=False) / numbers.layers
    within = 0.2 if base.facts.experts else 0.15  # tokens of an expert are stored once more, in its order
    assert measured / numbers.kept_bytes(item, recomputed=base.recomputes) == pytest.approx(1.0, abs=within)
