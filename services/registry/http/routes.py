"""All routes, by what they are about."""

from fastapi import FastAPI

from services.registry.http.accounts import add_account_routes, add_key_routes
from services.registry.http.aliases import add_alias_routes
from services.registry.http.bases import add_base_routes
from services.registry.http.collection import add_collection_route
from services.registry.http.context import Registry
from services.registry.http.history import add_history_routes
from services.registry.http.policies import add_policy_routes
from services.registry.http.resolve import add_resolve_route
from services.registry.http.revisions import add_revision_routes
from services.registry.http.rules import add_rule_routes
from services.registry.http.uploads import add_upload_route


def add_routes(http: FastAPI, registry: Registry) -> None:
    """Add the registry's routes to its HTTP application; they are tried in this order."""
    add_resolve_route(http, registry)  # by far the most asked for
    add_account_routes(http, registry)
    add_key_routes(http, registry)
    add_rule_routes(http, registry)
    add_base_routes(http, registry)
    add_policy_routes(http, registry)
    add_revision_routes(http, registry)
    add_history_routes(http, registry)
    add_alias_routes(http, registry)
    add_upload_route(http, registry)
    add_collection_route(http, registry)
