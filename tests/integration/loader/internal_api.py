"""A client of the loader's internal route for the inference APIs, as the gateway is one."""

import json
from typing import Any

import httpx
import msgspec

from mint_common.claims import RevisionRef
from mint_common.generation import CALL_HEADER, CallFacts
from mint_common.ids import TenantId

ASKED = "some@name"
CHAT = {"messages": [{"role": "user", "content": "f abcd="}], "max_tokens": 6, "temperature": 0}
NAMED = {"type": "function", "function": {"name": "weather"}}


class Api:
    """A client of the internal route, as the gateway is one."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def ask(
        self, operation: str, revision: RevisionRef | None = None, *, tenant: str = "t", **body: Any
    ) -> httpx.Response:
        """Post a body as it is."""
        return await self.client.post(
            f"/internal/serve/{operation}",
            json={"model": ASKED, **body},
            headers=facts_of(revision, tenant=tenant),
            timeout=120,
        )

    async def events(
        self, operation: str, revision: RevisionRef | None = None, **body: Any
    ) -> list[dict[str, Any]]:
        """Return the events of a streamed answer."""
        answer = await self.ask(operation, revision, stream=True, **body)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = [line for line in answer.text.split("\n") if line.startswith("data: ")]
        return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def facts_of(revision: RevisionRef | None, *, tenant: str = "t") -> dict[str, str]:
    facts = CallFacts(model=ASKED, request_id="r", tenant_id=TenantId(tenant), revision=revision)
    return {CALL_HEADER: msgspec.json.encode(facts).decode(), "content-type": "application/json"}
