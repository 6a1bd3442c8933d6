"""A large answer over as many requests as it takes: what breaks off goes on where it was."""

import time
from collections.abc import Callable, Iterator, Mapping

import httpx

from mint_common.errors import MintError, PreconditionFailed, Unavailable

MOST_TRIES = 8
"""Requests in a row that give nothing: three minutes with the waits between, in which services start anew."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 60.0
_CHUNK_BYTES = 1 << 20

Ask = Callable[[Mapping[str, str]], httpx.Response]
"""Sends the request with more headers, and returns its answer once that has begun. Raises MintErrors."""


class ResumingDownload:
    """An answer that has begun; ``total`` is its size. Making one raises what ``ask`` does."""

    def __init__(self, ask: Ask, *, wait: Callable[[float], None] = time.sleep) -> None:
        self._ask = ask
        self._wait = wait
        self._answer = ask({})
        self.headers = self._answer.headers
        self.total = int(self.headers["content-length"])

    def close(self) -> None:
        """Leave what is not read."""
        self._answer.close()

    def parts(self) -> Iterator[bytes]:
        """Yield the bytes. Raises the error of the last of too many requests that gave nothing."""
        seen, tries = 0, 0
        while True:
            try:
                if self._answer.is_closed:
                    self._answer = self._ask_from(seen)
                for part in self._answer.iter_bytes(_CHUNK_BYTES):
                    seen, tries = seen + len(part), 0
                    yield part
            except (httpx.HTTPError, MintError) as error:
                self._answer.close()
                tries += 1
                self._give_up(error, tries)
                self._wait(min(_FIRST_WAIT_SECONDS * 2 ** (tries - 1), _LONGEST_WAIT_SECONDS))
            else:
                return

    def _ask_from(self, begin: int) -> httpx.Response:
        tag = self.headers["etag"]
        answer = self._ask({"range": f"bytes={begin}-", "if-range": tag} if begin else {})
        if begin and answer.status_code != httpx.codes.PARTIAL_CONTENT:
            answer.close()
            raise PreconditionFailed(
                what="the ETag of the download", found=answer.headers.get("etag", ""), expected=tag
            )
        return answer

    def _give_up(self, error: Exception, tries: int) -> None:
        """Raise the error if asking again is no use, or was not."""
        if isinstance(error, MintError) and (tries >= MOST_TRIES or not error.retryable):
            raise error
        if tries >= MOST_TRIES:
            raise Unavailable(what="the download", problem=str(error) or type(error).__name__) from error
