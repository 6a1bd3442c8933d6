"""A tar that arrives is written whole, or nothing of it is."""

import hashlib
import io
import tarfile
from collections.abc import Iterator

import pytest

from mint_client.adapters.arriving_tar import read_adapter, read_model
from mint_client.core.refusals import LocalFailureError

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w" * 3_000_000}


def tar_of(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), kind
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sparse_tar() -> bytes:
    """Return a tar whose weights are one byte, and a gap that costs no bytes in the tar."""
    gap = len(FILES["adapter_model.safetensors"]) - 1
    content = {**FILES, "adapter_model.safetensors": b"w"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name == "adapter_model.safetensors":
                info.pax_headers = {"GNU.sparse.map": f"0,1,{gap + 1},0", "GNU.sparse.size": str(gap + 1)}
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue() + bytes(4_000_000)


def told(files: dict[str, bytes]) -> dict[str, str]:
    return {
        "x-mint-sha256": ", ".join(
            f"{name}={hashlib.sha256(each).hexdigest()}" for name, each in files.items()
        )
    }


def parts(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


@pytest.mark.parametrize("size", [100, 65_536, 10_000_000])
def test_a_tar_becomes_a_folder(tmp_path, size) -> None:
    content, seen = tar_of(FILES), []
    headers = {**told(FILES), "content-length": str(len(content))}
    read_adapter(parts(content, size), headers, tmp_path / "a" / "b", lambda *now: seen.append(now))
    assert {path.name: path.read_bytes() for path in (tmp_path / "a/b").iterdir()} == FILES
    assert seen[-1][0] <= seen[-1][1] == len(content)


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (tar_of(FILES)[:-12_000], told(FILES)),
        (tar_of(FILES)[:2_000_000], told(FILES)),
        (tar_of({**FILES, "adapter_config.json": b"[]"}), told(FILES)),
        (tar_of({"adapter_config.json": b"{}"}), told({"adapter_config.json": b"{}"})),
        (tar_of({**FILES, "../x": b""}), told(FILES)),
        (tar_of({**FILES, "more": b""}), told(FILES)),
        (tar_of(FILES, tarfile.SYMTYPE), told(FILES)),
        (tar_of(FILES), {}),
        (tar_of(FILES), {**told(FILES), "content-length": "100000"}),
        (sparse_tar(), told({**FILES, "adapter_model.safetensors": b"w" + bytes(2_999_999)})),
        (b"<html>" * 1000, told(FILES)),
        (b"", told(FILES)),
    ],
)
def test_what_is_no_adapter_leaves_nothing(tmp_path, content, headers) -> None:
    headers = {"content-length": str(len(content)), **headers}
    with pytest.raises(LocalFailureError):
        read_adapter(parts(content, 65_536), headers, tmp_path / "a", lambda *_: None)
    assert not list(tmp_path.iterdir())


INDEX = b'{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
MODEL = {
    "config.json": b"{}",
    "model.safetensors.index.json": INDEX,
    "1.safetensors": b"w" * 30_000,
    "2.safetensors": b"w" * 30_000,
}


def test_a_model_with_all_of_its_weights_becomes_a_folder(tmp_path) -> None:
    content = tar_of(MODEL)
    read_model(parts(content, 1000), len(content), tmp_path / "a", lambda *_: None)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == MODEL


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors.index.json", "2.safetensors"])
def test_a_model_without_one_of_its_files_leaves_nothing(tmp_path, missing: str) -> None:
    content = tar_of({name: data for name, data in MODEL.items() if name != missing})
    with pytest.raises(LocalFailureError):
        read_model(parts(content, 1000), len(content), tmp_path / "a", lambda *_: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [-512, 512])
def test_a_model_of_another_size_leaves_nothing(tmp_path, more: int) -> None:
    content = tar_of(MODEL)
    with pytest.raises(LocalFailureError):
        read_model(parts(content, 1000), len(content) + more, tmp_path / "a", lambda *_: None)
    assert not list(tmp_path.iterdir())
