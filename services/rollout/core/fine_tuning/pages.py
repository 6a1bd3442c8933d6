"""Pages of lists that are made from the newest item to the oldest."""

from collections.abc import Iterable, Iterator
from itertools import islice

from mint_common.errors import InvalidField, NotFound
from mint_common.json_types import JsonObject
from services.rollout.core.files.answers import page_answer

MAX_METADATA = 16


def page_of(items: Iterable[JsonObject], *, kind: str, after: str | None, limit: int) -> JsonObject:
    """Return the ``limit`` items after ``after``. Raises NotFound when no item has that id."""
    left: Iterator[JsonObject] = iter(items)
    if after is not None and not any(item["id"] == after for item in left):
        raise NotFound(kind=kind, name=after[:100])
    return page_answer(list(islice(left, limit + 1)), lambda item: item, limit=limit)


def metadata_wanted(query: Iterable[tuple[str, str]]) -> dict[str, str] | None:
    """Return the filter of a query ``metadata[name]=value``; None for ``metadata=null``: jobs without any.

    Raises InvalidField.
    """
    found: dict[str, str] = {}
    for name, value in query:
        if name == "metadata":
            if value != "null":
                raise InvalidField(field="metadata", problem="is metadata[name]=value, or null")
            return None
        if name.startswith("metadata[") and name.endswith("]"):
            found[name.removeprefix("metadata[").removesuffix("]")] = value
    if len(found) > MAX_METADATA or any("\0" in text for pair in found.items() for text in pair):
        raise InvalidField(field="metadata", problem=f"is {MAX_METADATA} pairs of texts at most")
    return found
