"""Tenants of a running gateway, made as its operator makes them, and callers as the gateway names them."""

from collections.abc import Mapping

import httpx

from mint_common.authority import Authority, Caller
from mint_common.catalog import FULL_SCOPES
from mint_common.ids import TenantId


def caller_of(tenant_id: TenantId, *, name: str = "ann") -> Caller:
    """Return an admin of a tenant."""
    authority = Authority(tenant_id=tenant_id, key_id="key_of_a_test", scopes=frozenset(FULL_SCOPES))
    return Caller(authority=authority, name=name)


def api_client(url: str, headers: Mapping[str, str], *, timeout_s: float = 30.0) -> httpx.Client:
    """Return a client of an API of a running gateway."""
    # Certificates, which plain HTTP does not need, take 5 ms to load.
    return httpx.Client(base_url=url, headers=headers, timeout=timeout_s, verify=False)


def make_tenant_key(gateway_url: str, operator_key: str, name: str = "other") -> str:
    """Make a tenant, and return an admin key of it."""
    headers = {"authorization": f"Bearer {operator_key}"}
    with httpx.Client(
        base_url=f"{gateway_url}/mint/v1", headers=headers, timeout=30, trust_env=False
    ) as mint:
        tenant_id = mint.post("/tenants", json={"name": name}).raise_for_status().json()["tenant_id"]
        made = mint.post(f"/tenants/{tenant_id}/keys", json={"name": name})
        return made.raise_for_status().json()["key"]
