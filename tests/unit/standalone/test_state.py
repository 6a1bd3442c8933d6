"""State files, ports, the lock."""

import itertools
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.core.refusals import StackRunningError
from services.standalone.core.state import StackState, assign_ports


@given(
    st.lists(st.text("abc", min_size=1, max_size=3), unique=True),
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 20)),
    st.sets(st.integers(1, 20)),
)
def test_ports_are_free_distinct_and_remembered_while_they_can_be(
    names: list[str], remembered: dict[str, int], busy: set[int]
) -> None:
    fresh = itertools.count(100)
    ports = assign_ports(names, remembered, is_free=lambda port: port not in busy, pick=lambda: next(fresh))
    assert list(ports) == names
    assert len(set(ports.values())) == len(ports)
    assert not busy.intersection(ports.values())
    for name in names:
        kept = remembered.get(name)
        if kept and kept not in busy and list(remembered.values()).count(kept) == 1:
            assert ports[name] == kept


def test_state_survives_a_round_trip(tmp_path: Path) -> None:
    folder = StateFolder(root=tmp_path)
    assert folder.read_state() == StackState()
    state = StackState(ports={"gateway": 8321}, bases=("tiny",))
    folder.write_state(state)
    assert folder.read_state() == state


def test_a_broken_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(InvalidField, match=r"state\.json.*delete it"):
        StateFolder(root=tmp_path).read_state()


def test_secrets_are_made_once_and_are_readable_by_the_owner_only(tmp_path: Path) -> None:
    folder = StateFolder(root=tmp_path)
    secrets = folder.secrets()
    assert secrets == folder.secrets()
    assert secrets.api_key.startswith("tml-")
    assert secrets.internal_token != secrets.api_key
    for name in ("api_key", "internal_token"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_folder_is_locked_for_others_with_the_pid_of_the_holder(tmp_path: Path) -> None:
    folder = StateFolder(root=tmp_path)
    assert folder.running_pid() is None
    with folder.taken():
        assert folder.running_pid() == os.getpid()
        code = (
            "import sys; from pathlib import Path; from services.standalone.adapters.state_folder import *\n"
            "with StateFolder(root=Path(sys.argv[1])).taken(): pass"
        )
        second = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert second.returncode != 0
        assert StackRunningError.__name__ in second.stderr
        assert f"pid {os.getpid()}" in second.stderr
    assert folder.running_pid() is None
