"""Blobs are copied while a stack runs, and tenants delete files."""

from pathlib import Path

import pytest

from mint_common.errors import SettingInvalid
from services.standalone.adapters import backup


def test_a_blob_that_goes_while_blobs_are_copied_is_left_out(tmp_path: Path, monkeypatch) -> None:
    source, target = tmp_path / "blobs", tmp_path / "copy"
    source.mkdir()
    kept = source / "kept"
    kept.write_bytes(b"a")
    monkeypatch.setattr(backup, "_files", lambda _: iter([source / "deleted", kept]))
    assert backup.copy_blobs(source, target) == 1
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"kept": b"a"}


def test_an_address_that_is_none_of_postgres_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="MINT_POSTGRES_DSN: invalid DSN"):
        backup.back_up("mysql://localhost/mint", tmp_path / "blobs", tmp_path / "backup")
    assert list(tmp_path.iterdir()) == []


def test_a_password_that_does_not_stand_in_an_address_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match=r"percent-encoded$") as refused:
        backup.back_up("postgresql://mint:hush/hush@localhost/mint", tmp_path / "blobs", tmp_path / "backup")
    assert refused.value.__cause__ is None
