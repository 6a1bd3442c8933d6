"""What is told to whoever asks for a route that is not there."""

import httpx
import pytest
from fastapi import FastAPI

from mint_common.runtime.edge_errors import answer_errors
from services.gateway.http.edge.errors import install_error_shapes


@pytest.mark.parametrize("path", ["/models", "/v1/modells", "/v1/messages/none", "/"])
async def test_an_unknown_route_is_named_and_says_where_all_are_listed(path: str) -> None:
    http = FastAPI(docs_url=None)
    answer_errors(http)
    install_error_shapes(http)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=http), base_url="http://gateway"
    ) as client:
        answer = await client.get(path)
    assert answer.status_code == 404
    message = answer.json()["error"]["message"]
    assert message.startswith(f"No route GET {path}; GET /docs lists all.")
    assert "ends with /v1" in message
