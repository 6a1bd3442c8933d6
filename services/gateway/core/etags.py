"""Strong entity tags (RFC 9110, section 8.8.3), computed from the content of an answer."""

import hashlib
import re

import msgspec

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def etag_of(value: object) -> str:
    """Return the tag of an answer's JSON value."""
    text = msgspec.json.encode(value, order="sorted")
    return f'"{hashlib.sha256(text).hexdigest()[:32]}"'


def is_known(header: str, tag: str) -> bool:
    """Return whether If-None-Match names this tag, so the client has the content. Weak tags count."""
    return header.strip() == "*" or any(found.removeprefix("W/") == tag for found in _TAG.findall(header))


def is_expected(header: str, tag: str) -> bool:
    """Return whether If-Match allows a change of the object with this tag. Weak tags never match."""
    return header.strip() == "*" or tag in _TAG.findall(header)
