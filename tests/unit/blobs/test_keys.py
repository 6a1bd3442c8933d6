"""Keys: what passes is a plain relative path on every file system and in every URL."""

from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from mint_common.blobs.port import MAX_KEY_LENGTH, check_key, check_prefix
from mint_common.errors import InvalidField

parts = st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True).filter(lambda part: part not in {".", ".."})
keys = st.lists(parts, min_size=1, max_size=5).map("/".join)


@given(keys)
def test_a_path_of_plain_parts_is_a_key(key: str) -> None:
    assert "/".join(check_key(key)) == key


@given(st.text(max_size=30) | st.text("./aA~\\%\0", max_size=12))
def test_a_key_that_passes_never_leads_elsewhere(key: str) -> None:
    try:
        found = check_key(key)
    except InvalidField:
        return
    assert key.isascii()
    assert len(key) <= MAX_KEY_LENGTH
    path = PurePosixPath(key)
    assert not path.is_absolute()
    assert path.parts == found
    assert str(path) == key
    assert ".." not in path.parts


@given(keys, st.data())
def test_every_beginning_of_a_key_is_a_prefix(key: str, data: st.DataObject) -> None:
    prefix = key[: data.draw(st.integers(0, len(key)))]
    folders = check_prefix(prefix)
    assert prefix.startswith("/".join(folders))


@given(st.text("./aA~\\%\0", max_size=12))
def test_a_prefix_that_passes_names_only_plain_folders(prefix: str) -> None:
    try:
        folders = check_prefix(prefix)
    except InvalidField:
        return
    assert all(folder not in {"", ".", ".."} for folder in folders)
