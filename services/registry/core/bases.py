"""Facts of a base that is registered again: what it is stays, what was chosen for it is the newest."""

from collections.abc import Mapping

from mint_common.json_types import JsonObject

CHOICES = frozenset({"refused", "served_only", "trained_only", "probe"})
"""Facts that `mint base add` may give the same files otherwise."""


def merge_facts(stored: Mapping[str, object], told: JsonObject) -> JsonObject:
    """Return a base's facts, from the stored ones and those that a service of it told last.

    Stored ones stay, choices apart. Those that an earlier version did not store are added.
    """
    known = {
        name: value for name, value in stored.items() if name not in CHOICES and value not in ({}, [], None)
    }
    return {**told, **known}
