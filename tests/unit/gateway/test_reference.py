"""`/docs` is drawn from the gateway's own schema, and loads nothing from another host."""

import re

import pytest
from fastapi.testclient import TestClient

from services.gateway.http.public import build_http


@pytest.fixture(scope="module")
def client():
    return TestClient(build_http(ready=lambda: True))


def test_the_page_names_only_addresses_of_the_gateway(client):
    page = client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    named = re.findall(r"""(?:src|href|spec-url)=["']([^"']*)["']""", page.text)
    assert set(named) == {"data:,", "/openapi.json", "/docs/redoc.js"}
    assert "http" not in page.headers["content-security-policy"], "no other host may be asked"


@pytest.mark.parametrize("path", ["/docs", "/docs/redoc.js", "/openapi.json"])
def test_what_the_page_needs_takes_no_key(client, path):
    assert client.get(path).status_code == 200


def test_the_script_is_redoc(client):
    script = client.get("/docs/redoc.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "Redoc.init" in script.text or "redoc" in script.text[:2000].lower()
