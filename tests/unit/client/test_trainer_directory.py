"""Of several trainers of a base, the one with its lease is found, also when another has died silently."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from mint_common.client import trainer_directory
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import InvalidField, Unavailable
from mint_common.ids import BaseName
from mint_common.training import TrainerInfo
from services.rollout.handlers import job_admission
from services.rollout.handlers.job_admission import bases_not_started, check_started

TINY = BaseName("tiny")


class Answering:
    """A trainer that says what it is, or reads and says nothing while ``info`` is None."""

    def __init__(self, info: object) -> None:
        self.info = info
        self.asked = 0
        self.url = ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes over one connection."""
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                if self.info is not None:
                    body = msgspec.msgpack.encode(self.info)
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        except asyncio.IncompleteReadError:
            writer.close()


@asynccontextmanager
async def directory_of(*trainers: Answering) -> AsyncIterator[TrainerDirectory]:
    servers = []
    for each in trainers:
        servers.append(await asyncio.start_server(each.talk, "127.0.0.1"))
        each.url = f"http://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"
    directory = TrainerDirectory([each.url for each in trainers], token="t")
    try:
        yield directory
    finally:
        await directory.aclose()
        for server in servers:
            server.close()


def holder() -> TrainerInfo:
    return TrainerInfo(TINY, has_lease=True)


def spare() -> TrainerInfo:
    return TrainerInfo(TINY, has_lease=False)


async def test_after_a_quiet_time_the_first_request_goes_to_who_has_the_lease_now(monkeypatch) -> None:
    monkeypatch.setattr(
        trainer_directory, "_ANSWER_SECONDS", 1e6
    )  # a silent one is waited for, if at all, for good
    first, second = Answering(holder()), Answering(spare())
    async with directory_of(first, second) as directory:
        assert await directory.find(TINY) is next(iter(directory._clients.values()))
        await directory._hear_of(None)
        first.info, second.info, before = None, holder(), second.asked
        directory._told_at = float("-inf")
        async with asyncio.timeout(30):
            assert await directory.find(TINY) is list(directory._clients.values())[1]
            assert await directory.find(TINY) is list(directory._clients.values())[1]
        assert second.asked == before + 1, "while the silent one is waited for, nobody is asked again"


async def test_an_unknown_base_is_asked_for_once_in_a_while(monkeypatch) -> None:
    monkeypatch.setattr(
        trainer_directory, "_ANSWER_SECONDS", 3.0
    )  # the silent one is waited for so long, once
    monkeypatch.setattr(trainer_directory, "_REASK_SECONDS", 1e6)
    known, silent = Answering(holder()), Answering(None)
    async with directory_of(known, silent) as directory:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await directory.find(BaseName("other"))
        assert (known.asked, silent.asked) == (1, 1)
        assert await directory.find(TINY) is next(iter(directory._clients.values()))


async def test_other_bases_are_named_once_each_trainer_has_answered(monkeypatch) -> None:
    monkeypatch.setattr(trainer_directory, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(trainer_directory, "_REASK_SECONDS", 0.0)
    known, silent = Answering(holder()), Answering(None)
    async with directory_of(known, silent) as directory:
        assert await directory.other_bases(TINY) == []
        assert await directory.other_bases(BaseName("other")) == [], "the silent one may have it"
        silent.info = TrainerInfo(BaseName("third"), has_lease=True)
        assert await directory.other_bases(BaseName("other")) == ["third", "tiny"]
        await check_started(directory, TINY, field="policy")
        with pytest.raises(
            InvalidField, match="operator starts it with `mint up --base third --base tiny --base other`"
        ):
            await check_started(directory, BaseName("other"), field="policy")
        told = await bases_not_started(directory, {TINY, BaseName("other")})
        assert told == {
            "other": "base other is not started: this stack trains third, tiny;"
            " its operator starts it with `mint up --base third --base tiny --base other`"
        }


async def test_a_silent_trainer_holds_no_look_at_jobs(monkeypatch) -> None:
    monkeypatch.setattr(job_admission, "TRAINERS_SECONDS", 0.1)
    async with directory_of(Answering(holder()), Answering(None)) as directory, asyncio.timeout(5.0):
        assert await bases_not_started(directory, {TINY, BaseName("other")}) == {}


async def test_of_trainers_of_an_older_version_one_is_found_and_a_holder_goes_before_them() -> None:
    older = Answering({"base": "tiny"})
    async with directory_of(older) as directory:
        assert await directory.find(TINY) is next(iter(directory._clients.values()))
    async with directory_of(Answering(holder()), older) as directory:
        await directory._hear_of(None)
        assert await directory.find(TINY) is next(iter(directory._clients.values()))
