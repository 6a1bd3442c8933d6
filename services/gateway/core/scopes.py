"""What a key may do: one scope for each route, by method and path.

Whoever may not is told which scope it takes. ``admin`` includes read, infer and train.
"""

import re
from collections.abc import Set as AbstractSet

from mint_common.catalog import Scope
from mint_common.errors import Forbidden

# A part of a path may be any text, line ends too: a route's own parameter takes them.
_ADMIN = re.compile(
    r"/mint/v1/(keys|audit|webhooks)(/.*)?|/mint/v1/policies/[^/]+/(rules(/.*)?|aliases/[^/]+/protect)",
    re.DOTALL,
)
_RULES = re.compile(r"/mint/v1/policies/[^/]+/rules(/.*)?", re.DOTALL)
_OPERATOR = re.compile(r"/mint/v1/(tenants(/.*)?|gc)", re.DOTALL)
_TINKER_READ = re.compile(
    r"client/.*|create_session|session_heartbeat|telemetry|sessions/[^/]+/finish|sessions/search"
    r"|retrieve_futures?|get_info|weights_info"
)
_INCLUDED: AbstractSet[Scope] = {"read", "infer", "train"}


def scope_of(method: str, path: str) -> Scope:
    """Return the scope that a request takes."""
    if _OPERATOR.fullmatch(path):
        return "operator"
    is_read_rule = method == "GET" and _RULES.fullmatch(path)
    if _ADMIN.fullmatch(path) and not is_read_rule:
        return "admin"
    if path.startswith("/v1/") and method == "POST":
        return "infer"
    if path.startswith("/api/v1/"):
        return _scope_of_tinker(method, path.removeprefix("/api/v1/"))
    return "read" if method in {"GET", "HEAD"} else "train"


def _scope_of_tinker(method: str, path: str) -> Scope:
    """Return what a route of the Tinker API takes: what every client sends by itself changes nothing."""
    if path in {"asample", "create_sampling_session", "join_sampling_session", "cancel_future"}:
        return "infer"
    return "read" if method in {"GET", "HEAD"} or _TINKER_READ.fullmatch(path) else "train"


def check_scope(scopes: AbstractSet[Scope], method: str, path: str) -> None:
    """Refuse a request that takes a scope that its key has not. Raises Forbidden."""
    needed = scope_of(method, path)
    if needed in scopes or ("admin" in scopes and needed in _INCLUDED):
        return
    found = ", ".join(sorted(scopes))
    raise Forbidden(problem=f"This takes a key with scope {needed!r}; this key has {found}.")
