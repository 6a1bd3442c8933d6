"""Every route that changes something says what becomes of a repeat (repeats.py)."""

from security.gateway_rig import make_rig
from security.repeats import BY_THE_REGISTRY, OTHERWISE


def test_every_route_that_may_change_something_is_repeated_safely_or_says_why_not():
    routes = {
        f"{method} {route.path}"
        for route in make_rig().http.routes
        for method in getattr(route, "methods", None) or ()
        if method in {"POST", "PUT", "PATCH", "DELETE"}
    }
    assert routes == BY_THE_REGISTRY | OTHERWISE.keys()
    assert not BY_THE_REGISTRY & OTHERWISE.keys()
