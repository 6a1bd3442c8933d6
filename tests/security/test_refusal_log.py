"""Each refused request leaves one line that says who, where and why, and nothing that the caller sent."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from security.gateway_rig import TENANT, make_rig

from services.gateway.http.edge.refusal_log import LINES_PER_SECOND

LOGGER = "services.gateway.http.edge.refusal_log"
Lines = Callable[[], list[Any]]  # records, with the fields of their extra
SECRET = "tml-not-a-real-key"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    caplog.set_level(logging.INFO, logger=LOGGER)
    return lambda: [record for record in caplog.records if record.name == LOGGER]


@pytest.mark.parametrize(
    ("request_line", "key", "expected"),
    [
        ("GET /mint/v1/policies", SECRET, ("/mint/v1/policies", 401, "unauthorized", None)),
        ("GET /mint/v1/policies", "infer", ("/mint/v1/policies", 403, "forbidden", TENANT)),
        ("GET /v1/policies", "read", ("/v1/policies", 404, "http_404", None)),
        ("GET /mint/v1/audit?limit=x", "admin", ("/mint/v1/audit", 422, "invalid_field", TENANT)),
    ],
)
async def test_a_refusal_is_one_line(
    lines: Lines, request_line: str, key: str, expected: tuple[object, ...]
) -> None:
    method, path = request_line.split()
    answer = await make_rig().ask(method, path, key)
    assert answer.status == expected[1]
    (line,) = lines()
    assert (line.route, line.status, line.code, line.tenant_id) == expected
    assert line.method == method
    assert line.trace_id == answer.headers.get("x-mint-trace-id")
    assert line.request_id == answer.headers["x-request-id"]
    assert (line.key_id is None) == (line.tenant_id is None)
    assert SECRET not in str(vars(line))
    assert "limit=x" not in str(vars(line))


async def test_an_answered_request_leaves_none(lines: Lines) -> None:
    await make_rig().ask("GET", "/openapi.json")
    assert not lines()


async def test_a_flood_is_bounded(lines: Lines) -> None:
    rig = make_rig()
    for _ in range(3 * LINES_PER_SECOND):
        await rig.ask("GET", "/nowhere")
    assert 0 < len(lines()) < 3 * LINES_PER_SECOND
