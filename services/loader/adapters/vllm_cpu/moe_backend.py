"""vLLM's choice of the implementation for layers of experts."""

import copy
from typing import Any


def compute_experts_with_lora() -> None:
    """Give layers of experts with LoRA an implementation on CPU.

    As it is, vLLM chooses the Triton one on every platform as soon as LoRA is on, even if no expert is
    targeted, and the first forward pass dies: Triton has no CPU backend. Experts of a kind that the
    implementation here does not compute get vLLM's own, which takes no LoRA.
    """
    import vllm.model_executor.layers.fused_moe.oracle.unquantized as oracle
    import vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method as method

    stock = oracle.select_unquantized_moe_backend
    if stock.__module__ == __name__:
        return  # repaired already

    def select(moe_config: Any) -> tuple[Any, Any]:
        if not moe_config.is_lora_enabled:
            return stock(moe_config)  # type: ignore[no-any-return]  # vllm has no types
        # Loads the experts' base classes, which processes without experts do without.
        from services.loader.adapters.vllm_cpu.moe_experts import TorchLoraExperts

        if TorchLoraExperts.computes(moe_config):
            return oracle.UnquantizedMoeBackend.CPU, TorchLoraExperts
        without = copy.copy(moe_config)
        without.is_lora_enabled = False
        return stock(without)  # type: ignore[no-any-return]  # vllm has no types

    oracle.select_unquantized_moe_backend = select
    method.select_unquantized_moe_backend = select
