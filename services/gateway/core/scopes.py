"""What a key may do: a route says which scope it takes, and this decides whether a key has it."""

from collections.abc import Set as AbstractSet

from mint_common.catalog import Scope
from mint_common.errors import Forbidden

_INCLUDED_IN_ADMIN: AbstractSet[Scope] = {"read", "infer", "train"}


def check_scope(scopes: AbstractSet[Scope], needed: Scope) -> None:
    """Refuse a request that takes a scope that its key has not. Raises Forbidden."""
    if needed in scopes or ("admin" in scopes and needed in _INCLUDED_IN_ADMIN):
        return
    found = ", ".join(sorted(scopes))
    raise Forbidden(problem=f"This takes a key with scope {needed!r}; this key has {found}.")
