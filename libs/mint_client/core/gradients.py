"""A policy gradient's parts on a command line: ``loss=dppo``, ``overlong.buffer=64``."""

import json
from collections.abc import Sequence
from typing import Any

from mint_common.errors import InvalidField

Json = Any  # the gateway's JSON


def gradient_of(words: Sequence[str]) -> Json:
    """Return the ``gradient`` of a job, None without words. Raises InvalidField for one without ``=``."""
    found: dict[str, Json] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise InvalidField(field="--gradient", problem=f"must be like loss=dppo, got {word!r}")
        *parents, name = path.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InvalidField(field="--gradient", problem=f"has {parent} as a value and as an object")
        place[name] = _value(text)
    return found or None


def _value(text: str) -> Json:
    try:
        return json.loads(text)
    except ValueError:
        return text
