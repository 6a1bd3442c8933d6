"""Changes of adapters' places are numbered, and sent alone to a client that knows the number before them."""

import random

from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from mint_common.client.engine import EngineClient
from mint_common.client.http import InternalHttp
from mint_common.client.routing import NEARNESS, Nearness, ResidencyMap
from mint_common.generation import AdapterPlaces, Place
from mint_common.ids import Digest, EngineId
from services.loader.http import MAX_PLACES, Places
from tests.security.raw_http import serving

ENGINE = EngineId("e")
PLACES: tuple[Place, ...] = ("stored", "host", "slot")
A, B = Digest("a"), Digest("b")


def test_a_client_is_sent_what_has_changed_alone() -> None:
    now: dict[Digest, Place] = {A: "slot", B: "host"}
    places = Places(lambda _limit: now, epoch="e1")
    first = places.since("")
    assert first.whole
    assert list(first.places.items()) == [(A, "slot"), (B, "host")]
    assert places.since(first.version) == AdapterPlaces(version=first.version, whole=False, places={})
    now[B] = "slot"
    second = places.since(first.version)
    assert not second.whole
    assert second.places == {B: "slot"}
    del now[A]
    assert places.since(second.version).places == {A: None}
    assert places.since(first.version).places == {B: "slot", A: None}


def test_all_places_are_sent_after_a_gap_and_to_a_client_of_another_run() -> None:
    now: dict[Digest, Place] = {}
    places = Places(lambda _limit: now, epoch="e1")
    first = places.since("").version
    assert not places.since(first).whole
    for number in range(MAX_PLACES + 1):
        now = {Digest(f"{number}"): "host"}
        places.since(first)
    assert places.since(first) == AdapterPlaces(version=f"e1-{MAX_PLACES + 1}", whole=True, places=dict(now))
    kept = sum(map(len, places._changes.values()))
    assert 0 < kept <= MAX_PLACES
    for unknown in ("e2-1", "e1-", "e1-9999999", "e1-" + "9" * 5000, "\x00"):
        assert places.since(unknown).whole


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60))
def test_a_map_that_follows_changes_equals_one_that_is_told_all(seed: int, count: int) -> None:
    drawn = random.Random(seed)
    now: dict[Digest, Place] = {}
    places, epoch = Places(lambda _limit: now, epoch="e1"), "e1"
    following = ResidencyMap()
    for step in range(count):
        for _ in range(drawn.randrange(6)):
            digest = Digest(f"{drawn.randrange(20)}")
            if drawn.random() < 0.3:
                now.pop(digest, None)
            else:
                now[digest] = drawn.choice(PLACES)
        if drawn.random() < 0.1:
            epoch = f"e{step + 2}"
            places = Places(lambda _limit: now, epoch=epoch)
        if drawn.random() < 0.1:
            following.forget(ENGINE)
        if drawn.random() < 0.7:
            following.follow(ENGINE, epoch, places.since(following.version(ENGINE, epoch)))
            expected = {digest: NEARNESS[place] for digest, place in now.items()}
            for number in range(20):
                digest = Digest(f"{number}")
                assert following.nearness(ENGINE, digest) is expected.get(digest, Nearness.ABSENT)


def test_all_places_are_asked_for_now_and_then_as_late_events_may_mislead() -> None:
    places = Places(lambda _limit: {A: "slot"}, epoch="e1")
    following = ResidencyMap()
    following.follow(ENGINE, "e1", places.since(""))
    following.note(ENGINE, "e1", A, Nearness.STORED)  # an event from before
    asked = []
    while following.nearness(ENGINE, A) is not Nearness.SLOT:
        asked.append(following.version(ENGINE, "e1"))
        following.follow(ENGINE, "e1", places.since(asked[-1]))
    assert asked[-1] == ""
    assert 10 < len(asked) < 30
    assert "" not in asked[:-1]


async def test_a_loader_that_numbers_no_changes_is_understood() -> None:
    http = FastAPI()
    ready = {"digest": "a", "tier": "host", "readiness": "ready", "pinned": False, "in_flight": 0}
    ready |= {"size_bytes": 1, "last_used_at": 0, "load_seconds": 0}

    @http.get("/internal/adapters")
    async def adapters() -> list[dict[str, object]]:
        return [ready, ready | {"digest": "b", "readiness": "prewarming"}]

    async with serving(http) as server, InternalHttp(f"http://127.0.0.1:{server.port}", token="t") as peer:
        told = await EngineClient(peer).places(since="e1-1", limit=MAX_PLACES)
    assert told == AdapterPlaces(version="", whole=True, places={A: "host"})
