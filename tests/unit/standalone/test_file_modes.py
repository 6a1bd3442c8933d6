"""Files of a stack's own: secrets whose making was cut off, and modes of files that are replaced."""

import os
import stat
from pathlib import Path

from mint_common.new_folder import replace_file
from services.standalone.adapters.file_modes import secret_in


def test_a_secret_has_one_link_though_its_making_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "password"
    made = secret_in(file)
    os.link(file, tmp_path / ".password.cut_off")
    assert secret_in(file) == made
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_nlink == 1


def test_a_replaced_file_keeps_its_mode_and_a_new_one_is_its_owners(tmp_path: Path) -> None:
    shared, new = tmp_path / "shared", tmp_path / "new"
    shared.touch()
    shared.chmod(0o644)
    for file, mode in ((shared, 0o644), (new, 0o600)):
        replace_file(file, b"place")
        assert file.read_bytes() == b"place"
        assert stat.S_IMODE(file.stat().st_mode) == mode
    assert len(list(tmp_path.iterdir())) == 2
