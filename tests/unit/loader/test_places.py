"""Where adapters are is encoded once for each change, and sent once to each client that keeps it."""

from fastapi import FastAPI, Response

from mint_common.client.engine import EngineClient
from mint_common.client.http import InternalHttp
from mint_common.generation import Place
from mint_common.ids import Digest
from services.loader.http import MAX_PLACES, Places
from tests.security.raw_http import serving


async def test_a_client_is_sent_what_has_changed_alone():
    tiers: dict[Digest, Place] = {Digest("a"): "slot", Digest("b"): "host"}
    sent, http = [], FastAPI()
    engine = [Places(lambda _limit: tiers, epoch="e1")]

    @http.get("/internal/adapters")
    async def adapters(known: str) -> Response:
        answer = engine[0].since(known)
        sent.append(answer)
        return Response(answer, media_type="application/json")

    async with serving(http) as server, InternalHttp(f"http://127.0.0.1:{server.port}", token="t") as peer:
        client = EngineClient(peer)
        for _ in range(3):
            assert list((await client.places(limit=MAX_PLACES)).items()) == [("a", "slot"), ("b", "host")]
        assert [b"null" in each for each in sent] == [False, True, True]
        tiers = {Digest("b"): "slot", Digest("a"): "host"}
        assert list(await client.places(limit=MAX_PLACES)) == ["b", "a"]
        tiers = {Digest("a"): "host", Digest("b"): "slot"}  # in another order: no change
        await client.places(limit=MAX_PLACES)
        assert [b"null" in each for each in sent[3:]] == [False, True]
        engine[0] = Places(lambda _limit: {}, epoch="e2")
        assert await client.places(limit=MAX_PLACES) == {}


async def test_a_loader_that_knows_no_versions_is_understood():
    http = FastAPI()
    ready = {"digest": "a", "tier": "host", "readiness": "ready", "pinned": False, "in_flight": 0}
    ready |= {"size_bytes": 1, "last_used_at": 0, "load_seconds": 0}

    @http.get("/internal/adapters")
    async def adapters() -> list[dict[str, object]]:
        return [ready, ready | {"digest": "b", "readiness": "prewarming"}]

    async with serving(http) as server, InternalHttp(f"http://127.0.0.1:{server.port}", token="t") as peer:
        assert await EngineClient(peer).places(limit=MAX_PLACES) == {"a": "host"}
