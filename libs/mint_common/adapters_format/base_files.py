"""The files that a base is made of, and the digest over them."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from mint_common.adapters_format.manifest import canonical_json
from mint_common.errors import InvalidField, NotFound
from mint_common.ids import Digest, sha256_digest
from mint_common.model_files import CONFIG, INDEX_FILE, SINGLE_FILE, weight_files

TEXT_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    CONFIG,
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt", "USE_POLICY.md")
"""A base's terms, which go with it and its merged weights; no part of its digest."""
NEEDED = (CONFIG, "tokenizer.json")
_TIKTOKEN = "tiktoken.model"
CONVERSION = (
    'python -c "from transformers import AutoTokenizer;'
    " from transformers.convert_slow_tokenizer import TikTokenConverter;"
    " t = AutoTokenizer.from_pretrained('.', trust_remote_code=True, use_fast=False);"
    f" TikTokenConverter('{_TIKTOKEN}', t.pat_str, extra_special_tokens=t.special_tokens)"
    ".converted().save('tokenizer.json')\""
)
"""The command that writes a tokenizer.json for a tokenizer whose own code says how it splits text."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def check_complete(place: str, weights: Collection[str], present: Collection[str]) -> None:
    """Raise InvalidField, naming the place, unless every file of a base is among those present."""
    missing = [file for file in (*NEEDED, *weights) if file not in present]
    if not missing:
        return
    if missing[0] == "tokenizer.json" and _TIKTOKEN in present:
        problem = (
            f"has {_TIKTOKEN} and no tokenizer.json, and only its Python code, which MinT does not run, says"
            " how it splits text: take a revision with tokenizer.json, or, if you trust that code, write it"
            f" in the model's folder with {CONVERSION}"
        )
        raise InvalidField(field=place, problem=problem)
    pickles = sorted(file for file in present if file.endswith(_PICKLES) and file != "training_args.bin")
    if pickles and not any(file.endswith(".safetensors") for file in present):
        problem = (
            f"its weights are pickles ({pickles[0]}), which can run code when they are read: MinT takes"
            " safetensors only. Take a revision that has them, or save the model again with save_pretrained"
        )
        raise InvalidField(field=place, problem=problem)
    named = f", which {INDEX_FILE} names" if weights != (SINGLE_FILE,) and missing[0] in weights else ""
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    raise InvalidField(field=place, problem=f"is not a base: {shown} missing{named}")


def text_files(folder: Path) -> tuple[str, ...]:
    """Return the files of a base other than its weights that exist."""
    return tuple(name for name in (*TEXT_FILES, INDEX_FILE) if (folder / name).exists())


def licence_files(folder: Path) -> tuple[str, ...]:
    """Return the files with a base's terms, of those that are there."""
    return tuple(name for name in LICENCE_FILES if (folder / name).is_file())


def base_files(folder: Path) -> tuple[str, ...]:
    """Return the files of a folder that a base is made of: its weights and the text files that are there."""
    return (*weight_files(folder), *text_files(folder))


def hash_files(folder: Path, names: Iterable[str], *, report: Callable[[str], None]) -> dict[str, str]:
    """Return the SHA-256 of each file and report each file of weights. Raises NotFound."""
    hashes: dict[str, str] = {}
    for name in names:
        if name.endswith(".safetensors"):
            report(f"hashing {name}")
        try:
            with (folder / name).open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise NotFound(kind="base file", name=str(folder / name)) from error
    return hashes


def files_digest(hashes: Mapping[str, str]) -> Digest:
    """Return the digest of a base whose files have these hashes."""
    return sha256_digest(canonical_json(hashes))
