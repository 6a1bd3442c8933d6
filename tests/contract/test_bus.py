"""What every bus must do: in memory and on a real NATS server. Real time passes."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import pytest
from contract.bus_messages import PATIENCE_SECONDS, message, publish_all, take, take_and_ack

from mint_common.bus.nats import NatsBus, connect_nats
from mint_common.bus.port import Bus, EventLog
from mint_common.errors import EventsExpired, Unavailable
from mint_common.runtime.clock import SystemClock
from services.gateway.adapters.shared_log import SharedLog
from tests.testing.bus_memory import MemoryBus

SHORT_ACK_WAIT_SECONDS = 0.6
ROUTES = (("a", "base"), ("a", "other"), ("b", "base"))
AnyBus = MemoryBus | NatsBus


@pytest.fixture(params=["memory", pytest.param("nats", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest) -> str | None:
    """The address of an empty server; None for memory."""
    return request.getfixturevalue("nats_url") if request.param == "nats" else None


@pytest.fixture
async def bus(url: str | None) -> AsyncIterator[AnyBus]:
    made = await connect_nats(url, name="contract") if url else MemoryBus(SystemClock())
    yield made
    await made.close()


@pytest.fixture(params=["bus", "shared"])
def log(request: pytest.FixtureRequest, bus: AnyBus) -> EventLog:
    """The log of a bus: itself, and as the gateway's streams read it."""
    return SharedLog(bus, SystemClock()) if request.param == "shared" else bus


async def is_silent(iterator: AsyncIterator[object], seconds: float) -> bool:
    """Return whether nothing comes for a while."""
    try:
        async with asyncio.timeout(seconds):
            await anext(iterator)
    except TimeoutError:
        return True
    return False


async def test_a_message_arrives_as_it_was_sent(bus: Bus) -> None:
    sent = message("mint.test.a.tenant.base%2E5", bytes(range(256)), traceparent="00-a-b-01", other="x y")
    async with bus.subscribe(durable="d", subjects=["mint.test.a.*.*"]) as deliveries:
        await bus.publish(sent)
        (delivery,) = await take(deliveries)
        assert delivery.message == sent
        assert delivery.attempt == 1
        await delivery.ack()


async def test_messages_wait_for_an_absent_subscriber(bus: Bus) -> None:
    async with bus.subscribe(durable="d", subjects=["mint.test.>"]):
        pass
    ids = await publish_all(bus, 3)
    async with bus.subscribe(durable="d", subjects=["mint.test.>"]) as deliveries:
        assert await take_and_ack(deliveries, 3) == ids


async def test_a_new_subscription_begins_with_the_oldest_message(bus: Bus) -> None:
    ids = await publish_all(bus, 2)
    async with bus.subscribe(durable="late", subjects=["mint.test.>"]) as deliveries:
        assert await take_and_ack(deliveries, 2) == ids


async def test_a_subscription_may_begin_with_new_messages_and_keeps_its_place_then(bus: Bus) -> None:
    await publish_all(bus, 3)
    async with bus.subscribe(durable="d", subjects=["mint.test.>"], start="new") as deliveries:
        ids = await publish_all(bus, 1)
        assert await take_and_ack(deliveries, 1) == ids
    ids = await publish_all(bus, 2)
    for start in ("new", "oldest"):  # it is there already
        async with bus.subscribe(durable="d", subjects=["mint.test.>"], start=start) as deliveries:
            assert await take_and_ack(deliveries, 1) == [ids.pop(0)]


async def test_first_deliveries_follow_publish_order(bus: Bus) -> None:
    async with bus.subscribe(durable="d", subjects=["mint.test.a.>", "mint.test.b.>"], batch=7) as deliveries:
        ids = [(await publish_all(bus, 1, f"mint.test.{'ab'[n % 2]}.t.b"))[0] for n in range(20)]
        assert await take_and_ack(deliveries, 20) == ids


async def test_a_repeated_id_is_dropped(bus: Bus) -> None:
    first = message()
    for each in (first, first, message()):
        await bus.publish(each)
    async with bus.subscribe(durable="d", subjects=["mint.test.>"]) as deliveries:
        assert (await take_and_ack(deliveries, 2))[0] == first.id
        assert await is_silent(deliveries, 0.2)


async def test_other_subjects_are_not_delivered(bus: Bus) -> None:
    await publish_all(bus, 1, "mint.test.a.t.other")
    await publish_all(bus, 1, "mint.test.ab.t.base")
    wanted = await publish_all(bus, 1, "mint.test.a.t.base")
    async with bus.subscribe(durable="d", subjects=["mint.test.a.*.base"]) as deliveries:
        assert await take_and_ack(deliveries) == wanted
        assert await is_silent(deliveries, 0.2)


