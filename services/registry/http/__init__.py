"""Internal HTTP of the registry: requests checked at the edge, then one call of a port."""

from services.registry.http.context import Registry
from services.registry.http.routes import add_routes

__all__ = ["Registry", "add_routes"]
