"""The public API of a gateway, for commands and the demo: JSON in, JSON out, errors as they were raised."""

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

import httpx
import msgspec

from mint_client.adapters.arriving_tar import read_adapter, read_model
from mint_client.adapters.resuming_download import ResumingDownload
from mint_client.core.refusals import RowsRefusedError
from mint_common.datasets import Problem
from mint_common.errors import (
    AlreadyExists,
    InvalidField,
    MintError,
    NotFound,
    RequestRefused,
    Unauthorized,
    Unavailable,
    error_from_payload,
)
from mint_common.model_files import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from mint_common.names import MAX_LIMIT

Json = Any  # what the gateway answered: its schema is GET /openapi.json
Params = Mapping[str, str | int | None]

Progress = Callable[[int, int], None]
"""Told (bytes sent, bytes in all)."""

_SECONDS = 60.0
_LONG_SECONDS = 600.0
"""Timeout of an answer that needs whole adapters, and of an upload that waits for others: twice as long as
a gateway waits for its registry."""
_CALLERS_FAULT = (400, 403, 404, 413)
"""Refusals of the OpenAI API, whose message is for people as it is."""
_CHUNK_BYTES = 1 << 20
_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A completion and the two places that name the revision which gave it."""

    text: str
    header: str
    fingerprint: str

    def is_from(self, digest: str) -> bool:
        """Say whether both places name this digest."""
        return self.header == self.fingerprint == digest


def path_of(*parts: str | int) -> str:
    """Return a path of parts, each quoted."""
    return "".join(f"/{quote(str(part), safe='@:')}" for part in parts)


class PublicApi:
    """Speaks to one gateway with one key, from any thread. Raises the gateway's MintErrors, or Unavailable.

    Paths are those below ``/mint/v1``.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        seconds: float = _SECONDS,
        key_in_shell: str = "$MINT_API_KEY",
        when_away: str = "",
    ) -> None:
        """Connect later. ``seconds`` is the time limit of an answer that is not a large download.

        ``key_in_shell`` is the shell expression of the key, to be shown instead of it. ``when_away`` is
        advice for a gateway that does not listen.
        """
        self.url = base_url.rstrip("/")
        self.key_in_shell = key_in_shell
        self._what = f"the gateway at {base_url}"
        self._when_away = when_away
        self._openai = f"{self.url}/v1"
        self._long_timeout = httpx.Timeout(seconds, read=_LONG_SECONDS, write=_LONG_SECONDS)
        self._http = httpx.Client(
            base_url=f"{self.url}/mint/v1",
            headers={"authorization": f"Bearer {api_key}"},
            timeout=seconds,
            trust_env=False,
        )

    def get(self, path: str, params: Params | None = None, *, is_long: bool = False) -> Json:
        """Ask for something; a None parameter is left out. ``is_long``: whole adapters are read for it."""
        return self._ask("GET", path, params=params, is_long=is_long)

    def rows(self, path: str, params: Params | None = None, *, by: str) -> Iterator[Json]:
        """Yield every row of a list, page by page. ``by``: the field of a row that continues the list."""
        after: Json = params.get("after") if params else None
        while True:
            page = self.get(path, {**(params or {}), "limit": MAX_LIMIT, "after": after})
            yield from page
            if len(page) < MAX_LIMIT:
                return
            after = page[-1][by]

    def post(self, path: str, body: object = None, *, is_long: bool = False) -> Json:
        """Make or do something."""
        return self._ask("POST", path, json=body, is_long=is_long)

    def put(self, path: str, body: object) -> Json:
        """Set something."""
        return self._ask("PUT", path, json=body)

    def patch(self, path: str, body: object) -> Json:
        """Change the given fields."""
        return self._ask("PATCH", path, json=body)

    def delete(self, path: str, params: Params | None = None) -> None:
        """Remove something."""
        self._ask("DELETE", path, params=params)

    def upload(self, path: str, folder: Path, params: Params, progress: Progress) -> Json:
        """Send an adapter folder as a tar stream. Raises NotFound for a folder without weights or config."""
        headers = {"content-type": "application/x-tar"}
        body = _archived(_files(folder), progress)
        return self._ask("POST", path, params=params, content=body, headers=headers, is_long=True)

    def get_openai(self, path: str, params: Params | None = None) -> Json:
        """Ask the OpenAI API for something; the path is that below ``/v1``."""
        return self._ask("GET", f"{self._openai}{path}", params=params)

    def post_openai(self, path: str, body: object = None) -> Json:
        """Make or do something over the OpenAI API, which may check a whole file for it."""
        return self._ask("POST", f"{self._openai}{path}", json=body, is_long=True)

    def delete_openai(self, path: str) -> Json:
        """Remove something over the OpenAI API."""
        return self._ask("DELETE", f"{self._openai}{path}")

    def send_form(self, path: str, field: str, name: str, content: IO[bytes], **fields: str) -> Json:
        """Send a form with a file to the OpenAI API; the file is read from its beginning as it is sent."""
        files = {field: (name, content, "application/octet-stream")}
        return self._ask("POST", f"{self._openai}{path}", data=fields, files=files, is_long=True)

    def download(self, path: str, folder: Path, progress: Progress) -> str:
        """Write an adapter into a new folder, whole or not at all; return its digest.

        Raises AlreadyExists, and LocalFailureError when the received bytes differ from the announced ones.
        """
        if folder.exists():
            raise AlreadyExists(kind="folder", name=os.fspath(folder))
        try:
            with closing(self._begun("GET", path, timeout=self._long_timeout)) as response:
                read_adapter(response.iter_bytes(_CHUNK_BYTES), response.headers, folder, progress)
                return response.headers["x-mint-revision"]
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error

    def download_merged(self, path: str, folder: Path, progress: Progress) -> str:
        """Write a merged model into a folder that is not there yet, whole or not at all; return its digest.

        A download that breaks off is continued. Raises AlreadyExists, and InvalidField when the disk has no
        room for it.
        """
        if folder.exists():
            raise AlreadyExists(kind="folder", name=os.fspath(folder))

        def ask(headers: Mapping[str, str]) -> httpx.Response:
            return self._begun("GET", path, headers=headers, timeout=self._long_timeout)

        with closing(ResumingDownload(ask)) as download:
            digest = download.header("x-mint-revision")
            _check_room(folder, download.total)
            read_model(download.parts(), download.total, folder, progress)
            return digest

    def complete(self, model: str, prompt: str, *, max_tokens: int) -> Completed:
        """Complete a prompt greedily, over the OpenAI API."""
        body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        url = f"{self._openai}/completions"
        response = self._send("POST", url, json=body, timeout=self._long_timeout)
        answer = self._read(response)
        return Completed(
            text=answer["choices"][0]["text"],
            header=response.headers.get("x-mint-revision", ""),
            fingerprint=answer["system_fingerprint"],
        )

    def stream(
        self, model: str, prompt: str, options: Mapping[str, float], *, chat: bool
    ) -> Iterator[tuple[str, str]]:
        """Yield (piece of the answer, digest of the revision) as the OpenAI API streams them."""
        asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        url = f"{self._openai}/{'chat/completions' if chat else 'completions'}"
        body = {"model": model, **asked, **options, "stream": True}
        served = ""
        for line in self._lines("POST", url, json=body, timeout=self._long_timeout):
            name, _, value = line.partition(": ")
            if name == "data" and value != "[DONE]":
                frame = json.loads(value)
                if "error" in frame:
                    raise Unavailable(what=model, problem=frame["error"]["message"])
                served = frame.get("system_fingerprint") or served  # in the first frame, and in the last
                for choice in frame["choices"]:
                    piece = choice["delta"].get("content") if chat else choice["text"]
                    yield piece or "", served

    def events(self, *, after: str | None) -> Iterator[tuple[str, str]]:
        """Yield (place, envelope) of each event until the stream ends, at first (place, "").

        Raises EventsExpired when not all events after the place are retained.
        """
        headers = {} if after is None else {"last-event-id": after}
        frame: dict[str, str] = {}
        for line in self._lines("GET", "/events", headers=headers, timeout=_SECONDS):
            name, _, value = line.partition(": ")
            if name:
                frame[name] = value
            elif "id" in frame:
                yield frame["id"], frame.get("data", "")
            if not line:
                frame = {}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(
        self, method: str, path: str, *, params: Params | None = None, is_long: bool = False, **more: Any
    ) -> Json:  # httpx's own
        present = {name: value for name, value in (params or {}).items() if value is not None}
        timeout = self._long_timeout if is_long else httpx.USE_CLIENT_DEFAULT
        response = self._send(method, path, params=present, timeout=timeout, **more)
        return self._read(response) if response.content else None

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:  # httpx's own
        try:
            response = self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error
        except ValueError as error:  # JSON knows no nan and no inf
            raise InvalidField(field="body", problem="has a number that is not finite") from error
        if response.is_error:
            self._raise(response)
        return response

    def _begun(self, method: str, path: str, **more: Any) -> httpx.Response:  # httpx's own
        """Return a good answer that has begun; who gets it closes it."""
        request = self._http.build_request(method, path, **more)
        try:
            response = self._http.send(request, stream=True)
            if response.is_error:
                response.read()
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error
        if response.is_error:
            self._raise(response)
        return response

    def _lines(self, method: str, path: str, **more: Any) -> Iterator[str]:  # httpx's own
        """Yield the lines of a streamed answer."""
        with closing(self._begun(method, path, **more)) as response:
            try:
                yield from response.iter_lines()
            except httpx.HTTPError as error:
                raise self._unavailable(error) from error

    def _raise(self, response: httpx.Response) -> None:
        answer = self._read(response)
        payload = answer.get("error") if isinstance(answer, Mapping) else None
        if not isinstance(payload, Mapping):
            raise self._unreadable(response)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            message = payload.get("message") or "The API key is refused."
            raise Unauthorized(problem=f"{message} It was sent to {self.url}.")
        if payload.get("code") == "model_not_found":
            model = json.loads(response.request.content)["model"]
            raise _model_not_found(model, message=str(payload["message"]))
        if isinstance(payload.get("errors"), list):
            raise _rows_refused(payload)
        if {"param", "type"} <= payload.keys() and response.status_code in _CALLERS_FAULT:
            raise RequestRefused(field=str(payload["param"] or "body"), problem=str(payload["message"]))
        if response.headers.get("retry-after", "").isdecimal():  # which the OpenAI API says there alone
            payload = {"retry_after_seconds": int(response.headers["retry-after"]), **payload}
        raise error_from_payload(payload, what=self._what)

    def _read(self, response: httpx.Response) -> Json:
        try:
            return response.json()
        except ValueError as error:
            raise self._unreadable(response) from error

    def _unreadable(self, response: httpx.Response) -> Unavailable:
        problem = f"what answers there ({response.status_code}) is no gateway of MinT"
        return Unavailable(what=self._what, problem=problem)

    def _unavailable(self, error: httpx.HTTPError) -> Unavailable:
        problem = str(error) or type(error).__name__
        is_away = isinstance(error, httpx.ConnectError)
        advice = f". {self._when_away}" if is_away and self._when_away else ""
        return Unavailable(what=self._what, problem=f"{problem}{advice}")


