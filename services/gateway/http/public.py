"""The public HTTP: all of the gateway's routes.

Invariant: every public route is a `GatewayRoute`, behind a key and its scope; only health, metrics, the
schema and downloads by a signed address are open.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI

from mint_common.algorithms import Algorithms, one_of, own_methods, task_algorithms
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.edge import create_http
from mint_common.runtime.edge_routes import include_routes
from services.gateway.http.console import assets
from services.gateway.http.console.pages import (
    changes,
    evaluations,
    others,
    overview,
    playground,
    signing_in,
)
from services.gateway.http.console.pages import fine_tuning as fine_tuning_pages
from services.gateway.http.console.pages import jobs as job_pages
from services.gateway.http.console.pages import keys as key_pages
from services.gateway.http.console.pages import policies as policy_pages
from services.gateway.http.console.pages import residency as residency_pages
from services.gateway.http.console.pages import rules as rule_pages
from services.gateway.http.console.pages import webhooks as webhook_pages
from services.gateway.http.edge import reference
from services.gateway.http.edge.errors import install_error_shapes, shaped_error
from services.gateway.http.edge.openapi import complete_operations
from services.gateway.http.edge.refusal_log import RefusalLog
from services.gateway.http.edge.routes import check_routes
from services.gateway.http.files import files as file_routes
from services.gateway.http.files import previews, uploads
from services.gateway.http.fine_tuning import graders
from services.gateway.http.fine_tuning import jobs as fine_tuning_jobs
from services.gateway.http.mint import (
    aliases,
    audit,
    collection,
    episodes,
    evaluation_runs,
    events,
    jobs,
    keys,
    policies,
    residency,
    revisions,
    tasks,
    timeline,
    trainers,
    usage,
    webhooks,
)
from services.gateway.http.openai import generating, models, server, token_generation
from services.gateway.http.openai.bodies import add_bodies, read_bodies
from services.gateway.http.tinker import downloads
from services.gateway.http.tinker import routes as tinker

ROUTES = (
    generating,
    token_generation,
    tinker,
    keys,
    collection,
    audit,
    policies,
    timeline,
    revisions,
    aliases,
    tasks,
    evaluation_runs,
    jobs,
    episodes,
    residency,
    trainers,
    usage,
    events,
    webhooks,
    models,
    server,
    file_routes,
    uploads,
    previews,
    graders,
    fine_tuning_jobs,
)
"""Routes in the order of matching: the most frequent first."""
CONSOLE = (
    signing_in,
    overview,
    policy_pages,
    rule_pages,
    job_pages,
    fine_tuning_pages,
    evaluations,
    residency_pages,
    playground,
    others,
    webhook_pages,
    key_pages,
    changes,
    assets,
)
"""Pages of the console, which are not in the schema."""


def name_algorithms(http: FastAPI, algorithms: Algorithms) -> None:
    """Add a stack's own algorithms to its OpenAPI document, where a body has an algorithm or method."""
    schemas = http.openapi()["components"]["schemas"]
    schemas["JobRequest"]["properties"]["algorithm"].update(one_of(task_algorithms(algorithms)))
    method, _ = schemas["MintFields"]["properties"]["method"]["anyOf"]
    method.update(one_of(own_methods(algorithms)))


def _schema_of(http: FastAPI, bodies: bytes) -> dict[str, Any]:  # Any: JSON
    if http.openapi_schema is None:
        schema = FastAPI.openapi(http)
        complete_operations(schema, http.routes)
        add_bodies(schema, http.routes, bodies)
    assert http.openapi_schema is not None
    return http.openapi_schema


def build_http(*, ready: Callable[[], bool], trusts_traces: bool = False) -> FastAPI:
    """Return the public HTTP without its parts, enough for the schema; `run` adds the parts."""
    http = create_http(
        title="MinT",
        service="gateway",
        internal_token=None,
        trusts_traces=trusts_traces,
        ready=ready,
        max_body_bytes=None,  # `GatewayRoute` reads bodies, behind the key
        shaped=shaped_error,
    )
    http.description, http.version = reference.DESCRIPTION, reference.VERSION
    http.add_middleware(RefusalLog, clock=SystemClock())
    routers = (module.router for module in ROUTES)
    include_routes(
        http.router,
        *routers,
        generating.anthropic_router,
        episodes.calls,
        episodes.anthropic_calls,
        server.open_router,
        downloads.open_router,
        reference.router,
        *(pages.router for pages in CONSOLE),
    )
    check_routes(http)
    # As FastAPI's documentation does; its file is read here, not on the event loop.
    http.openapi = partial(_schema_of, http, read_bodies())  # type: ignore[method-assign]
    install_error_shapes(http)
    return http
