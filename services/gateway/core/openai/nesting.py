"""How deep and how often JSON nests, told from its bytes before anything reads it."""

from itertools import accumulate

from mint_common.errors import InvalidField

MAX_DEPTH = 64
"""vLLM's own bound of a schema."""
MAX_NESTED = 20_000
"""Lists and objects of one body: an engine's reader takes some 10 us for each."""


def count_nested(text: bytes, *, field: str, few: int) -> int:
    """Return how many lists and objects JSON has. Raises InvalidField when it nests deeper than `MAX_DEPTH`.

    Of a text with up to ``few`` opening brackets, which is at most `MAX_DEPTH`, those within its own texts
    count as well.
    """
    count = text.count(b"[") + text.count(b"{")
    if count <= few:
        return count
    # Without escapes every quote begins or ends a text; what is between texts then nests.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NEITHER)
    brackets = b"".join(plain.split(b'"')[::2])
    count = brackets.count(b"[") + brackets.count(b"{")
    check_nested(count)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise InvalidField(field=field, problem=f"nests deeper than {MAX_DEPTH} levels")
    return count


def check_nested(count: int) -> None:
    """Refuse more lists and objects than a body may have. Raises InvalidField."""
    if count > MAX_NESTED:
        raise InvalidField(field="body", problem=f"has more than {MAX_NESTED} lists and objects")


_NEITHER = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
