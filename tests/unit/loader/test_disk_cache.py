"""The disk cache stays within its size, and keeps what the engine may read again."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.ids import Digest
from services.loader.core.disk_cache import StoredAdapter, plan_trim


def entry(number: int, size: int) -> StoredAdapter:
    return StoredAdapter(digest=Digest(f"sha256:{number:064x}"), size_bytes=size, touched=float(number))


def test_the_least_recently_used_goes_first() -> None:
    stored = [entry(2, 10), entry(0, 10), entry(1, 10)]
    assert plan_trim(stored, capacity_bytes=15, keep=()) == (entry(0, 0).digest, entry(1, 0).digest)


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 200), st.sets(st.integers(0, 19)))
def test_what_is_kept_fits_unless_all_of_it_must_stay(sizes: list[int], bound: int, kept: set[int]) -> None:
    stored = [entry(number, size) for number, size in enumerate(sizes)]
    keep = {entry(number, 0).digest for number in kept}
    gone = plan_trim(stored, capacity_bytes=bound, keep=keep)
    left = [other for other in stored if other.digest not in gone]
    assert not keep & set(gone)
    assert sum(other.size_bytes for other in left) <= bound or all(other.digest in keep for other in left)
