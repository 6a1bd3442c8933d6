"""Reads the names of sources of rows: a file's kind and compression, or a data set of a hub."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mint_common.errors import InvalidField

HUB = "hf:"
"""Begins the name of a repository of a model hub."""
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_KINDS: Mapping[str, str] = {
    **dict.fromkeys((".jsonl", ".ndjson"), "JSONL"),
    ".json": "JSON",
    ".csv": "CSV",
    ".tsv": "TSV",
    **dict.fromkeys((".txt", ".text", ".md"), "text"),
    ".parquet": "Parquet",
}
_HUB = re.compile(
    rf"{HUB}(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^:\[\]]+))??(?::(?P<split>[^:\[\]]+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKind:
    """The kind of a file by its name: ``stem`` is the name without its suffixes."""

    kind: str
    compression: str
    stem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRows:
    """A split of a hub's data set; ``config`` is "" for one that has a single configuration."""

    text: str
    name: str
    config: str
    split: str

    @property
    def stem(self) -> str:
        """Return a file name without its suffix."""
        return "-".join(filter(None, (self.name.rpartition("/")[2], self.config, self.split)))


def file_kind(name: str) -> FileKind:
    """Return the kind of a file; one of an unknown suffix is JSONL."""
    lower = name.lower()
    compression = next((found for suffix, found in _COMPRESSIONS.items() if lower.endswith(suffix)), "")
    inner = name.rpartition(".")[0] if compression else name
    stem, dot, suffix = inner.rpartition(".")
    kind = _KINDS.get(f".{suffix.lower()}" if dot else "", "")
    return FileKind(kind=kind or "JSONL", compression=compression, stem=stem if kind else inner)


def hub_rows(text: str) -> HubRows | None:
    """Return the split that ``hf:ORG/NAME[:CONFIG]:SPLIT`` names; None for a path. Raises InvalidField."""
    if not text.startswith(HUB):
        return None
    found = _HUB.fullmatch(text)
    if found is None or not found["split"]:
        problem = f"is like hf:ORG/NAME:train, or hf:ORG/NAME:CONFIG:train, got {text!r}"
        raise InvalidField(field="SOURCE", problem=problem)
    return HubRows(text=text, name=found["name"], config=found["config"] or "", split=found["split"])
