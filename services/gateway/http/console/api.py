"""The public API as the console's pages use it: in this process, with the key of the person who looks.

Invariant: a page has no other source. What a key may not read or change is refused by the routes that refuse
it to any client, and changes are written to the same audit log.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import FastAPI

from mint_common.client.http import named
from mint_common.errors import NotFound

ASK_SECONDS, ACT_SECONDS = 5.0, 60.0
"""Time limits of a panel's request and of a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAnswer:
    """An answer of the API: its JSON, or the ``problem`` in its place, with the ``field`` that it names."""

    status: int
    data: Any = None  # JSON
    problem: str = ""
    field: str = ""

    @property
    def is_ok(self) -> bool:
        """Return whether the request was carried out."""
        return not self.problem


def path_of(*parts: object) -> str:
    """Return the path of a resource; each part is quoted whole."""
    return "/" + "/".join(quote(str(part), safe="") for part in parts)


def check_part(part: str) -> None:
    """Check that a part of a path is still one part once it is unquoted. Raises NotFound."""
    if named("resource", part) in {".", ".."}:
        raise NotFound(kind="resource", name=part)


class OwnApi:
    """Calls the routes of an application."""

    def __init__(self, app: FastAPI) -> None:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False)

    async def close(self) -> None:
        """Close the client."""
        await self._http.aclose()

    async def send(
        self,
        key: str,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, object] | None = None,
    ) -> ApiAnswer:
        """Send a request, and return its answer, whatever it is."""
        given = {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in (query or {}).items()
            if value not in {None, ""}
        }
        headers = {"authorization": f"Bearer {key}"}
        seconds = ASK_SECONDS if method == "GET" else ACT_SECONDS
        try:
            async with asyncio.timeout(seconds):
                response = await self._http.request(method, path, params=given, json=body, headers=headers)
        except TimeoutError:
            problem = f"No answer within {seconds:g} seconds: the part that knows is busy or away."
            return ApiAnswer(status=504, problem=problem)
        except httpx.InvalidURL:
            return ApiAnswer(status=414, problem="The search is too long: shorten its fields.")
        return read_answer(response)


def read_answer(response: httpx.Response) -> ApiAnswer:
    """Return an answer of the API; of a refusal its message, in the shape of MinT's API or of OpenAI's."""
    try:
        data = response.json() if response.content else None
    except ValueError:
        data = None
    if response.is_success:
        return ApiAnswer(status=response.status_code, data=data)
    error = data.get("error") if isinstance(data, dict) else None
    told = error if isinstance(error, dict) else {}
    return ApiAnswer(
        status=response.status_code,
        problem=str(told.get("message") or f"The API answered {response.status_code}."),
        field=str(told.get("field") or told.get("param") or ""),
    )
