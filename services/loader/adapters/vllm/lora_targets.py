"""Which modules of a base vLLM wraps for LoRA: those that a target names and that it has a wrapper for.

As it is, an engine does not start where a target's name also fits a module without a wrapper, such as a
router that is called as a projection is.
"""

import logging
from typing import Any

_log = logging.getLogger(__name__)


def wrap_what_can_be() -> None:
    """Go on without modules that vLLM has no wrapper for; an adapter on one is refused when it is loaded."""
    from vllm.lora.model_manager import LoRAModelManager

    shipped = LoRAModelManager._match_target_modules  # noqa: SLF001
    if shipped.__module__ == __name__:
        return  # extended already

    def matches(self: Any, name: str) -> bool:  # Any, here and below: vllm has no types
        if not shipped(self, name):
            return False
        module = self.model.get_submodule(name)
        if _can_be_wrapped(self, name, module):
            return True
        found = {"target": name, "type": type(module).__name__}
        _log.warning("vLLM has no LoRA for a module that is named like a target", extra=found)
        return False

    LoRAModelManager._match_target_modules = matches  # noqa: SLF001


def _can_be_wrapped(manager: Any, name: str, module: Any) -> bool:
    from vllm.lora.layers import BaseLayerWithLoRA
    from vllm.lora.utils import _all_lora_classes
    from vllm.model_executor.layers.fused_moe import MoERunner

    if isinstance(module, BaseLayerWithLoRA):
        return True
    if isinstance(module, MoERunner):
        kernel = getattr(module.routed_experts.quant_method, "moe_kernel", None)
        return kernel is not None and bool(kernel.supports_lora())
    parts = manager.packed_modules_mapping.get(name.rpartition(".")[2], [])
    return any(
        each.can_replace_layer(
            source_layer=module,
            lora_config=manager.lora_config,
            packed_modules_list=parts,
            model_config=manager.model.config,
        )
        for each in _all_lora_classes
    )