def _model_not_found(model: str, *, message: str) -> MintError:
    """Return the error of a model whose name or policy is not there, or whose revision or alias is not."""
    names = (NotFound(kind="model", name=model), NotFound(kind="policy", name=model.partition("@")[0]))
    told = message.partition(" GET /v1/models")[0]
    missing = next((each for each in names if str(each) == told), None)
    return missing or RequestRefused(field="model", problem=message)


def _rows_refused(payload: Mapping[str, Any]) -> RowsRefusedError:  # JSON
    problems = msgspec.convert(payload["errors"], list[Problem])
    count = int(payload.get("count", len(problems)))
    return RowsRefusedError(what=str(payload.get("param") or "file"), count=count, problems=problems)


def _check_room(folder: Path, size_bytes: int) -> None:
    """Raise InvalidField when that much does not fit where the folder is to be."""
    there = next(each for each in folder.absolute().parents if each.is_dir())
    free_bytes = shutil.disk_usage(there).free
    if free_bytes < size_bytes:
        problem = f"{size_bytes / 1e9:.1f} GB come, and its disk has {free_bytes / 1e9:.1f} GB left"
        raise InvalidField(field="--out", problem=problem)


def _files(folder: Path) -> list[Path]:
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise NotFound(kind="adapter file", name=os.fspath(folder / name))
    names = (WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE)
    return [folder / name for name in names if (folder / name).is_file()]


def _archived(files: Sequence[Path], progress: Progress) -> Iterator[bytes]:
    """Yield a tar of files as it is read: no copy of it is stored."""
    sizes = [path.stat().st_size for path in files]
    sent, total = 0, sum(sizes)
    for path, size in zip(files, sizes, strict=True):
        info = tarfile.TarInfo(path.name)
        info.size = size
        yield info.tobuf(tarfile.USTAR_FORMAT)
        with path.open("rb") as file:
            left = size
            while left and (chunk := file.read(min(_CHUNK_BYTES, left))):
                yield chunk
                left -= len(chunk)
                sent += len(chunk)
                progress(sent, total)
        yield bytes(-size % _BLOCK)
    yield bytes(2 * _BLOCK)
