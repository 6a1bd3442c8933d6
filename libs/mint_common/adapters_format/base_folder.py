"""A base on disk: a HF model folder plus `mint_base.json`, its facts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mint_common.adapters_format.base_facts import BaseFacts, ExpertsFacts
from mint_common.adapters_format.base_files import base_files, files_digest, hash_files
from mint_common.adapters_format.base_weights import EXPERT, LINEAR, weight_norms
from mint_common.adapters_format.names import leaf_of
from mint_common.adapters_format.quantization import Quantization, read_quantization
from mint_common.adapters_format.tensor_file import ITEM_BYTES, TensorEntry, TensorHeader, read_header
from mint_common.errors import InvalidField, MintError, NotFound
from mint_common.ids import BaseName
from mint_common.model_files import CONFIG, INDEX_FILE, weight_files, weight_map

BASE_FILE = "mint_base.json"


def read_base_facts(folder: Path) -> BaseFacts:
    """Return the facts that a base folder states. Raises NotFound or InvalidField."""
    path = folder / BASE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=BaseFacts)
    except FileNotFoundError as error:
        raise NotFound(kind="base file", name=str(path)) from error
    except msgspec.DecodeError as error:
        raise InvalidField(field=str(path), problem=str(error)) from error


def describe_base(
    folder: Path, *, name: str, max_rank: int, hashes: Mapping[str, str] | None = None
) -> BaseFacts:
    """Compute a base's facts from its config, its weights and the bytes of its files.

    ``hashes`` are the SHA-256 of its files, where the caller knows them; else every byte is read for them.
    Every weight is read for its norm, in bounded memory. Raises NotFound or InvalidField.
    """
    config = BaseConfig.read(folder)
    weights = weight_files(folder)
    modules: dict[str, tuple[int, int]] = {}
    experts: dict[str, _Experts] = {}
    unseen = dict(weight_map(folder))
    for file in weights:
        for tensor in _header(folder / file).tensors:
            if unseen.pop(tensor.name, file) != file:
                problem = f"{tensor.name} is in {file}, not where {INDEX_FILE} says"
                raise InvalidField(field=str(folder), problem=problem)
            _note(tensor, modules, experts, config=config)
    if unseen:
        lost, file = next(iter(unseen.items()))
        problem = f"{file} lacks {lost}, which {INDEX_FILE} names: {len(unseen)} tensors are missing"
        raise InvalidField(field=str(folder), problem=problem)
    if not modules:
        raise InvalidField(field=str(folder), problem="no linear modules like model.layers.0.mlp.up_proj")
    routed = {name: layer.facts(name) for name, layer in sorted(experts.items())}
    leaves = {leaf_of(module) for module in modules}
    sites = {*modules, *(f"{name}.{leaf}" for name, layer in routed.items() for leaf in layer.projections)}
    return BaseFacts(
        name=BaseName(name),
        digest=files_digest(hashes or hash_files(folder, base_files(folder), report=lambda _step: None)),
        architecture=config.architectures[0],
        vocab_size=config.vocab_size,
        max_context=config.max_position_embeddings,
        targets=tuple(sorted(leaves.union(*(layer.projections for layer in routed.values())))),
        modules=dict(sorted(modules.items())),
        max_rank=max_rank,
        experts=routed,
        norms=weight_norms((folder / file for file in weights), sites),
        quantization=config.quantization.method if config.quantization else "",
    )


class BaseConfig(msgspec.Struct, frozen=True):
    """The part of `config.json` that matters for a base's facts."""

    architectures: tuple[str]
    vocab_size: int
    max_position_embeddings: int
    num_hidden_layers: int | None = None
    quantization: Quantization | None = None

    @classmethod
    def read(cls, folder: Path) -> "BaseConfig":
        """Read a folder's. Raises NotFound or InvalidField."""
        path = folder / CONFIG
        try:
            found = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            quantization = read_quantization(found, place=str(path))
            return msgspec.convert({**found, "quantization": quantization}, cls)
        except FileNotFoundError as error:
            raise NotFound(kind="base config", name=str(path)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidField(field=str(path), problem=str(error)) from error


def _header(path: Path) -> TensorHeader:
    try:
        with path.open("rb") as file:
            return read_header(file, size_bytes=path.stat().st_size)
    except FileNotFoundError as error:
        raise NotFound(kind="base weights", name=str(path)) from error
    except MintError as error:
        raise InvalidField(field=str(path), problem=str(error)) from error


@dataclass
class _Experts:
    """Facts about a layer's experts from the tensors seen so far."""

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
            raise InvalidField(field=name, problem="experts are missing or differ in shape")
        return ExpertsFacts(
            count=count,
            projections={
                projection: next(iter(shapes)) for projection, shapes in sorted(self.shapes.items())
            },
        )


def _note(
    tensor: TensorEntry,
    modules: dict[str, tuple[int, int]],
    experts: dict[str, _Experts],
    *,
    config: BaseConfig,
) -> None:
    """Record the facts of one tensor of the base.

    Layers beyond the config's, for speculation, are left out.
    """
    match = LINEAR.fullmatch(tensor.name) or EXPERT.fullmatch(tensor.name)
    layers = config.num_hidden_layers
    if not match or (layers is not None and int(match["layer"]) >= layers):
        return
    shape = _shape(tensor, match["form"] or "weight", config.quantization)
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
            raise InvalidField(field=tensor.name, problem=f"shape {list(shape)} is not that of an expert")


def _shape(tensor: TensorEntry, form: str, quantization: Quantization | None) -> tuple[int, ...]:
    """Return the shape of a weight before it was packed. Raises InvalidField."""
    if quantization is not None:
        return quantization.shape(form, tensor.shape)
    if tensor.dtype not in ITEM_BYTES or form != "weight":
        problem = (
            f"is {tensor.dtype} in a base without quantization_config: weights are {', '.join(ITEM_BYTES)}"
        )
        raise InvalidField(field=tensor.name, problem=problem)
    return tensor.shape
