"""Internal HTTP of the registry: requests checked at the edge, then one call of a port or handler."""

from services.registry.http.context import Registry
from services.registry.http.routes import add_routes
from services.registry.http.uploads import streams_body

__all__ = ["Registry", "add_routes", "streams_body"]
