"""`adapter_config.json`: what PEFT and vLLM need to read the weights, every optional feature off."""

import json
import re

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.manifest import Manifest, canonical_json
from mint_common.adapters_format.names import FUSED
from mint_common.adapters_format.refusal import Reason, refusal, shown
from mint_common.model_files import CONFIG_FILE

FREE_KEYS = frozenset(
    {
        "auto_mapping",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "task_type",
    }
)
"""Keys that change nothing when an adapter is served."""
_IN_A_LAYER = re.compile(r"(?:.*\.)?\d+\.")


def write_config(facts: BaseFacts, *, rank: int, layout: str, targets: tuple[str, ...]) -> bytes:
    """Return the config of an adapter at scaling 1."""
    config: dict[str, object] = {
        "base_model_name_or_path": facts.name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    if layout == FUSED:
        config |= split_fused_targets(facts, targets)
    return canonical_json(config)


def split_fused_targets(facts: BaseFacts, targets: tuple[str, ...]) -> dict[str, list[str]]:
    """Return PEFT's two lists: modules to wrap, and parameters of the experts.

    PEFT takes gate, up and down out of `target_modules` of a model with experts, so they are not put there.
    """
    leaves = {target.rpartition(".")[2] for target in targets}
    experts = sorted({_IN_A_LAYER.sub("", module, count=1) for module in facts.experts})
    parameters = [f"{module}.down_proj" for module in experts if "down_proj" in leaves]
    parameters += [f"{module}.gate_up_proj" for module in experts if "gate_proj" in leaves]
    routed = ("down_proj", "gate_proj", "up_proj")
    modules = [target for target in targets if target.removeprefix("experts.") not in routed]
    return {"target_modules": modules, "target_parameters": parameters}


def read_config(config: bytes) -> dict[str, object]:
    """Return the object that a PEFT config is. Raises AdapterInvalid."""
    try:
        values = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise refusal(Reason.UNSUPPORTED_CONFIG, f"{CONFIG_FILE} is not JSON") from error
    if not isinstance(values, dict):
        raise refusal(Reason.UNSUPPORTED_CONFIG, f"{CONFIG_FILE} is not a JSON object")
    return values


def check_config(facts: BaseFacts, manifest: Manifest, config: bytes) -> None:
    """Check that the PEFT config is plain LoRA at scaling 1 and agrees with the manifest."""
    values = read_config(config)
    needed: dict[str, object] = {
        "peft_type": "LORA",
        "r": manifest.rank,
        "lora_alpha": manifest.rank,
        "target_modules": list(manifest.targets),
        "base_model_name_or_path": manifest.base,
    }
    if manifest.layout == FUSED:
        needed |= split_fused_targets(facts, manifest.targets)
    for key, value in needed.items():
        if values.get(key) != value:
            problem = f"{key} is {_described(values.get(key))}, needed {value!r}"
            raise refusal(Reason.UNSUPPORTED_CONFIG, problem)
    for key, value in values.items():
        if key not in needed and key not in FREE_KEYS and not is_neutral(key, value):
            raise refusal(Reason.UNSUPPORTED_CONFIG, f"{shown(key)} is {_described(value)}")


def is_neutral(key: str, value: object) -> bool:
    """Return whether a PEFT option is off. Unknown options are off when empty."""
    return not value or (key, value) in (("bias", "none"), ("init_lora_weights", True))


def _described(value: object) -> str:
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else shown(str(value))
