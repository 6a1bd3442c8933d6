"""Names of files and tensors in an adapter, layout ``dense/1``."""

from typing import Literal

LAYOUT = "dense/1"
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MANIFEST_FILE = "mint_manifest.json"

Half = Literal["A", "B"]

_PREFIX = "base_model.model."


def peft_name(module: str, half: Half) -> str:
    """Return the PEFT name of a module's A ``[rank, in]`` or B ``[out, rank]``."""
    return f"{_PREFIX}{module}.lora_{half}.weight"


def split_peft_name(name: str) -> tuple[str, Half] | None:
    """Return (module, half) of a canonical PEFT name, None for any other name."""
    for half in ("A", "B"):
        suffix = f".lora_{half}.weight"
        if name.startswith(_PREFIX) and name.endswith(suffix):
            module = name[len(_PREFIX) : -len(suffix)]
            return (module, half) if module else None
    return None


def leaf_of(module: str) -> str:
    """Return the last part of a module's name: ``q_proj``."""
    return module.rpartition(".")[2]
