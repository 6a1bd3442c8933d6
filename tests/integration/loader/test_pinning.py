"""Where memory is pinned, as on CUDA, no tensor of an adapter is. Simulated: a pinned tensor is a copy."""

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def test_adapters_of_one_shape_are_wrapped_alike_and_nothing_is_pinned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    import vllm.lora.model_manager as managers
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.lora_weights import LoRALayerWeights

    from services.loader.adapters.vllm.templates import Templates
    from services.loader.adapters.vllm.worker_extension import merge

    pinned, slow = [], []
    monkeypatch.setattr(managers, "PIN_MEMORY", True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self.clone())
    names = [f"model.layers.{at}.self_attn.q_proj" for at in range(4)]
    manager: Any = SimpleNamespace(
        packed_modules={}, modules=dict.fromkeys(names), is_pooling_model=False, supports_mm=False
    )
    for name in ("_create_merged_loras_inplace", "_get_lora_layer_weights", "_get_text_lora_name"):
        if hasattr(managers.LoRAModelManager, name):
            setattr(manager, name, getattr(managers.LoRAModelManager, name).__get__(manager))
    if hasattr(managers.LoRAModelManager, "_get_text_lora_names"):
        manager._get_text_lora_names = managers.LoRAModelManager._get_text_lora_names.__get__(manager)
    templates = Templates()
    for number in (1, 2, 3):
        memory = torch.randn(4 * 1024)

        def slowly(number: int = number, memory: Any = memory) -> Any:
            slow.append(number)
            parts = memory.view(4, 2, 512)
            loras = {
                name: LoRALayerWeights(name, 8, 8, a.view(8, 64), b.view(64, 8))
                for name, (a, b) in zip(names, parts, strict=True)
            }
            lora = LoRAModel(number, 8, loras)
            merge(manager, lora)
            return lora

        lora = templates.wrap(number, memory, shape="one", slowly=slowly)
        assert lora.id == number
        assert torch.equal(lora.loras[names[2]].lora_b.flatten(), memory[2 * 1024 + 512 :][:512])
    assert managers.PIN_MEMORY
    assert slow == [1]
    assert not pinned
