"""The facts of a base, from its config, its weights and the bytes of its files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.base_files import base_files, files_digest, hash_files
from mint_common.adapters_format.names import leaf_of
from mint_common.adapters_format.sites import all_sites
from mint_common.errors import InvalidField
from mint_common.ids import BaseName
from services.standalone.adapters.base_weights import find_site, read_weights, weight_norms
from services.standalone.adapters.meta_model import read_config, read_model

QUANTIZATIONS = ("awq", "compressed-tensors", "fp8", "gptq", "mxfp4")


def describe_base(
    folder: Path, *, name: str, max_rank: int, hashes: Mapping[str, str] | None = None
) -> BaseFacts:
    """Return a base's facts.

    ``hashes`` are the SHA-256 of its files, where the caller knows them; else every byte is read for them.
    Every weight is read for its norm, in bounded memory. Raises NotFound or InvalidField.
    """
    config = read_config(folder)
    meta = read_model(config, place=str(folder))
    quantization = read_quantization(config, place=str(folder))
    modules, experts = meta.linears(), meta.experts()
    if not modules:
        raise nothing_to_adapt(meta.architecture, place=str(folder))
    weights = read_weights(folder, meta, is_quantized=bool(quantization))
    facts = BaseFacts(
        name=BaseName(name),
        digest=files_digest(hashes or hash_files(folder, base_files(folder), report=lambda _step: None)),
        architecture=meta.architecture,
        vocab_size=meta.text.vocab_size,
        max_context=meta.max_context,
        targets=tuple(
            sorted(
                {*map(leaf_of, modules), *(leaf for each in experts.values() for leaf in each.projections)}
            )
        ),
        modules=dict(sorted(modules.items())),
        max_rank=max_rank,
        experts=dict(sorted(experts.items())),
        quantization=quantization,
        layer_kinds=meta.layer_kinds,
        window=meta.window,
        shares_prompts=meta.shares_prompts,
    )
    sites = all_sites(facts)
    tensors = {
        site.name: find_site(site, experts.get(site.module), weights, is_quantized=bool(quantization))
        for site in sites
    }
    return replace(
        facts,
        checkpoint_names={
            site.name: tensors[site.name].name
            for site in sites
            if tensors[site.name].name != site.stored_name
        },
        norms=weight_norms(folder, tensors),
    )


def nothing_to_adapt(architecture: str, *, place: str) -> InvalidField:
    """Return the refusal of a model whose layers have no linears."""
    problem = (
        f"the layers of {architecture} have no linears, so that LoRA has nothing to act on: take another"
    )
    return InvalidField(field=place, problem=problem)


def read_quantization(config: Mapping[str, Any], *, place: str) -> str:  # Any: unchecked JSON
    """Return how a base is quantized, "" where it is not. Raises InvalidField for an unknown method."""
    stated = config.get("quantization_config") or config.get("compression_config")
    if not stated:
        return ""
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    if method not in QUANTIZATIONS:
        problem = f"quantized by {method or 'an unnamed method'}; MinT serves {', '.join(QUANTIZATIONS)}"
        raise InvalidField(field=place, problem=problem)
    return str(method)