async def test_every_durable_sees_every_message(bus: Bus) -> None:
    ids = await publish_all(bus, 2)
    for durable in ("one", "two", "with.dot and space"):
        async with bus.subscribe(durable=durable, subjects=["mint.test.>"]) as deliveries:
            assert await take_and_ack(deliveries, 2) == ids


async def test_subscribers_of_one_durable_share_its_messages(bus: Bus) -> None:
    ids = await publish_all(bus, 4)
    subjects = ["mint.test.>"]
    async with (
        bus.subscribe(durable="d", subjects=subjects) as one,
        bus.subscribe(durable="d", subjects=subjects) as two,
    ):
        seen = [await take_and_ack(each) for each in (one, two, two, one)]
        assert sorted(itertools.chain(*seen)) == sorted(ids)
        assert await is_silent(one, 0.2)


async def test_an_older_replica_does_not_narrow_what_its_durable_hears(bus: Bus) -> None:
    old, new = ["mint.test.a.*.base"], ["mint.test.a.*.*", "mint.test.b.*.base"]
    for subjects in (old, new, old):
        async with bus.subscribe(durable="d", subjects=subjects):
            pass
    ids = [(await publish_all(bus, 1, f"mint.test.{noun}.t.{base}"))[0] for noun, base in ROUTES]
    async with bus.subscribe(durable="d", subjects=old) as deliveries:
        assert await take_and_ack(deliveries, 3) == ids


async def test_an_unanswered_delivery_comes_again(bus: Bus) -> None:
    ids = await publish_all(bus, 1)
    async with bus.subscribe(
        durable="d", subjects=["mint.test.>"], ack_wait_seconds=SHORT_ACK_WAIT_SECONDS
    ) as deliveries:
        await take(deliveries)
        (again,) = await take(deliveries)
        assert (again.message.id, again.attempt) == (ids[0], 2)
        await again.ack()
        assert await is_silent(deliveries, 2 * SHORT_ACK_WAIT_SECONDS)


async def test_an_unanswered_delivery_comes_to_the_next_subscriber(bus: Bus) -> None:
    ids = await publish_all(bus, 2)
    for _ in range(2):
        async with bus.subscribe(
            durable="d", subjects=["mint.test.>"], ack_wait_seconds=SHORT_ACK_WAIT_SECONDS
        ) as deliveries:
            found = await take(deliveries, 2)
            assert sorted(each.message.id for each in found) == sorted(ids)


async def test_a_retry_comes_after_its_delay_and_blocks_nobody(bus: Bus) -> None:
    ids = await publish_all(bus, 2)
    loop = asyncio.get_running_loop()
    async with bus.subscribe(durable="d", subjects=["mint.test.>"]) as deliveries:
        (first,) = await take(deliveries)
        started = loop.time()
        await first.retry(delay_seconds=0.5)
        assert await take_and_ack(deliveries) == ids[1:]
        (again,) = await take(deliveries)
        assert loop.time() - started >= 0.45
        assert (again.message.id, again.attempt) == (ids[0], 2)
        await again.retry(delay_seconds=0)
        (again,) = await take(deliveries)
        assert again.attempt == 3
        await again.ack()


async def test_a_rejected_message_never_comes_again(bus: Bus) -> None:
    await publish_all(bus, 1)
    async with bus.subscribe(
        durable="d", subjects=["mint.test.>"], ack_wait_seconds=SHORT_ACK_WAIT_SECONDS
    ) as deliveries:
        (delivery,) = await take(deliveries)
        await delivery.reject()
        assert await is_silent(deliveries, 2 * SHORT_ACK_WAIT_SECONDS)


async def test_an_extended_delivery_stays_with_its_holder(bus: Bus) -> None:
    await publish_all(bus, 1)
    async with bus.subscribe(
        durable="d", subjects=["mint.test.>"], ack_wait_seconds=SHORT_ACK_WAIT_SECONDS
    ) as deliveries:
        (delivery,) = await take(deliveries)
        for _ in range(6):
            assert await is_silent(deliveries, SHORT_ACK_WAIT_SECONDS / 3)
            await delivery.extend()
        await delivery.ack()
        assert await is_silent(deliveries, 2 * SHORT_ACK_WAIT_SECONDS)


async def test_a_reader_takes_no_more_than_its_batch(bus: Bus) -> None:
    ids = await publish_all(bus, 3)
    subjects = ["mint.test.>"]
    async with (
        bus.subscribe(durable="d", subjects=subjects) as busy,
        bus.subscribe(durable="d", subjects=subjects) as idle,
    ):
        (held,) = await take(busy)
        assert [held.message.id, *await take_and_ack(idle, 2)] == ids
        await held.ack()


async def test_a_reader_may_give_up_waiting_and_go_on(bus: Bus) -> None:
    async with bus.subscribe(durable="d", subjects=["mint.test.>"]) as deliveries:
        for _ in range(3):
            assert await is_silent(deliveries, 0.05)
        ids = await publish_all(bus, 3)
        assert await take_and_ack(deliveries, 3) == ids


