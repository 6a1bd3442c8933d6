"""An adapter as vLLM's requests name it."""

from typing import Any

from services.loader.ports import LoadedAdapter


def lora_request_of(adapter: LoadedAdapter) -> Any:  # Any: vllm has no types
    """Return vLLM's LoRARequest of an adapter that it holds."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=adapter.digest, lora_int_id=adapter.number, lora_path=str(adapter.folder))
