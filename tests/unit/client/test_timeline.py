"""One list of several services' entries: its order, and that pages lose and repeat nothing."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.timeline import END, TimelineEntry, merge_timelines, place_text, read_place

MOMENTS = st.tuples(st.integers(0, 10**16 - 1), st.sampled_from("abcxyz"))


def entry_at(microseconds: int, name: str) -> TimelineEntry:
    place = place_text(microseconds, name)
    return TimelineEntry(place=place, at=microseconds / 1e6, kind="alias.moved", subject=name)


def page_of(entries: list[TimelineEntry], before: str | None, limit: int) -> list[TimelineEntry]:
    """Return a page as a service does: by time, then by id, below a place."""
    place = read_place(before)
    bound = (place.microseconds, place.entry_id)

    def key(entry: TimelineEntry) -> tuple[int, str]:
        own = read_place(entry.place)
        return own.microseconds, own.entry_id

    return sorted((entry for entry in entries if key(entry) < bound), key=key, reverse=True)[:limit]


@given(st.sets(MOMENTS, max_size=30), st.integers(1, 7), st.randoms())
def test_pages_of_several_services_are_one_list(moments, limit, random):
    entries = [entry_at(*moment) for moment in moments]
    services = [[], [], []]
    for entry in entries:
        random.choice(services).append(entry)
    whole, before = [], None
    while page := merge_timelines([page_of(one, before, limit) for one in services], limit=limit):
        assert len(page) <= limit
        whole += page
        before = page[-1].place
    assert whole == page_of(entries, None, len(entries))


@given(MOMENTS)
def test_a_place_is_read_as_it_was_written(moment):
    place = read_place(place_text(*moment))
    assert (place.microseconds, place.entry_id) == moment
    assert place_text(*moment) <= place_text(END.microseconds, "~")