async def test_what_was_not_read_is_given_back_on_leaving(bus: Bus) -> None:
    ids = await publish_all(bus, 4)
    async with bus.subscribe(durable="d", subjects=["mint.test.>"], batch=4) as deliveries:
        assert await take_and_ack(deliveries) == ids[:1]
    async with bus.subscribe(durable="d", subjects=["mint.test.>"]) as deliveries:
        assert sorted(await take_and_ack(deliveries, 3)) == ids[1:]


@pytest.mark.parametrize("subjects", [["mint.test.a.>"], ["mint.test.a.>", "mint.test.none.>"]])
async def test_the_oldest_message_that_was_not_handed_out_is_known(bus: Bus, subjects: list[str]) -> None:
    assert await bus.oldest_waiting(durable="d") is None
    async with bus.subscribe(durable="d", subjects=subjects) as deliveries:
        assert await bus.oldest_waiting(durable="d") is None
        times = [time.time()]
        for subject in ("mint.test.a.t.b", "mint.test.other.t.b", "mint.test.a.t.b"):
            await publish_all(bus, 1, subject)
            await asyncio.sleep(0.05)
            times.append(time.time())
        oldest = await bus.oldest_waiting(durable="d")
        assert oldest is not None
        assert times[0] - 0.01 <= oldest <= times[1]
        await take(deliveries)  # handed out: it does not wait, answered or not
        oldest = await bus.oldest_waiting(durable="d")
        assert oldest is not None
        assert times[2] - 0.01 <= oldest <= times[3]
        await take(deliveries)
        assert await bus.oldest_waiting(durable="d") is None


async def test_every_watcher_hears_each_message_once(bus: Bus) -> None:
    await publish_all(bus, 1)
    async with (
        bus.watch(subjects=["mint.test.a.>", "mint.test.*.t.b"]) as one,
        bus.watch(subjects=["mint.test.>"]) as two,
    ):
        first = message()
        for each in (first, first, message("mint.other.a.t.b"), message()):
            await bus.publish(each)
        async with asyncio.timeout(PATIENCE_SECONDS):
            for watcher in (one, two):
                assert await anext(watcher) == first
                assert (await anext(watcher)).id != first.id
        assert await is_silent(one, 0.2)


async def test_a_replay_begins_now_and_goes_on_after_any_place(bus: AnyBus, log: EventLog) -> None:
    subjects = ["mint.test.*.t.>"]
    await publish_all(bus, 2)
    async with log.replay(subjects=subjects, after=None) as replay:
        first_place = replay.place
        ids = await publish_all(bus, 3)
        await publish_all(bus, 1, "mint.test.a.other.b")
        last = await publish_all(bus, 1, "mint.test.b.t.b.c")
        async with asyncio.timeout(PATIENCE_SECONDS):
            found = [await anext(replay) for _ in range(4)]
        assert [each.message.id for each in found] == ids + last
        assert replay.place == found[-1].place
        assert await is_silent(replay, 0.2)
        after = await publish_all(bus, 1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert [(await anext(replay)).message.id] == after
    for place, left in ((first_place, [*ids, *last, *after]), (found[1].place, [ids[2], *last, *after])):
        async with log.replay(subjects=subjects, after=place) as again, asyncio.timeout(PATIENCE_SECONDS):
            assert [(await anext(again)).message.id for _ in left] == left


async def test_a_replay_reads_more_than_a_batch(bus: AnyBus, log: EventLog) -> None:
    async with log.replay(subjects=["mint.test.>"], after=None) as replay:
        ids = await publish_all(bus, 150)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert [(await anext(replay)).message.id for _ in ids] == ids


async def test_an_unknown_place_is_expired(log: EventLog) -> None:
    async with log.replay(subjects=["mint.test.>"], after=None) as replay:
        epoch = replay.place.partition("-")[0]
    for place in ("", "x", "-", f"{epoch}-", f"{epoch}--1", f"{epoch}-7", "0-0", "9" * 200):
        with pytest.raises(EventsExpired):
            async with log.replay(subjects=["mint.test.>"], after=place):
                pass


async def test_publishers_may_work_at_once(bus: Bus) -> None:
    batches = await asyncio.gather(*(publish_all(bus, 10) for _ in range(5)))
    async with bus.subscribe(durable="d", subjects=["mint.test.>"], batch=16) as deliveries:
        assert sorted(await take_and_ack(deliveries, 50)) == sorted(itertools.chain(*batches))


async def test_a_closed_bus_is_unavailable(bus: Bus) -> None:
    await bus.close()
    await bus.close()
    with pytest.raises(Unavailable):
        await bus.publish(message())
