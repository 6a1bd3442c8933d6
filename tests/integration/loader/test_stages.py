"""A worker of one stage takes its own layers of an adapter. No engine: the CPU build has no stages."""

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

torch = pytest.importorskip("torch")
RANK, WIDTH = 2, 4
MODELS: list[Any] = []
"""Kept: vLLM remembers what a model lacks by the model's id, which a later one could get."""


def stage(own: int) -> Any:
    """Return the worker's manager of a model of two layers, of which it runs one."""
    from vllm.model_executor.models.utils import PPMissingLayer

    layers = [torch.nn.Linear(WIDTH, WIDTH) if at == own else PPMissingLayer() for at in range(2)]
    model = torch.nn.Module()
    model.model = torch.nn.Module()
    model.model.layers = torch.nn.ModuleList(layers)
    MODELS.append(model)
    manager = SimpleNamespace(model=model, modules={f"model.layers.{own}.q_proj": None}, packed_modules={})
    return SimpleNamespace(lora_config=SimpleNamespace(max_lora_rank=8), _adapter_manager=manager)


def tensors(*modules: str) -> dict[str, Any]:
    shapes = {"A": (RANK, WIDTH), "B": (WIDTH, RANK)}
    return {
        f"base_model.model.{module}.lora_{half}.weight": torch.randn(shape)
        for module in modules
        for half, shape in shapes.items()
    }


def taken(own: int, found: dict[str, Any]) -> set[str]:
    from services.loader.adapters.vllm.lora_models import model_of
    from services.loader.adapters.vllm.module_names import renaming

    manager = stage(own)
    lora = model_of(manager, found, rank=RANK, number=1, rename=renaming(manager._adapter_manager))
    return set(lora.loras)


def test_each_stage_takes_its_own_layers() -> None:
    whole = tensors("model.layers.0.q_proj", "model.layers.1.q_proj")
    assert taken(0, whole) == {"model.layers.0.q_proj"}
    assert taken(1, whole) == {"model.layers.1.q_proj"}
    assert taken(1, tensors("model.layers.0.q_proj")) == set()


def test_what_no_stage_has_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no LoRA on model\.layers\.0\.other: the engine has no such module"
    ):
        taken(0, tensors("model.layers.0.other"))
    with pytest.raises(ValueError, match="no module of the base"):
        taken(0, {})
