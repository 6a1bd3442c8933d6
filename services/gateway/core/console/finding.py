"""The digest in what a person pastes: a header of an answer, a digest, or a text around it."""

import re

_DIGEST = re.compile(r"\b(?:sha256:)?([0-9a-f]{64})\b")


def digest_in(text: str) -> str:
    """Return the digest in a text, empty if there is none."""
    found = _DIGEST.search(text.lower())
    return f"sha256:{found[1]}" if found else ""
