"""Beliefs about engines: bounded, and none about a run that is over."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.client.routing import Nearness, ResidencyMap
from mint_common.ids import Digest, EngineId

ENGINE = EngineId("e")
A, B = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)


def known() -> ResidencyMap:
    residency = ResidencyMap()
    residency.correct(ENGINE, "1", [(A, "slot"), (B, "host")])
    return residency


def test_what_the_engine_says_replaces_what_was_believed() -> None:
    residency = known()
    assert residency.nearness(ENGINE, A) is Nearness.SLOT
    assert residency.nearness(ENGINE, B) is Nearness.HOST
    residency.correct(ENGINE, "1", [(B, "stored")])
    assert residency.nearness(ENGINE, A) is Nearness.ABSENT
    assert residency.nearness(ENGINE, B) is Nearness.STORED


def test_an_eviction_leaves_the_adapter_on_the_disk_and_a_failure_leaves_nothing() -> None:
    residency = known()
    assert residency.note(ENGINE, "1", A, Nearness.STORED)
    assert residency.note(ENGINE, "1", B, Nearness.ABSENT)
    assert residency.nearness(ENGINE, A) is Nearness.STORED
    assert residency.nearness(ENGINE, B) is Nearness.ABSENT


def test_news_of_another_run_change_nothing_and_ask_for_the_truth() -> None:
    residency = known()
    assert not residency.note(ENGINE, "2", B, Nearness.SLOT)
    assert not residency.note(ENGINE, "2", A, Nearness.STORED)
    assert not residency.note(EngineId("new"), "1", A, Nearness.SLOT)
    assert residency.nearness(ENGINE, A) is Nearness.SLOT
    assert residency.nearness(EngineId("new"), A) is Nearness.ABSENT


def test_nothing_is_believed_of_an_engine_that_is_forgotten() -> None:
    residency = known()
    residency.forget(ENGINE)
    assert residency.nearness(ENGINE, A) is Nearness.ABSENT
    assert not residency.note(ENGINE, "1", A, Nearness.SLOT)


@given(st.lists(st.tuples(st.integers(0, 99), st.booleans())))
def test_what_is_remembered_is_bounded_whatever_happens(happened: list[tuple[int, bool]]) -> None:
    residency = ResidencyMap(max_per_engine=10)
    residency.correct(ENGINE, "1", [])
    for number, came in happened:
        digest = Digest(f"sha256:{number:064x}")
        if came:
            residency.note(ENGINE, "1", digest, Nearness.SLOT)
            assert residency.nearness(ENGINE, digest) is Nearness.SLOT
        else:
            residency.note(ENGINE, "1", digest, Nearness.ABSENT)
            assert residency.nearness(ENGINE, digest) is Nearness.ABSENT
        remembered = [residency.nearness(ENGINE, Digest(f"sha256:{each:064x}")) for each in range(100)]
        assert sum(each is not Nearness.ABSENT for each in remembered) <= 10
