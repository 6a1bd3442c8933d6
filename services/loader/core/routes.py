"""The source of an engine's routes: the experts of each token of a request (R3)."""

from enum import StrEnum


class RouteSource(StrEnum):
    """What returns the routes of an engine."""

    NOTHING = "nothing"
    """The base has no experts, and so no routes."""
    PLUGIN = "plugin"
    """MinT's plugin notes them in vLLM's first model runner, which runs the model eagerly."""
    ENGINE = "engine"
    """vLLM's second model runner returns them itself."""
    MISSING = "missing"
    """There are experts, and nothing tells where tokens go: who asks for routes is refused."""


def route_source(
    *, has_experts: bool, is_returned: bool, is_first_runner: bool, eager: bool, pipeline_parallel: int
) -> RouteSource:
    """Choose the source; ``is_returned``: vLLM has agreed to return them.

    CUDA graphs captured before do not contain the plugin's hooks on the routers, and a worker of
    one stage sees only the routers of its own layers.
    """
    if not has_experts:
        return RouteSource.NOTHING
    if is_returned:
        return RouteSource.ENGINE
    is_noted = is_first_runner and eager and pipeline_parallel == 1
    return RouteSource.PLUGIN if is_noted else RouteSource.MISSING
