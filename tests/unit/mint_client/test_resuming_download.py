"""A download goes on from where it broke off, and gives up when asking again is no use."""

from collections.abc import Collection, Iterator, Mapping

import httpx
import pytest

from mint_client.adapters.resuming_download import ResumingDownload
from mint_common.errors import MintError, NotFound, Overloaded, PreconditionFailed, Unavailable

CONTENT = bytes(range(256)) * 20_000


class Cut(httpx.SyncByteStream):
    """Gives some bytes, then breaks off."""

    def __init__(self, data: bytes, *, after: int | None) -> None:
        self._data, self._after = data, after

    def __iter__(self) -> Iterator[bytes]:
        yield self._data[: self._after]
        if self._after is not None:
            raise httpx.ReadError("reset")


class Server:
    """Answers as told: an error, or after how many bytes an answer breaks off (None: it does not)."""

    def __init__(self, *turns: MintError | int | None, tag: str = "t", without: Collection[str] = ()) -> None:
        self.turns = list(turns)
        self.tag = tag
        self.total = len(CONTENT)
        self.without = without
        self.begins: list[int] = []

    def ask(self, headers: Mapping[str, str]) -> httpx.Response:
        turn = self.turns.pop(0)
        if isinstance(turn, MintError):
            raise turn
        begin = int(headers.get("range", "bytes=0-")[6:-1])
        if headers.get("if-range", self.tag) != self.tag:
            begin = 0
        self.begins.append(begin)
        left = CONTENT[begin:]
        told = {"content-length": str(len(left)), "etag": self.tag}
        if begin:
            told["content-range"] = f"bytes {begin}-{self.total - 1}/{self.total}"
        for name in self.without:
            del told[name]
        request = httpx.Request("GET", "http://gateway")
        status = 206 if begin else 200
        return httpx.Response(status, headers=told, stream=Cut(left, after=turn), request=request)


AWAY = Unavailable(what="the gateway", problem="it starts")
FULL = Overloaded(what="the merging of weights", depth=4, retry_after_seconds=10)


def test_what_breaks_off_goes_on_where_it_was() -> None:
    server, waits = Server(0, 3_000_000, AWAY, FULL, 2_000_000, None), []
    download = ResumingDownload(server.ask, wait=waits.append)
    assert download.total == len(CONTENT)
    assert b"".join(download.parts()) == CONTENT
    # Parts of 1 MiB: what came of the last one is asked for again.
    assert server.begins == [0, 0, 2 << 20, 3 << 20]
    assert waits == [1.0, 1.0, 2.0, 10.0, 1.0], "a refusal says how long to wait"


def test_it_gives_up_when_nothing_comes_for_half_an_hour() -> None:
    server, waits = Server(0, *[AWAY] * 100), []
    with pytest.raises(Unavailable):
        list(ResumingDownload(server.ask, wait=waits.append).parts())
    assert 1800 <= sum(waits) < 1900
    assert len(waits) < 40


def test_an_answer_that_ends_too_soon_is_not_the_whole() -> None:
    server = Server(None, *[AWAY] * 100)
    download = ResumingDownload(server.ask, wait=lambda _: None)
    download.total += 1
    with pytest.raises(Unavailable):
        list(download.parts())


@pytest.mark.parametrize("missing", ["etag", "content-length"])
def test_a_header_that_a_proxy_removed_is_named(missing: str) -> None:
    with pytest.raises(Unavailable, match=f"no {missing}"):
        ResumingDownload(Server(None, without=[missing]).ask)


@pytest.mark.parametrize("error", [NotFound(kind="revision", name="p@1"), FULL])
def test_the_first_refusal_is_the_answer(error: MintError) -> None:
    with pytest.raises(type(error)):
        ResumingDownload(Server(error).ask)


def test_a_refusal_in_between_ends_it() -> None:
    server = Server(0, NotFound(kind="revision", name="p@1"))
    with pytest.raises(NotFound):
        list(ResumingDownload(server.ask, wait=lambda _: None).parts())


def test_other_bytes_are_never_joined_on() -> None:
    server = Server(2_000_000, None)
    download = ResumingDownload(server.ask, wait=lambda _: None)
    server.tag = "other"
    with pytest.raises(PreconditionFailed):
        list(download.parts())


def test_an_answer_of_another_size_is_never_joined_on() -> None:
    server = Server(2_000_000, None)
    download = ResumingDownload(server.ask, wait=lambda _: None)
    server.total += 1
    with pytest.raises(PreconditionFailed, match="content-range"):
        list(download.parts())
