"""Rules by which the fields of a body are accepted.

Invariant: a field that no rule names is refused by its name, so a new field of vLLM stays closed until
somebody decides about it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mint_common.errors import InvalidField
from mint_common.json_reading import convert_json

VALUE_BYTES = 64 << 10
"""Maximum size of a field that holds no prompt."""
MAX_ALTERNATIVES = 20
"""Maximum log-probabilities beside each token: vLLM's own default."""
MAX_CHOICES = 256
"""Maximum answers of one request, over all its prompts."""
MAX_STOPS = 16
MAX_STOP_TOKENS = 128
MAX_BIASES = 1024
"""Maximum tokens of a bias: what vLLM's sampler on GPU holds of a request, as for `MAX_STOP_TOKENS`."""
INT32, INT64 = 2**31 - 1, 2**63 - 1

Int64 = Annotated[int, Meta(ge=-INT64 - 1, le=INT64)]
TokenCount = Annotated[int, Meta(ge=0, le=INT32)]
TopK = Annotated[int, Meta(ge=-1, le=INT32)]
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES, description=f"1 to {MAX_CHOICES}, over all prompts")]
Alternatives = Annotated[int, Meta(ge=0, le=MAX_ALTERNATIVES, description=f"0 to {MAX_ALTERNATIVES}")]
Token = Annotated[int, Meta(ge=0, le=INT32)]
StopTokens = Annotated[
    list[Token], Meta(max_length=MAX_STOP_TOKENS, description=f"at most {MAX_STOP_TOKENS} tokens")
]
Short = Annotated[str, Meta(max_length=1000)]
Stops = Annotated[
    Short | Annotated[list[Short], Meta(max_length=MAX_STOPS)],
    Meta(description=f"at most {MAX_STOPS} strings of at most 1,000 characters"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRule:
    """Rule of an accepted field; null is always accepted, like an absent field.

    ``kind`` is a type that msgspec reads, None for any JSON. ``neutral``: the field is refused, except for
    these values, which have no effect. ``is_ignored``: no answer depends on the field, and nothing reads it.
    ``note`` is for the documentation: a limit, or the reason.
    """

    kind: Any = None
    max_bytes: int | None = VALUE_BYTES
    neutral: tuple[object, ...] | None = None
    is_ignored: bool = False
    note: str = ""


FieldRules = Mapping[str, FieldRule]


def accepted(
    names: str, kind: Any = None, *, note: str = "", max_bytes: int | None = VALUE_BYTES
) -> FieldRules:  # kind: see `FieldRule.kind`
    """Return the rule of fields that are passed on; a kind's description is their note."""
    described = next((meta.description for meta in getattr(kind, "__metadata__", ()) if meta.description), "")
    rule = FieldRule(kind=kind, note=note or described, max_bytes=max_bytes)
    return dict.fromkeys(names.split(), rule)


def refused(names: str, note: str, *neutral: object) -> FieldRules:
    """Return the rule of fields that are refused for one reason."""
    return dict.fromkeys(names.split(), FieldRule(neutral=neutral, note=note))


def ignored(names: str, note: str) -> FieldRules:
    """Return the rule of fields that no answer depends on, for one reason."""
    return dict.fromkeys(names.split(), FieldRule(is_ignored=True, note=note))


def check_fields(
    body: Mapping[str, Any], rules: FieldRules, *, is_large: bool, within: str = ""
) -> tuple[str, ...]:
    """Check every field of a JSON object; return the names of those to ignore.

    Raises InvalidField with the name of the first wrong field. ``is_large``: the request's body has more than
    `VALUE_BYTES`, so sizes are checked. ``within`` is the name of the object itself, with a dot.
    """
    found = []
    for name, value in body.items():
        rule, field = rules.get(name), f"{within}{name}"[:200] or "body"
        if rule is None:
            raise InvalidField(field=field, problem="is not supported here")
        if value is None:
            continue
        if rule.is_ignored:
            found.append(name)
            continue
        if rule.neutral is not None:
            if value not in rule.neutral:
                raise InvalidField(field=field, problem=f"is not accepted ({rule.note}): omit it")
            continue
        if rule.kind is not None:
            convert_json(value, rule.kind, field=field)
        if is_large and rule.max_bytes is not None and len(msgspec.json.encode(value)) > rule.max_bytes:
            raise InvalidField(field=field, problem=f"may have {rule.max_bytes} bytes at most")
    return tuple(found)
