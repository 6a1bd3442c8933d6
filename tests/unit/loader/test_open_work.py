"""What a tenant has open at the engine is bounded, and leaves room for who comes next."""

from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField, Overloaded
from services.loader.core.open_work import OpenWork


def work(**bounds: int) -> OpenWork:
    return OpenWork(**{"max_requests": 512, "max_sequences": 100, "max_tokens": 1000, **bounds})


def open_one(counted: OpenWork, tenant: str) -> ExitStack | None:
    with ExitStack() as stack, suppress(Overloaded):
        stack.enter_context(counted.request(tenant))
        return stack.pop_all()
    return None


def open_all(counted: OpenWork, tenant: str, stack: ExitStack) -> int:
    """Open requests until one is refused; return how many."""
    opened = 0
    while (one := open_one(counted, tenant)) is not None:
        stack.push(one.__exit__)
        opened += 1
    return opened


def test_one_tenant_alone_opens_three_quarters() -> None:
    with ExitStack() as stack:
        assert open_all(work(), "a", stack) == 384


def test_whoever_comes_after_some_who_open_all_they_can_still_opens_a_request() -> None:
    counted = work()
    with ExitStack() as stack:
        assert [open_all(counted, tenant, stack) for tenant in "abcd"] == [384, 96, 24, 6]
        with counted.request("e"):
            pass
    assert counted.requests == 0


@given(st.integers(2, 8))
def test_requests_end_up_shared_evenly(tenants: int) -> None:
    counted = work()
    held: dict[str, list[ExitStack]] = {f"t{number}": [] for number in range(tenants)}
    for _ in range(60):  # all open one after the other as long as anybody may, then end an eighth
        is_open = True
        while is_open:
            opened = {tenant: open_one(counted, tenant) for tenant in held}
            is_open = any(opened.values())
            for tenant, one in opened.items():
                held[tenant] += [one] if one is not None else []
        for ended in held.values():
            for stack in ended[: len(ended) // 8 + 1]:
                stack.close()
            del ended[: len(ended) // 8 + 1]
    counts = [len(each) for each in held.values()]
    assert max(counts) <= 1.2 * min(counts) + 2


def test_completions_and_tokens_are_bounded_by_tenant() -> None:
    counted = work()
    with counted.work("a", sequences=60, tokens=600):
        with pytest.raises(Overloaded, match="completions"), counted.work("a", sequences=41, tokens=1):
            pass
        with pytest.raises(Overloaded, match="tokens"), counted.work("a", sequences=1, tokens=401):
            pass
        with counted.work("b", sequences=100, tokens=1000):
            pass
        with counted.work("a", sequences=40, tokens=400):
            pass
    with counted.work("a", sequences=100, tokens=1000):
        pass


@pytest.mark.parametrize(("sequences", "tokens"), [(101, 1), (1, 1001)])
def test_what_can_never_be_counted_in_is_refused_for_good(sequences: int, tokens: int) -> None:
    with (
        pytest.raises(InvalidField, match="send fewer"),
        work().work("a", sequences=sequences, tokens=tokens),
    ):
        pass


def test_what_fails_is_counted_out() -> None:
    counted = work(max_sequences=1)
    with pytest.raises(KeyError), counted.request("a"), counted.work("a", sequences=1, tokens=1):
        raise KeyError
    assert counted.requests == 0
    with counted.work("a", sequences=1, tokens=1):
        pass
