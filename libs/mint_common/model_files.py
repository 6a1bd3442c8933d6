"""Names of the files of adapters and of models."""

import json
from collections.abc import Mapping
from pathlib import Path

from mint_common.errors import InvalidField

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MANIFEST_FILE = "mint_manifest.json"

CONFIG = "config.json"
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


def weight_map(folder: Path) -> Mapping[str, str]:
    """Return which file each tensor of a sharded base is in; empty without an index. Raises InvalidField."""
    index = folder / INDEX_FILE
    if not index.exists():
        return {}
    try:
        files: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        values = set(files.values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InvalidField(field=str(index), problem="no weight_map") from error
    if not all(isinstance(file, str) and Path(file).name == file for file in values):
        raise InvalidField(field=str(index), problem="weight_map names a file outside the folder")
    return files


def weight_files(folder: Path) -> tuple[str, ...]:
    """Return the files that hold a base's weights, there or not. Raises InvalidField."""
    return tuple(sorted(set(weight_map(folder).values()))) or (SINGLE_FILE,)
