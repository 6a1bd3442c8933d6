"""The public API as the catalog's commands use it: JSON in, JSON out, errors as they were raised."""

import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from mint_common.adapters_format import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from mint_common.client.http import error_from_payload
from mint_common.errors import NotFound, Unavailable

Json = Any  # what the gateway answered: its schema is GET /openapi.json
Params = Mapping[str, str | int | None]

_SECONDS = 60.0
_CHUNK_BYTES = 1 << 20


def path_of(*parts: str | int) -> str:
    """Return a path of parts, each quoted."""
    return "".join(f"/{quote(str(part), safe='@:')}" for part in parts)


class PublicApi:
    """Speaks to ``/mint/v1`` of one gateway with one key. Raises the gateway's MintErrors, or Unavailable."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._http = httpx.Client(
            base_url=f"{base_url.rstrip('/')}/mint/v1",
            headers={"authorization": f"Bearer {api_key}"},
            timeout=_SECONDS,
            trust_env=False,
        )

    def get(self, path: str, params: Params | None = None) -> Json:
        """Ask for something; a None parameter is left out."""
        return self._ask("GET", path, params=params)

    def post(self, path: str, body: object = None) -> Json:
        """Make or do something."""
        return self._ask("POST", path, json=body)

    def put(self, path: str, body: object) -> Json:
        """Set something."""
        return self._ask("PUT", path, json=body)

    def patch(self, path: str, body: object) -> Json:
        """Change what is named."""
        return self._ask("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        """Remove something."""
        self._ask("DELETE", path)

    def upload(self, path: str, folder: Path, params: Params) -> Json:
        """Send an adapter folder as a tar stream. Raises NotFound for a folder without weights or config."""
        with _archived(folder) as chunks:
            headers = {"content-type": "application/x-tar"}
            return self._ask("POST", path, params=params, content=chunks, headers=headers)

    def events(self, *, after: str | None) -> Iterator[tuple[str, str]]:
        """Yield (place, envelope) of each event until the stream ends, at first (place, "").

        Raises EventsExpired when not all events after the place are kept.
        """
        headers = {} if after is None else {"last-event-id": after}
        frame: dict[str, str] = {}
        try:
            with self._http.stream("GET", "/events", headers=headers, timeout=_SECONDS) as response:
                if response.is_error:
                    response.read()
                    self._raise(response)
                for line in response.iter_lines():
                    name, _, value = line.partition(": ")
                    if name:
                        frame[name] = value
                    elif "id" in frame:
                        yield frame["id"], frame.get("data", "")
                    if not line:
                        frame = {}
        except httpx.HTTPError as error:
            raise Unavailable(what="the gateway", problem=repr(error)) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(
        self, method: str, path: str, *, params: Params | None = None, **more: Any
    ) -> Json:  # httpx's own
        present = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            response = self._http.request(method, path, params=present, **more)
            if response.is_error:
                self._raise(response)
            return response.json() if response.content else None
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(what="the gateway", problem=repr(error)) from error

    @staticmethod
    def _raise(response: httpx.Response) -> None:
        answer = response.json()
        payload = answer.get("error") if isinstance(answer, Mapping) else None
        raise error_from_payload(payload if isinstance(payload, Mapping) else {}, what="the gateway")


@contextmanager
def _archived(folder: Path) -> Iterator[Iterator[bytes]]:
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise NotFound(kind="adapter file", name=os.fspath(folder / name))
    with TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name in (WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE):
                if (folder / name).is_file():
                    archive.add(folder / name, arcname=name)
        file.seek(0)
        yield iter(lambda: file.read(_CHUNK_BYTES), b"")
