"""Numbers for engines that share a cache volume, as the replicas of one compose service do."""

import fcntl
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def numbered(name: str, cache_dir: Path) -> Iterator[tuple[str, Path]]:
    """Yield an engine's own name and cache folder.

    For a name that ends in ``*`` the engine takes the lowest number that no other has, and holds its lock
    until the process ends, however it ends. Number 1 has the cache folder itself, the others one beside it.
    """
    if not name.endswith("*"):
        yield name, cache_dir
        return
    cache_dir.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = cache_dir if number == 1 else _beside(cache_dir, f"-{number}")
        with _beside(folder, ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield f"{name[:-1]}{number}", folder
            return


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)
