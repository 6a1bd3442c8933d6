"""Tar archives from strangers: plain files come out whole, everything else is refused by name."""

import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.adapters_format import Reason
from mint_common.errors import UploadRefused
from mint_common.uploads import FIXES, UploadReason
from services.registry.core.tar import FileBegins, FilePart, TarReader
from services.registry.core.uploads import check_file, check_first_bytes

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def tar_of(
    *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, form: int = tarfile.PAX_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.mtime = len(data), kind, 1.5
            info.linkname = "/etc/passwd" if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE} else ""
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(data: bytes, *, chunk: int = 700) -> dict[str, bytes]:
    reader, files, name = TarReader(), {}, ""
    for start in range(0, len(data), chunk):
        for event in reader.feed(data[start : start + chunk]):
            if isinstance(event, FileBegins):
                name = event.name
                files[name] = b""
            elif isinstance(event, FilePart):
                files[name] += event.data
    reader.finish()
    return files


def reason_of(data: bytes) -> str:
    with pytest.raises(UploadRefused) as error:
        read(data)
    return str(error.value.reason)


@given(
    st.binary(max_size=3000),
    st.binary(max_size=600),
    st.integers(1, 5000),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]),
)
def test_files_come_out_whole_however_they_arrive(
    weights: bytes, config: bytes, chunk: int, form: int
) -> None:
    data = tar_of((WEIGHTS, weights), (f"./{CONFIG}", config), form=form)
    assert read(data, chunk=chunk) == {WEIGHTS: weights, CONFIG: config}


@given(st.binary(max_size=2000))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with suppress(UploadRefused):
        read(data)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_no_changed_byte_breaks_the_reader(place: int, value: int) -> None:
    data = bytearray(tar_of((WEIGHTS, b"w" * 900), (CONFIG, b"{}")))
    data[place % len(data)] = value
    with suppress(UploadRefused):
        assert not [name for name in read(bytes(data)) if "/" in name]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.FIFOTYPE, "unsafe_archive"),
        (tarfile.CHRTYPE, "unsafe_archive"),
    ],
)
def test_link_or_device_is_refused(kind: bytes, reason: str) -> None:
    assert reason_of(tar_of((WEIGHTS, b""), kind=kind)) == reason


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/b", "..", "a/../b", "a\\b", "x" * 150, "ü" * 80])
def test_name_outside_its_folder_is_refused(name: str) -> None:
    assert reason_of(tar_of((name, b"data"))) in {"traversal", "unsafe_archive"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(1024),
        b"\x1f\x8b" + bytes(200),
        b"\x1f\x8b" + bytes(2000),
        b"PK\x03\x04" + bytes(100),
        b"hello",
        b"x" * 5000,
        tar_of((WEIGHTS, b"w" * 900))[:700],
    ],
)
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    assert reason_of(data) == "not_tar"


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("adapter_model.bin", 1, "pickle"),
        ("optimizer.pt", 1, "pickle"),
        ("README.md", 1, "unknown_file"),
        (WEIGHTS, 10**12, "too_large"),
        (CONFIG, 2 << 20, "too_large"),
    ],
)
def test_file_is_refused_by_its_name_and_size(name: str, size: int, reason: str) -> None:
    with pytest.raises(UploadRefused) as error:
        check_file(name, size, seen=())
    assert error.value.reason == reason


def test_pickle_under_another_name_is_refused() -> None:
    for data in (b"PK\x03\x04\x14\x00\x08\x08", b"\x80\x04\x95\x10\x00\x00\x00\x01"):
        with pytest.raises(UploadRefused, match="holds a pickle") as error:
            check_first_bytes(data)
        assert error.value.code == "upload_refused.disguised_pickle"
    for length in (0x280, 0x4B50, 5_200_000):
        check_first_bytes(length.to_bytes(8, "little"))


def test_every_reason_has_a_fix() -> None:
    assert {*Reason, *UploadReason} == FIXES.keys()
