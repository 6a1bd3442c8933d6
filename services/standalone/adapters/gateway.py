"""The public API of a running stack's gateway, as the commands use it."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from mint_common.client.http import error_from_payload
from mint_common.errors import InvalidField, Unavailable
from services.standalone.core.tables import AdapterNow, EngineNow

T = TypeVar("T")

_SECONDS = 60.0


class GatewayClient:
    """Speaks to one gateway with one key. Methods raise the gateway's own MintErrors, or Unavailable."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._http = httpx.Client(
            base_url=f"{base_url}/mint/v1",
            headers={"authorization": f"Bearer {api_key}"},
            timeout=_SECONDS,
            trust_env=False,
        )

    def engines(self) -> list[EngineNow]:
        """Return the engines that answer."""
        return self._read("GET", "/engines", list[EngineNow])

    def adapters(self) -> list[AdapterNow]:
        """Return where the tenant's revisions are."""
        return self._read("GET", "/adapters", list[AdapterNow])

    def change(self, digest: str, verb: str) -> list[AdapterNow]:
        """Pin, unpin, prewarm or evict a revision."""
        return self._read("POST", f"/adapters/{quote(digest, safe='')}/{verb}", list[AdapterNow])

    def digest_of(self, name: str) -> str:
        """Return what ``policy@number``, ``policy@digest`` or ``policy@alias`` names."""
        policy, at, revision = name.partition("@")
        if not policy or not at or not revision:
            raise InvalidField(field="REVISION", problem=f"{name!r} is not POLICY@NUMBER or POLICY@ALIAS")
        policy, part = quote(policy, safe=""), quote(revision, safe="")
        if revision.isdecimal() or revision.startswith("sha256:"):
            return self._read("GET", f"/policies/{policy}/revisions/{part}", _Revision).digest
        return self._read("GET", f"/policies/{policy}/aliases/{part}", _Alias).revision.digest

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._http.close()

    def _read(self, method: str, path: str, shape: type[T]) -> T:
        try:
            response = self._http.request(method, path)
            answer: object = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(what="the gateway", problem=repr(error)) from error
        if response.is_error:
            payload = answer.get("error") if isinstance(answer, Mapping) else None
            raise error_from_payload(payload if isinstance(payload, Mapping) else {}, what="the gateway")
        try:
            return msgspec.convert(answer, shape)
        except msgspec.ValidationError as error:
            raise Unavailable(what="the gateway", problem=f"unreadable answer: {error}") from error


class _Revision(msgspec.Struct, frozen=True):
    digest: str


class _Alias(msgspec.Struct, frozen=True):
    revision: _Revision
