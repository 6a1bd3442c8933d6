"""The homes of an adapter: the same for all, balanced, and moved as little as possible."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from unit.client.test_members import member

from mint_common.client.routing import Option, order_engines
from mint_common.homes import Rendezvous, engines_at_home, homes_of, weight_of
from mint_common.ids import Digest, EngineId
from mint_common.members import LEASE_SECONDS
from tests.testing.factories import BASE

ENGINES = [EngineId(f"engine-{number}") for number in range(40)]
DIGESTS = [Digest(f"sha256:{number:064x}") for number in range(4000)]

engines = st.lists(st.sampled_from(ENGINES), unique=True, min_size=1)
digests = st.integers(0, 2**64).map(lambda number: Digest(f"sha256:{number:064x}"))
counts = st.integers(1, 6)


@given(engines, digests, counts, st.randoms())
def test_all_find_the_same_homes(known, digest, count, rng) -> None:
    homes = homes_of(digest, known, count=count)
    assert len(homes) == len(set(homes)) == min(count, len(known))
    assert set(homes) <= set(known)
    rng.shuffle(known)
    assert homes_of(digest, known, count=count) == homes


@given(engines, digests, counts)
def test_an_engine_that_joins_takes_one_place_at_most_and_leaves_it_to_the_next(known, digest, count) -> None:
    before = homes_of(digest, known, count=count)
    newcomer = EngineId("newcomer")
    joined = homes_of(digest, [*known, newcomer], count=count)
    assert [each for each in joined if each != newcomer] == list(before[: len(joined) - (newcomer in joined)])
    assert homes_of(digest, known, count=count) == before


@given(engines, digests, counts)
def test_an_engine_that_is_no_home_leaves_without_a_move(known, digest, count) -> None:
    homes = homes_of(digest, known, count=count)
    left = [each for each in known if each in homes]
    assert homes_of(digest, left, count=count) == homes


@given(engines, digests)
def test_a_request_for_an_unloaded_adapter_goes_to_its_first_home(known, digest) -> None:
    options = [Option(name=f"http://10.0.0.1:{at}", engine_id=each) for at, each in enumerate(known)]
    ordered = [option.engine_id for option in order_engines(options, digest)]
    assert ordered == list(homes_of(digest, known, count=len(known)))


@given(engines, digests, counts)
def test_weights_together_are_those_of_one_engine_each(known, digest, count) -> None:
    ranked = sorted(known, key=lambda each: -weight_of(each, digest))
    assert Rendezvous(known).first(digest, count) == tuple(ranked[:count])


def test_without_engines_there_are_no_homes() -> None:
    assert Rendezvous([]).first("sha256:0", 2) == ()


def test_engines_have_equal_shares_and_only_a_lost_one_s_share_moves() -> None:
    known = ENGINES[:20]
    before = {digest: homes_of(digest, known, count=2) for digest in DIGESTS}
    shares = Counter(home for homes in before.values() for home in homes)
    mean = 2 * len(DIGESTS) / len(known)
    assert max(shares.values()) < 1.2 * mean
    assert min(shares.values()) > 0.8 * mean
    moved = 0
    for digest, homes in before.items():
        after = homes_of(digest, known[1:], count=2)
        moved += len(set(after) - set(homes))
        assert len(set(homes) & set(after)) >= 1, "a second home is ready when the first one is lost"
    assert moved == shares[known[0]]


def test_only_engines_of_the_base_that_take_requests_are_homes() -> None:
    fleet = [
        member("http://a:1", name="ready"),
        member("http://b:1", name="starting", state="starting"),
        member("http://c:1", name="draining", state="draining"),
        member("http://d:1", name="silent", silent_seconds=LEASE_SECONDS + 1),
        member("http://e:1", name="of-another-base", base="another"),
        member("http://f:1", name="trainer", kind="trainer"),
    ]
    assert engines_at_home(fleet, BASE) == {"ready"}
