"""Engines on one cache volume have numbers of their own, which are free again however an engine ends."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from services.loader.adapters.numbering import numbered

HOLD = """
import sys
from pathlib import Path
from services.loader.adapters.numbering import numbered

with numbered("loader-*", Path(sys.argv[1])) as (name, _):
    print(name, flush=True)
    sys.stdin.read()
"""


def test_each_engine_has_the_lowest_free_number_and_a_folder_of_its_own(tmp_path: Path) -> None:
    cache = tmp_path / "volume/cache"
    with ExitStack() as engines:
        first = ExitStack()
        assert first.enter_context(numbered("loader-*", cache)) == ("loader-1", cache)
        assert engines.enter_context(numbered("loader-*", cache)) == ("loader-2", cache.with_name("cache-2"))
        assert engines.enter_context(numbered("loader-*", cache)) == ("loader-3", cache.with_name("cache-3"))
        first.close()
        assert engines.enter_context(numbered("loader-*", cache)) == ("loader-1", cache)


def test_a_killed_engine_leaves_its_number_and_its_folder_to_the_next(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", HOLD, str(cache)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == "loader-1\n"
        with numbered("loader-*", cache) as second:
            assert second == ("loader-2", cache.with_name("cache-2"))
        held.kill()
    with numbered("loader-*", cache) as again:
        assert again == ("loader-1", cache)


def test_a_given_name_is_kept(tmp_path: Path) -> None:
    with numbered("loader-a", tmp_path / "cache") as one, numbered("loader-a", tmp_path / "cache") as two:
        assert one == two == ("loader-a", tmp_path / "cache")
    with numbered("", tmp_path / "cache") as unnamed:
        assert unnamed == ("", tmp_path / "cache")
