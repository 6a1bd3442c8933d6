"""The memory of resolved names: bounded in time and in size, and never behind what it was told."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.catalog import Resolution
from mint_common.claims import Claim, RevisionRef
from mint_common.ids import BaseName, PolicyId, TenantId, sha256_digest
from services.gateway.core.resolutions import GRACE_SECONDS, ResolutionCache

TENANT, OTHER = TenantId("a"), TenantId("b")


def meaning(policy: str, number: int) -> Resolution:
    claim = Claim(uri="m", sha256="0" * 64, size_bytes=1)
    digest = sha256_digest(f"{policy}{number}".encode())
    return Resolution(
        base=BaseName("tiny"),
        policy_id=PolicyId(f"pol_{policy}"),
        policy_name=policy,
        revision=RevisionRef(digest=digest, number=number, manifest=claim),
    )


def new_cache(*, capacity: int = 8) -> ResolutionCache:
    """Return a cache that knows of no engine, so that every name switches at once."""
    return ResolutionCache(
        capacity=capacity, lease_seconds=5.0, switch_seconds=20.0, is_ready=lambda _: False
    )


def put(cache: ResolutionCache, model: str, found: Resolution, *, ticket: int, now: float = 0.0) -> None:
    cache.put((TENANT, model), found, ticket=ticket, asked_at=now, now=now)


def test_name_is_believed_for_a_lease_and_not_longer() -> None:
    cache = new_cache()
    put(cache, "p", meaning("p", 1), ticket=cache.ask(), now=100.0)
    assert cache.get((TENANT, "p"), now=104.9) == meaning("p", 1)
    assert cache.get((TENANT, "p"), now=104.95) == meaning("p", 1), "a hit does not prolong the lease"
    assert cache.get((TENANT, "p"), now=105.0) is None


def test_name_is_good_for_a_while_without_the_registry_unless_it_is_known_to_have_changed() -> None:
    cache = new_cache()
    for model in ("p", "q"):
        put(cache, model, meaning(model, 1), ticket=cache.ask(), now=100.0)
    assert cache.recent((TENANT, "p"), now=100.0 + GRACE_SECONDS - 0.1) == meaning("p", 1)
    assert cache.recent((TENANT, "p"), now=100.0 + GRACE_SECONDS) is None
    cache.forget(PolicyId("pol_p"), at=101.0)
    cache.withdraw(PolicyId("pol_q"))
    assert [cache.recent((TENANT, model), now=101.0) for model in ("p", "q")] == [None, None]


def test_change_of_a_policy_forgets_all_its_names_and_no_other() -> None:
    cache = new_cache()
    for model in ("p", "p@prod"):
        put(cache, model, meaning("p", 1), ticket=cache.ask())
    put(cache, "q", meaning("q", 1), ticket=cache.ask())
    cache.forget(PolicyId("pol_p"), at=0.0)
    assert [cache.get((TENANT, model), now=0.0) for model in ("p", "p@prod")] == [None, None]
    assert cache.get((TENANT, "q"), now=0.0) == meaning("q", 1)


def test_a_name_with_a_number_or_a_digest_outlives_moves_and_not_its_revision() -> None:
    cache, found = new_cache(), meaning("p", 1)
    assert found.revision is not None
    fixed, moving = ("p@1", f"p@{found.revision.digest}"), ("p", "p@prod", "p@latest", "p@best")
    for model in (*fixed, *moving):
        put(cache, model, found, ticket=cache.ask())
    cache.forget(PolicyId("pol_p"), at=0.0)
    assert all(cache.get((TENANT, model), now=0.0) == found for model in fixed)
    assert all(cache.get((TENANT, model), now=0.0) is None for model in moving)
    cache.withdraw(PolicyId("pol_p"), found.revision.digest)
    assert all(cache.get((TENANT, model), now=0.0) is None for model in fixed)


def test_answer_from_before_a_change_is_not_kept() -> None:
    cache = new_cache()
    ticket = cache.ask()
    cache.forget(PolicyId("pol_p"), at=0.0)
    put(cache, "p", meaning("p", 1), ticket=ticket)
    assert cache.get((TENANT, "p"), now=0.0) is None
    put(cache, "q", meaning("q", 1), ticket=ticket)
    assert cache.get((TENANT, "q"), now=0.0) is not None, "the change was of another policy"


def test_policy_is_forgotten_by_name_for_its_tenant() -> None:
    cache = new_cache()
    put(cache, "p", meaning("p", 1), ticket=cache.ask())
    cache.forget(cache.policy_id(OTHER, "p"), at=0.0)
    assert cache.get((TENANT, "p"), now=0.0) is not None
    cache.forget(cache.policy_id(TENANT, "p"), at=0.0)
    assert cache.get((TENANT, "p"), now=0.0) is None
    put(cache, "p", meaning("p", 2), ticket=cache.ask())
    cache.forget(cache.policy_id(TENANT, "pol_p"), at=0.0)
    assert cache.get((TENANT, "p"), now=0.0) is None


def test_clear_forgets_what_is_known_and_what_is_on_its_way() -> None:
    cache = new_cache()
    put(cache, "p", meaning("p", 1), ticket=cache.ask())
    ticket = cache.ask()
    cache.clear()
    put(cache, "q", meaning("q", 1), ticket=ticket)
    assert len(cache) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "answer", "change"]), st.sampled_from(["p", "q", "r", "s"])),
        max_size=60,
    )
)
def test_no_answer_is_older_than_the_last_change_that_was_told(steps: list[tuple[str, str]]) -> None:
    cache = new_cache(capacity=2)
    truth = dict.fromkeys("pqrs", 1)
    asked: dict[str, tuple[int, Resolution]] = {}
    for step, name in steps:
        if step == "ask":
            asked[name] = (cache.ask(), meaning(name, truth[name]))
        elif step == "answer" and name in asked:
            ticket, answer = asked.pop(name)
            put(cache, name, answer, ticket=ticket)
        elif step == "change":
            truth[name] += 1
            cache.forget(PolicyId(f"pol_{name}"), at=0.0)
        found = cache.get((TENANT, name), now=0.0)
        assert found in (None, meaning(name, truth[name]))
        assert len(cache) <= 2
