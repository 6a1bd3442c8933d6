"""A large answer over as many requests as necessary: a broken one is resumed."""

import time
from collections.abc import Callable, Iterator, Mapping

import httpx

from mint_common.errors import MintError, PreconditionFailed, Unavailable

RETRY_SECONDS = 1800.0
"""Total time to retry a download that makes no progress: as long as an upgrade takes."""
_FIRST_WAIT_SECONDS, _MAX_WAIT_SECONDS = 1.0, 60.0
_CHUNK_BYTES = 1 << 20
_WHAT = "the download"

Ask = Callable[[Mapping[str, str]], httpx.Response]
"""Sends the request with more headers, and returns its answer once that has begun. Raises MintErrors."""


class ResumingDownload:
    """An answer that has begun; ``total`` is its size. Making one raises what ``ask`` raises."""

    def __init__(self, ask: Ask, *, wait: Callable[[float], None] = time.sleep) -> None:
        self._ask = ask
        self._wait = wait
        self._answer = ask({})
        self._headers = self._answer.headers
        try:
            self._tag = self.header("etag")
            self.total = int(self.header("content-length"))
        except MintError:
            self.close()
            raise

    def header(self, name: str) -> str:
        """Return a header of the first answer. Raises Unavailable when it has none of this name."""
        value: str | None = self._headers.get(name)
        if value is None:
            problem = f"its answer has no {name}: does a proxy on the way remove it?"
            raise Unavailable(what=_WHAT, problem=problem)
        return value

    def close(self) -> None:
        """Discard the rest."""
        self._answer.close()

    def parts(self) -> Iterator[bytes]:
        """Yield ``total`` bytes. Raises the error of the last of too many requests that gave nothing."""
        seen, waits, waited_seconds = 0, 0, 0.0
        while True:
            try:
                if self._answer.is_closed:
                    self._answer = self._ask_from(seen)
                for part in self._answer.iter_bytes(_CHUNK_BYTES):
                    seen, waits, waited_seconds = seen + len(part), 0, 0.0
                    yield part
                if seen != self.total:
                    problem = f"{seen} bytes came of {self.total}"
                    raise Unavailable(what=_WHAT, problem=problem)
            except (httpx.HTTPError, MintError) as error:
                self._answer.close()
                if waited_seconds >= RETRY_SECONDS or seen > self.total or not _may_pass(error):
                    raise _as_mint_error(error) from error
                seconds = _wait_seconds(error, waits)
                waits, waited_seconds = waits + 1, waited_seconds + seconds
                self._wait(seconds)
            else:
                return

    def _ask_from(self, begin: int) -> httpx.Response:
        answer = self._ask({"range": f"bytes={begin}-", "if-range": self._tag} if begin else {})
        if not begin:
            expected = {"etag": self._tag, "content-length": str(self.total)}
        else:
            expected = {"etag": self._tag, "content-range": f"bytes {begin}-{self.total - 1}/{self.total}"}
        for name, value in expected.items():
            found = answer.headers.get(name, "")
            if found != value:
                answer.close()
                raise PreconditionFailed(what=f"the {name} of the download", found=found, expected=value)
        return answer


def _may_pass(error: Exception) -> bool:
    return not isinstance(error, MintError) or error.retryable


def _as_mint_error(error: Exception) -> MintError:
    if isinstance(error, MintError):
        return error
    return Unavailable(what=_WHAT, problem=str(error) or type(error).__name__)


def _wait_seconds(error: Exception, waits: int) -> float:
    """Return the next wait: twice as long each time, or as the error requests."""
    seconds = min(_FIRST_WAIT_SECONDS * 2.0 ** min(waits, 10), _MAX_WAIT_SECONDS)
    fields = error.fields if isinstance(error, MintError) else {}
    return max(seconds, float(fields.get("retry_after_seconds", 0)))
