"""A base as its user reads it: its layers, the rows of its training, and what it does not adapt."""

from collections import Counter
from collections.abc import Mapping

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.sites import refused_targets

_ROWS = {
    True: "share one copy of their prompt",
    False: "each behind a copy of its prompt, as layers read a row as a whole: a group of 8 reads it 8 times",
    None: "not known: the base was added by an earlier version",
}


def told_layers(facts: BaseFacts) -> Mapping[str, str]:
    """Return what a base's layers are, and what follows for policies over it."""
    counted = Counter(facts.layer_kinds)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counted.items()) or "full attention"
    window = f"; a window of {facts.window} tokens" if facts.window else ""
    refused = "; ".join(f"{target}: {reason}" for target, reason in refused_targets(facts).items())
    return {
        "layers": kinds + window,
        "completions in training": _ROWS[facts.shares_prompts],
        "not adapted": refused or "-",
    }
