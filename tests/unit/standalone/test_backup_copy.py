"""Blobs are copied while a stack runs, and tenants delete files."""

from pathlib import Path

from services.standalone.adapters import backup


def test_a_blob_that_goes_while_blobs_are_copied_is_left_out(tmp_path: Path, monkeypatch) -> None:
    source, target = tmp_path / "blobs", tmp_path / "copy"
    source.mkdir()
    kept = source / "kept"
    kept.write_bytes(b"a")
    monkeypatch.setattr(backup, "_files", lambda _: iter([source / "deleted", kept]))
    assert backup.copy_blobs(source, target) == 1
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"kept": b"a"}
