"""A base on disk: a HF model folder plus `mint_base.json`, its facts."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.manifest import canonical_json
from mint_common.adapters_format.names import leaf_of
from mint_common.adapters_format.tensor_file import read_header
from mint_common.errors import InvalidField, MintError, NotFound
from mint_common.ids import BaseName, Digest, sha256_digest

BASE_FILE = "mint_base.json"
ARCHITECTURES = ("LlamaForCausalLM", "Qwen3ForCausalLM")
"""Dense decoders whose linear modules have the names below."""

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
_LINEAR = re.compile(r"(model\.layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj))\.weight")


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
    """Compute a base's facts from its config, the headers of its weights and the bytes of its files.

    Reads every byte once, for the digest, but loads no tensor. Raises NotFound or InvalidField.
    """
    config = _Config.read(folder)
    weights = _weight_files(folder)
    modules = _modules(folder / file for file in weights)
    if not modules:
        raise InvalidField(field=str(folder), problem="no linear modules like model.layers.0.mlp.up_proj")
    return BaseFacts(
        name=BaseName(name),
        digest=_digest(folder, weights),
        architecture=config.architectures[0],
        vocab_size=config.vocab_size,
        max_context=config.max_position_embeddings,
        targets=tuple(sorted({leaf_of(module) for module in modules})),
        modules=dict(sorted(modules.items())),
        max_rank=max_rank,
    )


class _Config(msgspec.Struct, frozen=True):
    """The part of `config.json` that matters here."""

    architectures: tuple[Literal["LlamaForCausalLM", "Qwen3ForCausalLM"]]
    vocab_size: int
    max_position_embeddings: int

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


def _modules(paths: Iterable[Path]) -> dict[str, tuple[int, int]]:
    modules: dict[str, tuple[int, int]] = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                header = read_header(file, size_bytes=path.stat().st_size)
        except FileNotFoundError as error:
            raise NotFound(kind="base weights", name=str(path)) from error
        except MintError as error:
            raise InvalidField(field=str(path), problem=str(error)) from error
        for tensor in header.tensors:
            match = _LINEAR.fullmatch(tensor.name)
            if match and len(tensor.shape) == 2:
                out_features, in_features = tensor.shape
                modules[match[1]] = (in_features, out_features)
    return modules


def _digest(folder: Path, weights: tuple[str, ...]) -> Digest:
    names = [*weights, *(name for name in (*_TEXT_FILES, _INDEX_FILE) if (folder / name).exists())]
    hashes: Mapping[str, str] = {name: _sha256(folder / name) for name in names}
    return sha256_digest(canonical_json(hashes))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
