"""Servers inside a test's own process, for routes that no service process answers."""

from typing import Any

import uvicorn

_KEEP_ALIVE_SECONDS = 30


def make_server(http: Any, *, port: int = 0) -> uvicorn.Server:
    """Return a server of an ASGI application on loopback, not started.

    Like a service, it keeps idle connections much longer than `InternalHttp` reuses them: with uvicorn's
    default, which is as long, a request may be sent into a connection that is being closed.
    """
    config = uvicorn.Config(
        http,
        host="127.0.0.1",
        port=port,
        lifespan="off",
        log_config=None,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    return uvicorn.Server(config)
