"""The engine's module of each name in an adapter, from the tables of vLLM and transformers.

An adapter says what transformers calls a module. vLLM's own table maps the names of checkpoints, which are
often the same; where transformers renames what it loads (Mixtral's ``block_sparse_moe``, the ``backbone`` of
Nemotron-H), its table is followed back to the checkpoint's name first.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from vllm.lora.utils import parse_fine_tuned_lora_name
from vllm.model_executor.models.utils import is_pp_missing_parameter

from mint_common.adapters_format.names import peft_name

Rename = Callable[[str], str]
_EXPERTS = ".experts"


def renaming(manager: Any) -> Rename:  # Any, here and below: vllm and transformers have no types
    """Return what maps a module's name in an adapter to the engine's.

    A name that no table leads to a module of the engine is returned as vLLM itself maps it.
    """
    mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
    mappers = [mapper.get_rename_mapper(), None] if mapper is not None else [None]
    spellings: list[Rename] = [str, *_checkpoint_spellings(getattr(manager.model, "config", None))]
    known = known_modules(manager)

    def names(module: str) -> Iterator[str]:
        for mapper in mappers:
            for spell in spellings:
                yield str(parse_fine_tuned_lora_name(peft_name(spell(module), "A"), mapper)[0])

    @cache  # the names are those of the base's modules
    def rename(module: str) -> str:
        found = (name for name in names(module) if name in known or is_in_another_stage(manager, name))
        return next(found, None) or next(names(module))

    return rename


def known_modules(manager: Any) -> set[str]:
    """Return the modules that take LoRA, and the parts of fused ones."""
    return {*manager.modules, *(part for parts in manager.packed_modules.values() for part in parts)}


def is_in_another_stage(manager: Any, module: str) -> bool:
    """Return whether a module belongs to a stage of the pipeline that another worker runs."""
    return bool(is_pp_missing_parameter(f"{module}.", manager.model))


def _checkpoint_spellings(config: Any) -> Iterator[Rename]:
    """Yield what undoes the renaming of transformers' class for a config, and for its text model's."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    configs = [config, config.get_text_config()] if config is not None else []
    for kind in dict.fromkeys(each.model_type for each in configs):
        if found := get_checkpoint_conversion_mapping(kind):
            yield partial(_as_in_checkpoint, [each.reverse_transform() for each in reversed(found)])


def _as_in_checkpoint(changes: list[Any], module: str) -> str:
    is_experts = module.endswith(_EXPERTS)
    name = f"{module}.down_proj" if is_experts else f"{module}.weight"
    for change in changes:
        name = change.rename_source_key(name)[0]
    if not is_experts:
        return name.removesuffix(".weight")
    head, found, _ = name.rpartition(f"{_EXPERTS}.")
    return head + _EXPERTS if found else module
