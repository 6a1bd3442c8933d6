"""Downloads of merged weights: refusals, entity tags and ranges."""

import re

from mint_common.adapters_format import BaseFacts
from mint_common.errors import InvalidField
from mint_common.ids import Digest
from services.gateway.core.etags import etag_of

_LAYOUT = "merged/1"
_FROM = re.compile(r"bytes=([0-9]{1,18})-")


def check_mergeable(base: BaseFacts) -> None:
    """Raise InvalidField for a revision over a quantized base, whose weights cannot be merged into."""
    if base.quantization:
        problem = (
            f"is over {base.name}, whose weights are quantized ({base.quantization}): nothing can be added to"
            " them. Download adapter.tar, and merge it into the model that the base was made from"
        )
        raise InvalidField(field="revision", problem=problem)


def merged_tag(digest: Digest) -> str:
    """Return the entity tag of a revision's merged weights; its digest covers the base's."""
    return etag_of([_LAYOUT, digest])


def first_byte(wanted: str | None, if_range: str | None, *, tag: str) -> int:
    """Return the first byte that a Range asks of the answer with this tag; 0 for all of it.

    Only ``bytes=N-`` is supported; with any other Range the whole answer is sent, as RFC 9110 (14.2) allows.
    """
    found = _FROM.fullmatch(wanted or "")
    return int(found[1]) if found and if_range in {None, tag} else 0
