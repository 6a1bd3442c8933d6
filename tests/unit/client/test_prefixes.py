"""Who has read the beginning of a prompt: bounded in bytes, and told to the same tenant alone."""

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from mint_common.client.prefixes import BLOCK_BYTES, READ_BYTES, Beginnings, PrefixMap, lengths_of
from mint_common.ids import BaseName, Digest, TenantId
from mint_common.inference.prompts import prompt_of_body, prompt_of_tokens

TENANT, OTHER = TenantId("tenant"), TenantId("other")
BASE, REVISION = BaseName("tiny"), Digest("sha256:1")
A, B = "engine-a/run", "engine-b/run"


def make(max_bytes: int = 1 << 20) -> PrefixMap:
    return PrefixMap(secret=b"secret", max_bytes=max_bytes)


def beginnings(prefixes: PrefixMap, prompt: bytes, tenant_id: TenantId = TENANT) -> Beginnings:
    return prefixes.beginnings(tenant_id, BASE, REVISION, prompt)


@given(st.integers(0, 3 * READ_BYTES))
def test_lengths_are_few_and_close(size_bytes: int) -> None:
    lengths = lengths_of(size_bytes)
    assert len(lengths) <= 45
    assert lengths == lengths_of(10 * READ_BYTES)[: len(lengths)]
    end = min(size_bytes, READ_BYTES)
    assert not lengths or end - lengths[-1] <= max(BLOCK_BYTES, lengths[-1] / 8)
    assert bool(lengths) == (size_bytes >= BLOCK_BYTES)


@given(st.binary(max_size=4000), st.binary(max_size=4000), st.binary(max_size=4000))
def test_what_is_known_is_what_two_prompts_share(shared: bytes, one: bytes, other: bytes) -> None:
    prefixes = make()
    prefixes.note(beginnings(prefixes, shared + one), A)
    known = prefixes.known_bytes(beginnings(prefixes, shared + other)).get(A, 0)
    first, second = shared + one, shared + other
    assert first[:known] == second[:known]
    longest = max((each for each in lengths_of(len(shared))), default=0)
    assert known >= longest


def test_a_conversation_that_goes_on_is_known_where_it_was_read() -> None:
    prefixes, rng = make(), random.Random(1)
    prompt = rng.randbytes(1000)
    for engine in (A, B):
        prefixes.note(beginnings(prefixes, prompt), engine)
    prompt += rng.randbytes(3000)
    prefixes.note(beginnings(prefixes, prompt), B)
    known = prefixes.known_bytes(beginnings(prefixes, prompt + rng.randbytes(500)))
    assert 0 < known[A] <= 1000 < known[B] <= 4000


def test_another_tenant_base_or_revision_finds_nothing() -> None:
    prefixes, prompt = make(), bytes(4000)
    prefixes.note(beginnings(prefixes, prompt), A)
    asked = [
        prefixes.beginnings(OTHER, BASE, REVISION, prompt),
        prefixes.beginnings(TENANT, BaseName("other"), REVISION, prompt),
        prefixes.beginnings(TENANT, BASE, Digest("sha256:2"), prompt),
        prefixes.beginnings(TENANT, BASE, None, prompt),
    ]
    assert all(prefixes.known_bytes(each) == {} for each in asked)
    stolen = Beginnings(OTHER, beginnings(prefixes, prompt).marks)
    assert prefixes.known_bytes(stolen) == {}
    assert PrefixMap(secret=b"another").beginnings(TENANT, BASE, REVISION, prompt).marks != stolen.marks


def test_memory_is_bounded_in_bytes() -> None:
    rng, max_bytes = random.Random(2), 2 << 20
    prefixes = make(max_bytes)
    prompts = [beginnings(prefixes, rng.randbytes(8000), TenantId(f"t{at % 7}")) for at in range(200)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(5):
        for at, prompt in enumerate(prompts):
            marks = tuple((mark ^ rng.getrandbits(60), length) for mark, length in prompt.marks)
            prefixes.note(Beginnings(prompt.tenant_id, marks), f"engine-{at % 5}/run")
            assert prefixes.size_bytes <= max_bytes
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert prefixes.size_bytes > 0.99 * max_bytes
    assert grown <= max_bytes


def test_a_tenant_s_flood_displaces_its_own() -> None:
    rng = random.Random(3)
    prefixes = make(1 << 19)
    kept = beginnings(prefixes, rng.randbytes(3000), OTHER)
    prefixes.note(kept, A)
    for _ in range(2000):
        prefixes.note(beginnings(prefixes, rng.randbytes(3000)), B)
    assert prefixes.known_bytes(kept)[A] > 2000


def test_a_prompt_larger_than_the_memory_is_forgotten_in_part() -> None:
    prefixes = make(1024)
    prefixes.note(beginnings(prefixes, bytes(20_000)), A)
    assert prefixes.size_bytes <= 1024
    prefixes.note(beginnings(prefixes, bytes(20_000), OTHER), A)
    assert prefixes.size_bytes <= 1024


def test_the_prompt_of_a_body_is_what_its_client_wrote() -> None:
    first = b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "seed": 1}'
    later = b'{"seed": 2, "messages": [{"role": "user", "content": "a"}, {"role": "x"}], "model": "m"}'
    one, other = prompt_of_body(first), prompt_of_body(later)
    assert one == b'[{"role": "user", "content": "a"}]'
    assert other.startswith(one[:-1])
    assert prompt_of_body(b'{"messages": [1], "system": "s"}') == b'"s"[1]', "in the order of templates"
    assert prompt_of_body(b'{"prompt": "abc"}') == b'"abc"'
    for odd in (b"", b"[]", b"{", b"\xff", b'{"prompt": "' + b"a" * (2 << 20) + b'"}'):
        assert prompt_of_body(odd) == b""


def test_the_prompt_of_tokens_is_their_bytes() -> None:
    assert prompt_of_tokens((1, 2, 3), max_bytes=8) == b"\1\0\0\0\2\0\0\0"
    assert prompt_of_tokens((1 << 40,), max_bytes=8) == b""
