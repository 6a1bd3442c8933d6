"""Texts that users attach to sessions, runs and checkpoints: of bounded size, and storable in Postgres."""

from collections.abc import Mapping, Sequence

import msgspec

from mint_common.errors import InvalidField
from services.gateway.core.tinker.records import Metadata

MAX_TEXT = 1000
MAX_TAGS = 100
MAX_METADATA_BYTES = 16 * 1024


def check_text(field: str, text: str, *, most: int = MAX_TEXT) -> str:
    """Return a text of bounded length. Raises InvalidField."""
    if len(text) > most:
        raise InvalidField(field=field, problem=f"has {len(text)} characters, {most} at most")
    if "\x00" in text:
        raise InvalidField(field=field, problem="has a NUL character")
    return text


def check_tags(field: str, tags: Sequence[str]) -> tuple[str, ...]:
    """Return tags of bounded number and length. Raises InvalidField."""
    if len(tags) > MAX_TAGS:
        raise InvalidField(field=field, problem=f"has {len(tags)} items, {MAX_TAGS} at most")
    return tuple(check_text(f"{field}[{index}]", tag) for index, tag in enumerate(tags))


def check_metadata(field: str, raw: Mapping[str, object] | None) -> Metadata:
    """Return a user's metadata with text values; other values become their JSON. Raises InvalidField."""
    found = {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in (raw or {}).items()
        if value is not None
    }
    size = sum(len(name.encode()) + len(value.encode()) for name, value in found.items())
    if size > MAX_METADATA_BYTES:
        raise InvalidField(field=field, problem=f"has {size} bytes, {MAX_METADATA_BYTES} at most")
    for name, value in found.items():
        check_text(field, name + value, most=MAX_METADATA_BYTES)
    return found
