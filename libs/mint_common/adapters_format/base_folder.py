"""A base on disk: a HF model folder plus `mint_base.json`, its facts."""

from pathlib import Path

import msgspec

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.errors import InvalidField, NotFound

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
