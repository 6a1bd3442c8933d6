"""The engines of a base that answer now, and the choice among many of them."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mint_common.client.choice import MANY_ENGINES, EngineChoice, RoutedRequest
from mint_common.client.prefixes import Beginnings
from mint_common.client.routing import HOT_LOAD, Nearness
from mint_common.client.serving import KnownEngines, ServingEngines
from mint_common.generation import EngineInfo
from mint_common.homes import homes_of
from mint_common.ids import BaseName, Digest, EngineId, TenantId

BASE = BaseName("tiny")
DIGESTS = [Digest(f"sha256:{number:064x}") for number in range(500)]
ENGINE = EngineInfo(
    engine_id=EngineId("engine"),
    epoch="first",
    base=BASE,
    base_digest=Digest(f"sha256:{0:064x}"),
    max_context=512,
    vocab_size=1024,
    eos_token_id=0,
    slots=8,
    host_capacity=64,
    dtype="float32",
)


def engine(number: int) -> EngineInfo:
    return replace(ENGINE, engine_id=EngineId(f"engine-{number}"))


def fleet(count: int) -> ServingEngines:
    return ServingEngines({f"http://10.0.0.{number}:1": engine(number) for number in range(count)})


MANY = fleet(4 * MANY_ENGINES)
HOLDERS = st.lists(st.sampled_from(MANY.urls), unique=True, max_size=12)


def first(choice: EngineChoice, request: RoutedRequest) -> str:
    return choice.order(MANY, request)[0]


@given(HOLDERS, st.sampled_from(DIGESTS))
def test_of_many_engines_one_that_has_the_adapter_answers_else_its_first_home(holders, digest) -> None:
    choice = EngineChoice()
    for url in holders:
        choice.residency.correct(MANY.infos[url].engine_id, "first", [(digest, "slot")])
    home = homes_of(digest, [each.engine_id for each in MANY.infos.values()], count=1)[0]
    assert first(choice, RoutedRequest(digest=digest)) in (holders or [MANY.url_of(home)])


def test_a_hot_adapter_s_requests_are_shared_by_all_that_have_it_and_then_by_others() -> None:
    choice, digest = EngineChoice(), DIGESTS[0]
    holders = MANY.urls[:20]
    for url in holders:
        choice.residency.correct(MANY.infos[url].engine_id, "first", [(digest, "slot")])
    served = Counter[str]()
    for _ in range(len(holders) * HOT_LOAD):
        url = first(choice, RoutedRequest(digest=digest))
        choice.begin(url, RoutedRequest(digest=digest))
        served[url] += 1
    assert set(holders) <= served.keys()
    assert max(served.values()) <= 1.5 * HOT_LOAD
    assert sum(served[url] for url in holders) >= 0.8 * served.total()


def test_the_engine_that_read_a_prompt_is_found_among_many() -> None:
    choice = EngineChoice()
    request = RoutedRequest(beginnings=Beginnings(TenantId("t"), ((1, 256),)))
    info = MANY.infos[MANY.urls[37]]
    choice.note_served(info, request, None)
    assert {first(choice, request) for _ in range(100)} == {MANY.urls[37]}
    other = RoutedRequest(beginnings=Beginnings(TenantId("t"), ((2, 256),)))
    assert len({first(choice, other) for _ in range(100)}) > 1


def test_what_an_engine_holds_is_forgotten_with_it() -> None:
    residency = EngineChoice().residency
    one, other = EngineId("one"), EngineId("other")
    residency.correct(one, "a", [(DIGESTS[0], "slot"), (DIGESTS[1], "host")])
    residency.correct(other, "a", [(DIGESTS[0], "host")])
    assert residency.holders(DIGESTS[0]) == {one: Nearness.SLOT, other: Nearness.HOST}
    residency.correct(one, "b", [(DIGESTS[2], "host")])
    assert [[*residency.holders(each)] for each in DIGESTS[:3]] == [[other], [], [one]]
    assert residency.note(other, "a", DIGESTS[0], Nearness.ABSENT)
    assert residency.note(other, "a", DIGESTS[0], Nearness.ABSENT)
    residency.forget(one)
    residency.forget(one)
    assert [residency.holders(each) for each in DIGESTS[:3]] == [{}, {}, {}]


def test_engines_of_a_base_are_those_that_are_known_now() -> None:
    aliases = set[str]()
    known = KnownEngines(lambda url, _: url in aliases)
    assert known.serving(BASE).urls == ()
    for number in range(3):
        known.learn(f"http://{number}", engine(number))
    known.learn("http://other", replace(ENGINE, base=BaseName("another")))
    assert known.serving(BASE).urls == ("http://0", "http://1", "http://2")
    assert known.serving(BASE) is known.serving(BASE)
    known.learn("http://1", replace(engine(1), epoch="second"))
    assert known.serving(BASE).infos["http://1"].epoch == "second"
    assert known.forget("http://0") == engine(0)
    assert known.forget("http://0") is None
    aliases.add("http://2")
    known.members_changed()
    assert known.serving(BASE).urls == ("http://1",)
