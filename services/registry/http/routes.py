"""All routes; those that are called most often come first."""

from fastapi import FastAPI

from services.registry.http import accounts, aliases, bases, policies, revisions
from services.registry.http.context import Registry


def add_routes(http: FastAPI, registry: Registry) -> None:
    """Add the registry's routes to its HTTP application."""
    http.state.ports = registry
    for module in (policies, accounts, revisions, aliases, bases):
        http.include_router(module.router)
