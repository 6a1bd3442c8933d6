"""A base on disk: a HF model folder plus `mint_base.json`, its facts."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from mint_common.adapters_format.base_facts import BaseFacts, ExpertsFacts
from mint_common.adapters_format.base_weights import EXPERT, LINEAR, weight_norms
from mint_common.adapters_format.manifest import canonical_json
from mint_common.adapters_format.names import leaf_of
from mint_common.adapters_format.tensor_file import read_header
from mint_common.errors import InvalidField, MintError, NotFound
from mint_common.ids import BaseName, Digest, sha256_digest

BASE_FILE = "mint_base.json"
Architecture = Literal[
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "DeepseekV32ForCausalLM",
    "Glm4MoeLiteForCausalLM",
    "GlmMoeDsaForCausalLM",
    "LlamaForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
]
"""Decoders, dense or with experts, whose modules have the names below."""

_INDEX_FILE = "model.safetensors.index.json"
_SINGLE_FILE = "model.safetensors"
_TEXT_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


def read_base_facts(folder: Path) -> BaseFacts:
    """Return the facts that a base folder states. Raises NotFound or InvalidField."""
    path = folder / BASE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=BaseFacts)
    except FileNotFoundError as error:
        raise NotFound(kind="base file", name=str(path)) from error
    except msgspec.DecodeError as error:
        raise InvalidField(field=str(path), problem=str(error)) from error


def describe_base(folder: Path, *, name: str, max_rank: int) -> BaseFacts:
    """Compute a base's facts from its config, its weights and the bytes of its files.

    Reads every byte for the digest, and every weight once more for its norm, in bounded memory. Raises
    NotFound or InvalidField.
    """
    config = _Config.read(folder)
    weights = _weight_files(folder)
    modules: dict[str, tuple[int, int]] = {}
    experts: dict[str, _Experts] = {}
    for tensor, shape in _tensors(folder / file for file in weights):
        _note(tensor, shape, modules, experts, layers=config.num_hidden_layers)
    if not modules:
        raise InvalidField(field=str(folder), problem="no linear modules like model.layers.0.mlp.up_proj")
    routed = {name: layer.facts(name) for name, layer in sorted(experts.items())}
    leaves = {leaf_of(module) for module in modules}
    sites = {*modules, *(f"{name}.{leaf}" for name, layer in routed.items() for leaf in layer.projections)}
    return BaseFacts(
        name=BaseName(name),
        digest=_digest(folder, weights),
        architecture=config.architectures[0],
        vocab_size=config.vocab_size,
        max_context=config.max_position_embeddings,
        targets=tuple(sorted(leaves.union(*(layer.projections for layer in routed.values())))),
        modules=dict(sorted(modules.items())),
        max_rank=max_rank,
        experts=routed,
        norms=weight_norms((folder / file for file in weights), sites),
    )


class _Config(msgspec.Struct, frozen=True):
    """The part of `config.json` that matters here."""

    architectures: tuple[Architecture]
    vocab_size: int
    max_position_embeddings: int
    num_hidden_layers: int | None = None

    @classmethod
    def read(cls, folder: Path) -> "_Config":
        path = folder / "config.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError as error:
            raise NotFound(kind="base config", name=str(path)) from error
        except msgspec.DecodeError as error:
            raise InvalidField(field=str(path), problem=str(error)) from error


def _weight_files(folder: Path) -> tuple[str, ...]:
    index = folder / _INDEX_FILE
    if not index.exists():
        return (_SINGLE_FILE,)
    try:
        files = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InvalidField(field=str(index), problem="no weight_map") from error
    if not all(isinstance(file, str) and Path(file).name == file for file in files):
        raise InvalidField(field=str(index), problem="weight_map names a file outside the folder")
    return tuple(sorted(files))


def _tensors(paths: Iterable[Path]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path in paths:
        try:
            with path.open("rb") as file:
                header = read_header(file, size_bytes=path.stat().st_size)
        except FileNotFoundError as error:
            raise NotFound(kind="base weights", name=str(path)) from error
        except MintError as error:
            raise InvalidField(field=str(path), problem=str(error)) from error
        for tensor in header.tensors:
            yield tensor.name, tensor.shape


@dataclass
class _Experts:
    """What the tensors seen so far say about the experts of a layer."""

    shapes: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    seen: dict[str, set[int]] = field(default_factory=dict)

    def add(self, projection: str, experts: Iterable[int], width_in: int, width_out: int) -> None:
        """Note a projection of some experts."""
        self.shapes.setdefault(projection, set()).add((width_in, width_out))
        self.seen.setdefault(projection, set()).update(experts)

    def facts(self, name: str) -> ExpertsFacts:
        """Return the facts, if all experts are there and alike."""
        count = max(max(seen) for seen in self.seen.values()) + 1
        whole = all(len(seen) == count for seen in self.seen.values())
        if not whole or any(len(shapes) != 1 for shapes in self.shapes.values()):
            raise InvalidField(field=name, problem="its experts are not all there, or not all of one shape")
        return ExpertsFacts(
            count=count,
            projections={
                projection: next(iter(shapes)) for projection, shapes in sorted(self.shapes.items())
            },
        )


def _note(
    name: str,
    shape: tuple[int, ...],
    modules: dict[str, tuple[int, int]],
    experts: dict[str, _Experts],
    *,
    layers: int | None,
) -> None:
    """Record the facts of one tensor of the base.

    Layers beyond the config's, for speculation, are left out.
    """
    match = LINEAR.fullmatch(name) or EXPERT.fullmatch(name)
    if not match or (layers is not None and int(match["layer"]) >= layers):
        return
    if match.re is LINEAR and len(shape) == 2:
        modules[match[1]] = (shape[1], shape[0])
    elif match.re is EXPERT:
        layer = experts.setdefault(match[1], _Experts())
        if match["expert"] and len(shape) == 2:
            layer.add(match["projection"], [int(match["expert"])], shape[1], shape[0])
        elif match["fused"] and len(shape) == 3:
            halves = ("gate_proj", "up_proj") if match["fused"] == "gate_up_proj" else ("down_proj",)
            for projection in halves:
                layer.add(projection, range(shape[0]), shape[2], shape[1] // len(halves))
        else:
            raise InvalidField(field=name, problem=f"shape {list(shape)} is not that of an expert")


def _digest(folder: Path, weights: tuple[str, ...]) -> Digest:
    names = [*weights, *(name for name in (*_TEXT_FILES, _INDEX_FILE) if (folder / name).exists())]
    hashes: Mapping[str, str] = {name: _sha256(folder / name) for name in names}
    return sha256_digest(canonical_json(hashes))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
